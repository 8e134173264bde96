"""Methods by name, and the rows of their tables."""

import dataclasses
import inspect
import subprocess
import sys

import pytest
import yaml

from experiment.methods import METHODS, PAPER, load_method
from experiment.presets import load_presets, load_row, row_of
from solvers.data_term import DataTerm
from solvers.init import Smooth
from solvers.method import Row
from solvers.preset import Preset, Restarts
from util.files import UserError


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_its_generator_and_every_row_of_its_table(name):
    method = load_method(name)
    assert method.name == name and list(inspect.signature(method.solver).parameters) == [
        "g",
        "operator",
        "y",
        "z_0",
        "h",
        "on_step",
        "state",
    ]
    for preset, table in load_presets(name).items():
        for row in table:
            h = load_row(method, row, preset)
            kind = method.row if issubclass(method.row, Row) else Preset
            assert isinstance(h, kind)


def test_an_unknown_method_is_one_line():
    with pytest.raises(UserError, match="'dmlio'.*dmilo, dmilo-pgd"):
        load_method("dmlio")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("key", ["restarts", "lr_y"])
def test_a_key_that_a_method_does_not_use_is_refused(workspace, name, key):
    if key == "restarts" and name in PAPER:
        return
    path = workspace / f"configs/{name}.yaml"
    presets = yaml.safe_load(path.read_text())
    preset = next(preset for preset in presets if preset != "extends")
    row = next(iter(presets[preset]))
    presets[preset][row][key] = []
    path.write_text(yaml.safe_dump(presets))
    with pytest.raises(UserError, match=f"{key} is not a known key"):
        load_row(load_method(name), row, preset)


ROW = "init: {kind: smooth},\n     restarts: {stages: [4, 5], inner: 20}"
TERM = "data_term: {target_variance: 0.01}"
BAD = [
    (ROW, ROW.replace("smooth", "smoth"), "init.kind is 'smoth'"),
    (ROW, ROW.replace("smooth", "annealed"), "init.steps is missing"),
    (ROW, ROW.replace("smooth", "smooth, steps: 3"), "init.steps is not a known key"),
    (ROW, ROW.replace("smooth", "annealed, steps: 1500"), "init.steps is 1500"),
    (ROW, ROW.replace("[4, 5]", "[4, x]"), "restarts.stages is"),
    (ROW, ROW.replace("{stages: [4, 5], inner: 20}", "[4]"), "restarts is"),
    (TERM, "data_term: {variance: x}", "data_term.variance is 'x'"),
    (TERM, "data_term: {variances: 1}", "data_term.variances is not a known key"),
]


@pytest.mark.parametrize("old, new, message", BAD, ids=[message for *_, message in BAD])
def test_a_group_of_a_row_is_checked_key_by_key(workspace, old, new, message):
    path = workspace / "configs/dmilo.yaml"
    head, _, sharp = path.read_text().partition("sharp:")
    assert old in sharp
    path.write_text(f"{head}sharp:{sharp.replace(old, new, 1)}")
    with pytest.raises(UserError) as error:
        load_row(load_method("dmilo"), "inpainting", "sharp")
    assert message in str(error.value) and "inpainting" in str(error.value)


def test_dmilo_pgd_has_dmilos_rows_and_its_own_keys():
    dmilo, pgd = (load_row(load_method(name), "inpainting", "sharp") for name in PAPER)
    shared = vars(dmilo.hyperparameters)
    assert {key: vars(pgd.hyperparameters)[key] for key in shared} == shared
    assert pgd.hyperparameters.gradient_steps > 1
    assert dmilo.init == pgd.init == Smooth(contrast=0.1)
    assert dmilo.restarts == pgd.restarts == Restarts(count=1, stages=(4, 5), inner=20)
    assert dmilo.data_term == pgd.data_term == DataTerm(target_variance=0.01)


def values_beside_the_papers(row):
    """How many values of a row are not the paper's."""
    paper = {field.name for field in dataclasses.fields(load_method("dmilo-pgd").row)}

    def count(value):
        if isinstance(value, dict):
            return sum(map(count, value.values()))
        return sum(map(count, value)) if isinstance(value, list) else 1

    return sum(count(value) for key, value in row.items() if key not in paper)


@pytest.mark.parametrize("name", PAPER)
def test_a_row_can_be_read(name):
    for table in load_presets(name).values():
        for row in table.values():
            assert values_beside_the_papers(row) <= 6


def test_a_preset_with_nothing_below_it_is_one_line(workspace):
    path = workspace / "configs/dmilo-pgd.yaml"
    path.write_text(path.read_text() + "\nother:\n")
    with pytest.raises(UserError, match="other is None"):
        load_row(load_method("dmilo-pgd"), "inpainting", "sharp")


def test_another_noise_keeps_the_row_of_what_degrades():
    table = load_presets("dmilo")["paper"]
    assert row_of("super_resolution_poisson", table) == "default"  # no task file


def test_poisson_noise_on_a_reduced_picture_takes_super_resolutions_row(workspace):
    task = (workspace / "configs/tasks/super_resolution_config.yaml").read_text()
    config = yaml.safe_load(task)
    config["measurement"]["noise"] = {"name": "poisson", "rate": 1.0}
    (workspace / "configs/tasks/photons_config.yaml").write_text(yaml.safe_dump(config))
    assert row_of("photons", load_presets("dmilo")["paper"]) == "super_resolution"
    assert row_of("poisson_denoising", load_presets("dmilo")["sharp"]) == "poisson_denoising"


def test_a_prior_can_have_a_row_of_its_own():
    table = load_presets("dmilo")["fast"]
    rows = [row_of("super_resolution", table, dataset) for dataset in ("photo", "demo", None)]
    assert rows == ["photo/super_resolution", "super_resolution", "super_resolution"]
    assert row_of("inpainting", table, "photo") == "inpainting"
    method, messages = load_method("dmilo-pgd"), []
    photo, demo = (
        load_row(method, "super_resolution", "fast", messages.append, dataset)
        for dataset in ("photo", "demo")
    )
    assert photo.init.by_gradient and not demo.init.by_gradient and not messages


QUIET = """
import matplotlib, torch

def left():
    cudnn = torch.backends.cudnn
    backend = matplotlib.rcParams._get("backend")
    return backend, cudnn.deterministic, cudnn.allow_tf32, torch.get_num_threads()

before = left()
from dmilo import restore
y = torch.zeros(1, 3, 32, 32, requires_grad=True)
x = restore(y, lambda x: x, size=(32, 32), task="denoising")
assert left() == before and not x.requires_grad and y.grad is None
"""


def test_a_restoration_leaves_the_process_alone():
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_row_can_be_changed_key_by_key():
    method = load_method("dmilo")
    given = {"lr_nu": 0, "restarts.count": 1, "data_term": None, "init.kind": "pnp"}
    h, before = (load_row(method, "inpainting", "fast", given=one) for one in (given, None))
    assert h.hyperparameters.lr_nu == 0 and h.restarts.count == 1
    assert h.data_term is None and h.init.kind == "pnp"
    assert before.restarts.count == 2 and before.data_term is not None


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("lr_mu", 1, "lr_mu: .* has no such setting"),
        ("lr_nu", "x", "lr_nu is 'x'"),
        ("restarts.number", 1, "restarts.number is not a known key"),
        ("chain_steps", 1001, "chain_steps is 1001"),
    ],
)
def test_a_changed_key_is_checked(key, value, message):
    with pytest.raises(UserError, match=message):
        load_row(load_method("dmilo"), "inpainting", "fast", given={key: value})
