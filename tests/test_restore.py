"""`restore`, the methods from Python: the command line's pixels, what its arguments mean, and what it refuses."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_solvers import TASKS, faces

import experiment.library
from dmilo import restore
from experiment.library import row_for
from experiment.problem import simulate
from guided_diffusion.measurements import load_measurement, reducing
from solvers.annealing import channel_noise
from util.config import load_yaml
from util.files import UserError
from util.images import load_image, save_image
from util.rng import BatchRandom

NAMES = ["astronaut", "grace_hopper"]


@pytest.fixture
def tiny_network(tiny_model, monkeypatch):
    """`restore` has the tiny network for its prior."""
    monkeypatch.setattr(experiment.library, "network", lambda prior, device: (tiny_model, 64))


def problem(task, x, rng):
    operator, noise = load_measurement(load_yaml(TASKS[task]), TASKS[task], (64, 64), 64)
    return simulate(NAMES[: len(x)], x, operator, noise, rng)


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
def test_restore_gives_the_pixels_of_the_command_line(
    request, run_method, tmp_path, method, task, length
):
    if length == "short":
        request.getfixturevalue("short_searches")
    run = run_method(method, task, "--preset", "fast", "--batch-size", 2, iterations=())
    rng = BatchRandom([123, 123])
    given = problem(task, faces(), rng)
    heard = []
    x = restore(
        given.y,
        given.operator,
        given.sigma,
        method=method,
        task=task,
        seed=rng,
        on_iterate=lambda name, X: heard.append(name),
    )
    assert x.shape == (2, 3, 64, 64) and heard[-1].endswith("_after")
    for name, one in zip(NAMES, x):
        save_image(tmp_path / "x.png", one)
        assert np.array_equal(
            Image.open(tmp_path / "x.png"), Image.open(run.folder / "images" / name / "final.png")
        )


@pytest.mark.usefixtures("tiny_prior", "tiny_network", "short_searches")
def test_restore_gives_the_pixels_of_a_measured_picture(script, tmp_path):
    """Nothing is drawn for it, so that a number is seed enough; its size is not the prior's."""
    Image.open("data/photo/small.png").crop((0, 0, 20, 12)).save(tmp_path / "a.png")
    result = script(
        "dmilo.py",
        "--measured",
        tmp_path / "a.png",
        "--scale",
        4,
        "--sigma",
        0.02,
        "-l",
        tmp_path,
        "--name",
        "r",
        "--cuda",
        -1,
    )
    assert result.code == 0, result.err
    size = (48, 80)
    x = restore(
        load_image(str(tmp_path / "a.png")),
        reducing(size, 4, "cpu"),
        0.02,
        prior="photo",
        task="super_resolution",
        size=size,
    )
    save_image(tmp_path / "x.png", x[0])
    assert np.array_equal(
        Image.open(tmp_path / "x.png"),
        Image.open(tmp_path / "photo/super_resolution/r/restored/a.png"),
    )


def test_an_operator_takes_the_row_of_what_it_does():
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
    x = restore(y, given.operator, preset="paper", task="inpainting")
    assert y.grad is None and not x.requires_grad


REFUSED = [
    (dict(method="dps"), "method: is 'dps', must be one of dmilo, dmilo-pgd"),
    (dict(prior="cats"), "cats: there is no"),
    (dict(preset="slow"), "slow: "),
    (dict(sigma=-1), "sigma: is -1"),
    (dict(sigma=None), "sigma: is None"),
    (dict(samples=0), "samples: is 0, must be a whole number"),
    (dict(samples=2, seed=2**32 - 1), "seed: is 4294967295"),
    (dict(seed=-1), "seed: is -1"),
    (dict(seed=BatchRandom([1, 2])), "or a BatchRandom of 1 of them"),
    (dict(samples=2, seed=BatchRandom([2**32 - 1])), "or a BatchRandom of 1 of them"),
    (dict(sigma=float("inf")), "sigma: is inf"),
    (dict(size=64), "size: is 64, must be (H, W)"),
    (dict(size=(64, 4)), "size: is (64, 4)"),
    (dict(task="motoin_deblur"), "task: is 'motoin_deblur', must be one of "),
    (dict(device="banana"), "device: is 'banana'"),
    (dict(y=np.zeros((1, 3, 64, 64))), "y: must be a tensor of finite"),
    (dict(y=torch.zeros(0, 3, 64, 64)), "y: must be a tensor of finite"),
    (
        dict(operator=3),
        "operator: cannot be used for pictures of 64 x 64 ('int' object is not callable)",
    ),
    (dict(operator=lambda x: [x]), "operator: cannot be used"),
    (dict(operator=lambda x: x.detach()), "it must be a differentiable function of (B, 3, H, W)"),
    (dict(operator=lambda x: x * torch.ones(1, 3, 32, 32)), "say their size=(H, W)"),
    (
        dict(y=torch.zeros(1, 3, 32, 32)),
        "y: is (1, 3, 32, 32), operator gives (1, 3, 64, 64) for pictures of 64 x 64",
    ),
    (dict(y=torch.full((1, 3, 64, 64), float("nan"))), "y: must be a tensor of finite"),
    (dict(y=torch.zeros(1, 3, 64, 64, dtype=torch.complex64)), "y: must be a tensor of finite"),
    (dict(operator=lambda x: float("inf") * x), "is not finite"),
]


@pytest.mark.parametrize("change, said", REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_restored_is_one_line(tiny_model, monkeypatch, change, said):
    if "prior" not in change:
        monkeypatch.setattr(experiment.library, "network", lambda prior, device: (tiny_model, 64))
    with pytest.raises(UserError) as error:
        restore(**{"y": torch.zeros(1, 3, 64, 64), "operator": lambda x: x, **change})
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.usefixtures("tiny_network")
def test_a_measurement_from_numpy_is_taken():
    """In double precision; denoising, which gives y to the network, ended in a traceback."""
    y = faces()[:1]
    assert torch.equal(restore(y.double(), lambda x: x), restore(y, lambda x: x))


@pytest.mark.parametrize(
    "A", [lambda x: x.flatten(1)[:, ::2], lambda x: x[..., ::2]], ids=["flat", "a picture"]
)
def test_the_noise_of_one_channel_is_one_noise(A):
    """Three times one measurement says no more than one: each has sqrt(3) of its deviation."""
    one_channel = lambda x: A(x) if x.shape[1] == 1 else 1 / 0
    problem = experiment.library.problem_of(A(torch.rand(2, 1, 32, 32)), one_channel, 0.1, (32, 32))
    assert problem.grey and problem.y.shape[1] == 3
    assert channel_noise(problem.y, 0.1).shape == (2, *[1] * (problem.y.dim() - 1))
    assert channel_noise(problem.y, 0.1).flatten().tolist() == pytest.approx([0.1 * 3**0.5] * 2)


@pytest.mark.usefixtures("tiny_network")
@pytest.mark.parametrize(
    "given",
    [dict(preset="fast"), dict(preset="posterior", task="super_resolution")],
    ids=["denoised", "drawn"],
)
def test_a_grey_picture_beside_a_coloured_one_is_restored_as_it_is_alone(given):
    y = torch.cat(
        [faces()[:1], faces()[1:2].mean(1, keepdim=True).expand(-1, 3, -1, -1), faces()[2:3]]
    )
    together = restore(y, lambda x: x, 0.2, **given)
    for one, of_batch in zip(y, together):
        assert (
            restore(one[None], lambda x: x, 0.2, **given)[0] - of_batch
        ).abs().mean() < 0.01  # rounding grows on the way


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
