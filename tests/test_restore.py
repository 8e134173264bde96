"""`restore`, the methods from Python: the images of the command line, its arguments, its errors."""

import os
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from test_solvers import TASKS, faces

import experiment.library
import restore as restore_py
from dmilo import restore
from experiment.library import row_for, warn_if_far
from experiment.methods import PAPER, load_method
from experiment.presets import load_row
from experiment.problem import Problem, simulate
from experiment.recommended import recommended
from experiment.restoration import draw_latents
from guided_diffusion.measurements import load_measurement, reducing
from solvers.posterior import channel_noise
from util.config import load_yaml
from util.files import UserError
from util.images import load_image, save_image
from util.rng import BatchRandom

NAMES = ["astronaut", "grace_hopper"]


@pytest.fixture
def tiny_network(tiny_model, monkeypatch):
    """`restore` uses the tiny network as its prior."""
    monkeypatch.setattr(experiment.library, "network", lambda prior, device: (tiny_model, 64))


def problem(task, x, rng):
    operator, noise = load_measurement(load_yaml(TASKS[task]), TASKS[task], (64, 64), 64)
    return simulate(NAMES[: len(x)], x, operator, noise, rng).problem


CASES = (
    [("dmilo", task, "short") for task in TASKS]
    + [("dmilo-pgd", "inpainting", "short")]
    + [
        pytest.param(method, task, "whole", marks=pytest.mark.slow)
        for method in ("dmilo", "dmilo-pgd")
        for task in TASKS
    ]
)


@pytest.mark.usefixtures("tiny_prior", "tiny_network")
@pytest.mark.parametrize("method, task, length", CASES)
def test_restore_gives_the_images_of_the_command_line(
    request, run_method, tmp_path, method, task, length
):
    if length == "short":
        request.getfixturevalue("short_searches")
    run = run_method(method, task, "--preset", "fast", "--batch-size", 2, iterations=())
    rng = BatchRandom([123, 123])
    given = problem(task, faces(), rng)
    names, settings = [], dict(method=method, task=task, seed=rng)
    settings["on_iterate"] = lambda name, x: names.append(name)
    x = restore(given.y, given.operator, given.sigma, **settings)
    assert x.shape == (2, 3, 64, 64) and names[-1].endswith("_after")
    for name, one in zip(NAMES, x):
        save_image(tmp_path / "x.png", one)
        assert np.array_equal(
            Image.open(tmp_path / "x.png"), Image.open(run.folder / "images" / name / "final.png")
        )


@pytest.mark.usefixtures("tiny_prior", "tiny_network", "short_searches")
def test_restore_gives_the_image_of_restore_py(script, tmp_path):
    """Which consumes no random numbers before, so that an integer seed suffices."""
    Image.open("data/photo/small.png").crop((0, 0, 20, 12)).save(tmp_path / "a.png")
    options = ("--scale", 4, "--sigma", 0.02, "-l", tmp_path, "--name", "r", "--cuda", -1)
    result = script("restore.py", tmp_path / "a.png", *options)
    assert result.code == 0, result.err
    y, size = load_image(str(tmp_path / "a.png")), (48, 80)
    A = reducing(size, 4, "cpu")
    x = restore(y, A, 0.02, prior="photo", task="super_resolution", size=size)
    save_image(tmp_path / "x.png", x[0])
    assert np.array_equal(Image.open(tmp_path / "x.png"), Image.open(tmp_path / "r" / "a.png"))


def test_the_presets_choose_the_method():
    with open("configs/restore.yaml") as f:
        presets = yaml.safe_load(f)
    for preset, rows in presets.items():
        for task in ("inpainting", "denoising", "blind_deblur", "default", "nonlinear"):
            method, row = recommended(preset, task, "photo")
            assert f"{method}/{row}" == rows.get(task, rows["default"])
            load_row(load_method(method), task, row, dataset="photo")
    assert recommended("quick", "super_resolution", "demo")[0] == "antithetic"
    assert recommended("quick", "super_resolution", "photo")[0] == "pnp"
    assert restore is restore_py.restore


PRESETS = [
    *((method, preset) for method in PAPER for preset in ("paper", "fast", "sharp")),
    *((method, "tuned") for method in ("pnp", "antithetic", "posterior")),
]


@pytest.mark.usefixtures("tiny_network", "short_searches")
@pytest.mark.parametrize("method, preset", PRESETS)
def test_an_image_is_restored_in_a_batch_as_alone(method, preset):
    def restored(x):
        rng, task = BatchRandom([123] * len(x)), "inpainting"
        given, settings = problem(task, x, rng), dict(preset=preset, task=task, seed=rng)
        return restore(given.y, given.operator, given.sigma, method=method, **settings)

    for one, of_batch in zip(faces(), restored(faces())):
        assert (restored(one[None])[0] - of_batch).abs().mean() < 0.01


def test_the_row_of_an_operator_is_inferred():
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = [row_for(A, x) for A in (lambda x: x, lambda x: x[..., ::2], lambda x: x / 2, torch.sin)]
    assert rows == ["denoising", "default", "default", "nonlinear"]


@pytest.mark.usefixtures("tiny_network", "short_searches")
def test_another_sample_is_the_restoration_of_the_next_seed():
    given = problem("inpainting", faces()[:1], BatchRandom([123]))
    both = restore(given.y, given.operator, samples=2)
    assert both.shape == (2, 1, 3, 64, 64)
    assert torch.equal(both[0], restore(given.y, given.operator)) and torch.equal(
        both[1], restore(given.y, given.operator, seed=124)
    )
    assert not torch.equal(both[0], both[1])


@pytest.mark.usefixtures("tiny_network", "short_searches")
def test_a_measurement_that_asks_for_a_gradient_gets_none():
    given = problem("inpainting", faces()[:1], BatchRandom([123]))
    y = given.y.clone().requires_grad_()
    x = restore(y, given.operator, method="dmilo", preset="paper", task="inpainting")
    assert y.grad is None and not x.requires_grad


NAN, INF = float("nan"), float("inf")
REFUSED = [
    ("method", dict(method="dpz")),
    ("cats", dict(prior="cats")),
    ("slow", dict(preset="slow")),
    ("sigma", dict(sigma=-1)),
    ("sigma", dict(sigma=None)),
    ("sigma", dict(sigma=INF)),
    ("samples", dict(samples=0)),
    ("seed", dict(samples=2, seed=2**32 - 1)),
    ("seed", dict(seed=-1)),
    ("seed", dict(seed=BatchRandom([1, 2]))),
    ("seed", dict(samples=2, seed=BatchRandom([2**32 - 1]))),
    ("size", dict(size=64)),
    ("size", dict(size=(64, 4))),
    ("task", dict(task="motoin_deblur")),
    ("device", dict(device="banana")),
    ("y", dict(y=np.zeros((1, 3, 64, 64)))),
    ("y", dict(y=torch.zeros(0, 3, 64, 64))),
    ("y", dict(y=torch.zeros(1, 3, 32, 32))),
    ("y", dict(y=torch.full((1, 3, 64, 64), NAN))),
    ("y", dict(y=torch.zeros(1, 3, 64, 64, dtype=torch.complex64))),
    ("operator", dict(operator=3)),
    ("operator", dict(operator=lambda x: [x])),
    ("operator", dict(operator=lambda x: x.detach())),
    ("operator", dict(operator=lambda x: x * torch.ones(1, 3, 32, 32))),
    ("operator", dict(operator=lambda x: INF * x)),
]


@pytest.mark.parametrize("name, change", REFUSED)
def test_what_cannot_be_restored_is_one_line(tiny_model, monkeypatch, name, change):
    if "prior" not in change:
        monkeypatch.setattr(experiment.library, "network", lambda prior, device: (tiny_model, 64))
    with pytest.raises(UserError) as error:
        restore(**{"y": torch.zeros(1, 3, 64, 64), "operator": lambda x: x, **change})
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.usefixtures("tiny_network")
def test_a_measurement_from_numpy_is_accepted():
    """In double precision; denoising, which gives y to the network, ended in a traceback."""
    y = faces()[:1]
    assert torch.equal(restore(y.double(), lambda x: x), restore(y, lambda x: x))


@pytest.mark.parametrize(
    "A", [lambda x: x.flatten(1)[:, ::2], lambda x: x[..., ::2]], ids=["flat", "a picture"]
)
def test_the_noise_of_one_channel_is_one_noise(A):
    """Three equal measurements contain no more than one: each has sqrt(3) of its deviation."""

    def one_channel(x):
        return A(x) if x.shape[1] == 1 else 1 / 0

    batch = experiment.library.batch_of(A(torch.rand(2, 1, 32, 32)), one_channel, 0.1, (32, 32))
    problem = batch.problem
    assert batch.grey and problem.y.shape[1] == 3
    assert channel_noise(problem.y, 0.1).shape == (2, *[1] * (problem.y.dim() - 1))
    assert channel_noise(problem.y, 0.1).flatten().tolist() == pytest.approx([0.1 * 3**0.5] * 2)


@pytest.mark.usefixtures("tiny_network")
@pytest.mark.parametrize(
    "given",
    [dict(preset="fast"), dict(preset="quick", task="super_resolution")],
    ids=["denoised", "sampled"],
)
def test_a_grey_picture_beside_a_coloured_one_is_restored_as_it_is_alone(given):
    y = torch.cat(
        [faces()[:1], faces()[1:2].mean(1, keepdim=True).expand(-1, 3, -1, -1), faces()[2:3]]
    )
    together = restore(y, lambda x: x, 0.2, **given)
    for one, of_batch in zip(y, together):
        alone = restore(one[None], lambda x: x, 0.2, **given)[0]
        assert (alone - of_batch).abs().mean() < 0.01  # rounding errors grow


@pytest.mark.slow
def test_the_readmes_three_lines_run_from_any_directory(tmp_path):
    with open("README.md", encoding="utf-8") as f:
        block = next(block for block in f.read().split("```")[1::2] if "import restore" in block)
    code = (
        block.removeprefix("python\n")
        + "\nassert x.shape == (1, 3, 64, 64) and x.abs().max() <= 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("tiny_network", "short_searches")
@pytest.mark.parametrize(
    "A",
    [lambda x: x * 0.5, lambda x: x[:, 0].flatten(1)[:, ::2] if x.shape[1] == 1 else 1 / 0],
    ids=["any channels", "one, flattened"],
)
def test_an_operator_on_one_channel_gives_pictures_of_one_channel(A):
    truth = faces()[:1].mean(1, keepdim=True)
    heard = []
    x = restore(
        A(truth), A, 0.02, size=(64, 64), on_iterate=lambda name, X: heard.append(X.shape[1])
    )
    assert x.shape == (1, 1, 64, 64) and set(heard) == {1}
    lost = restore(
        truth, lambda x: x.mean(1, keepdim=True), 0.02
    )  # that takes colours, and gives them back
    assert lost.shape == (1, 3, 64, 64)


@pytest.mark.usefixtures("tiny_network")
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_restore_within_inference_mode(mode, short_searches):
    with mode():
        y = faces()[:1][..., ::2] + 0
        x = restore(y, lambda x: x[..., ::2], method="dmilo", sigma=0.1)
    assert torch.isfinite(x).all() and x.shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    "operator, factor, warned",
    [
        (lambda x: x, 1, False),
        (lambda x: x, 127.5, True),
        (lambda x: x[..., ::2], 127.5, True),
        (lambda x: 0.001 * x, 1, False),
        (lambda x: 0.001 * x, 127.5, True),
        (lambda x: x.flatten(1).cumsum(1), 1, False),
        (lambda x: torch.fft.rfft2(x).abs(), 1, False),
        (lambda x: (x + 1) / 2, 1, False),
        (lambda x: (x + 1) / 2, 255, True),
    ],
)
def test_a_measurement_far_outside_of_the_operators_range_is_warned_of(
    capsys, operator, factor, warned
):
    x = faces()
    problem = Problem(operator, factor * operator(x), 0.01, (64, 64))
    warn_if_far(problem, torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    err = capsys.readouterr().err
    assert ("warning: y: is " in err) == warned, err


@pytest.mark.usefixtures("tiny_network")
def test_a_measurement_in_255ths_is_warned_of(capsys):
    restore(127.5 * faces() + 127.5, lambda x: x, preset="quick")
    assert "warning: y: is " in capsys.readouterr().err


def test_latents_that_are_not_used_are_not_kept():
    alive = weakref.WeakSet()

    class Random(BatchRandom):
        def randn(self, shape, device="cpu"):
            latent = super().randn(shape, device)
            assert len(alive) <= 3
            alive.add(latent)
            return latent

    h = SimpleNamespace(chain_steps=50, latents=2)
    latents = draw_latents(Random([1]), (3, 8, 8), h, "cpu")
    expected = BatchRandom([1])
    assert all(torch.equal(one, expected.randn((3, 8, 8))) for one in latents)
    assert len(latents) == 2
