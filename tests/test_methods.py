"""Methods by name, and the rows of their tables."""

import dataclasses
import inspect
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import edit

from experiment.methods import BASELINES, OURS, load_method
from experiment.presets import load_hyperparameters, load_presets, row_of
from guided_diffusion.ddim import Chain
from solvers.aims import Aim
from solvers.method import Iterate
from solvers.search import Pass, search
from solvers.starts import Smooth
from util.files import UserError


@pytest.mark.parametrize("name", OURS + BASELINES)
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
            assert isinstance(load_hyperparameters(method, row, preset), method.row)


def test_an_unknown_method_is_one_line():
    with pytest.raises(
        UserError, match="method: is 'dmlio', must be one of dmilo, dmilo-pgd, least_squares"
    ):
        load_method("dmlio")


@pytest.mark.parametrize("name", OURS + BASELINES)
@pytest.mark.parametrize("key", ["before", "lr_y"])
def test_a_key_that_a_method_does_not_use_is_refused(workspace, name, key):
    """`before` in a row of DPS was taken, and ended in a traceback."""
    used = {field.name for field in dataclasses.fields(load_method(name).row)}
    if key in used:
        pytest.skip("it uses that")
    path = workspace / f"configs/{name}.yaml"
    presets = yaml.safe_load(path.read_text())
    preset = next(preset for preset in presets if preset != "extends")
    row = next(iter(presets[preset]))
    presets[preset][row][key] = []
    path.write_text(yaml.safe_dump(presets))
    with pytest.raises(UserError, match=f"{key} is not a known key"):
        load_hyperparameters(load_method(name), row, preset)


BAD = [
    (
        "start: {kind: smooth, contrast: 0.1}",
        "start: {kind: smoth}",
        "start.kind is 'smoth', must be one of smooth, annealed",
    ),
    ("start: {kind: smooth, contrast: 0.1}", "start: {kind: smooth}", "start.contrast is missing"),
    (
        "start: {kind: smooth, contrast: 0.1}",
        "start: {kind: smooth, contrast: 0.1, steps: 3}",
        "start.steps is not a known key",
    ),
    (
        "start: {kind: smooth, contrast: 0.1}",
        "start: {kind: annealed, steps: 1500}",
        "start.steps is 1500, must be a whole number, 1 … 1000",
    ),
    (
        "- {chain_steps: 4, starts: 1, inner: 20}",
        "- {chain_steps: 4, starts: 1}",
        "before[0].inner is missing",
    ),
    ("- {chain_steps: 4, starts: 1, inner: 20}", "- [4, 1, 20]", "must be a list of mappings"),
    (
        "aim: {variance: 0.0033, sample_variance: 0.01}",
        "aim: {variance: x}",
        "aim.variance is 'x', must be float",
    ),
    (
        "aim: {variance: 0.0033, sample_variance: 0.01}",
        "aim: {variances: 1}",
        "aim.variances is not a known key",
    ),
]


@pytest.mark.parametrize("old, new, said", BAD, ids=[said for *_, said in BAD])
def test_a_group_of_a_row_is_checked_key_by_key(workspace, old, new, said):
    edit(workspace / "configs/dmilo.yaml", old, new)
    with pytest.raises(UserError) as error:
        load_hyperparameters(load_method("dmilo"), "inpainting", "sharp")
    assert said in str(error.value) and "inpainting" in str(error.value)


def test_dmilo_pgd_has_dmilos_rows_and_what_differs():
    rows = {name: load_hyperparameters(load_method(name), "inpainting", "sharp") for name in OURS}
    theirs = {
        field: value
        for field, value in vars(rows["dmilo-pgd"]).items()
        if field in vars(rows["dmilo"])
    }
    assert theirs == vars(rows["dmilo"]) and rows["dmilo-pgd"].gradient_steps > 1
    assert (
        isinstance(rows["dmilo"].start, Smooth)
        and isinstance(rows["dmilo"].aim, Aim)
        and isinstance(rows["dmilo"].before[0], Pass)
    )


def test_a_preset_with_nothing_below_it_is_one_line(workspace):
    edit(workspace / "configs/dmilo-pgd.yaml", "quick:\n  every: *step\n", "quick:\n")
    with pytest.raises(UserError, match="dmilo-pgd.yaml: quick is None, must be a mapping"):
        load_hyperparameters(load_method("dmilo-pgd"), "inpainting", "sharp")


def test_another_noise_keeps_the_row_of_what_degrades():
    """Poisson noise on a reduced picture took inpainting's row of the published table."""
    table = load_presets("dmilo")["paper"]
    assert row_of("super_resolution_poisson", table) == "default"  # no task file, no nature


def test_poisson_noise_on_a_reduced_picture_takes_super_resolutions_row(workspace):
    task = (workspace / "configs/tasks/super_resolution_config.yaml").read_text()
    config = yaml.safe_load(task)
    config["measurement"]["noise"] = {"name": "poisson", "rate": 1.0}
    (workspace / "configs/tasks/photons_config.yaml").write_text(yaml.safe_dump(config))
    assert row_of("photons", load_presets("dmilo")["paper"]) == "super_resolution"
    assert row_of("poisson_denoising", load_presets("dmilo")["fast"]) == "poisson_denoising"


def test_a_prior_can_have_a_row_of_its_own():
    table = load_presets("dmilo")["quick"]
    assert [row_of("super_resolution", table, dataset) for dataset in ("photo", "demo", None)] == [
        "photo/super_resolution",
        *["super_resolution"] * 2,
    ]
    assert row_of("inpainting", table, "photo") == "inpainting"
    said = []
    of = {
        dataset: load_hyperparameters(
            load_method("dmilo-pgd"), "super_resolution", "quick", said.append, dataset
        )
        for dataset in ("photo", "demo")
    }
    assert (
        of["photo"].start.kind == "plug_and_play" and of["demo"].start.kind == "pair" and not said
    )


def test_a_row_that_searches_nothing_gives_its_start():
    row = load_hyperparameters(load_method("dmilo"), "inpainting", "sharp")
    h, never = dataclasses.replace(row, starts=0, before=()), None
    A, y = (lambda x: x / 2), torch.zeros(1, 3, 8, 8)
    (found,) = search(
        never, Chain(None, 3, None), A, y, [torch.randn(1, 3, 8, 8)], h, lambda *told: None
    )
    assert isinstance(found, Iterate) and found.ends_outer and found.x.abs().max() < 1e-6
    with pytest.raises(
        UserError, match="starts: is 0, which is for a row whose start is its result"
    ):
        dataclasses.replace(row, starts=0)


QUIET = """
import matplotlib, torch
left = lambda: (matplotlib.rcParams._get("backend"), torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32, torch.get_num_threads())
before = left()
from dmilo import restore
y = torch.zeros(1, 3, 32, 32, requires_grad=True)
x = restore(y, lambda x: x, size=(32, 32), task="denoising")
assert left() == before and not x.requires_grad and y.grad is None
"""


def test_a_restoration_leaves_the_process_alone():
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
