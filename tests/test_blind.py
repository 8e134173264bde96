"""Blind deblurring: the kernel's own problem, and runs that estimate kernel and image."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

import experiment.runner
from baselines.dmplug import DMPlugRow, dmplug
from experiment import restoration
from experiment.methods import load_method
from experiment.presets import load_row
from guided_diffusion.blind import (
    UnknownBlur,
    kernel_error,
    most_structured,
    moved,
    nearest_moved,
    onto_simplex,
)
from guided_diffusion.ddim import Chain
from guided_diffusion.kernels import blurring, correlating, motion_kernel
from guided_diffusion.measurements import load_measurement
from solvers.data_term import DataTerm
from solvers.ilo import Hyperparameters
from solvers.init import Smooth
from solvers.least_squares import LinearTask, silent
from solvers.method import Iterate
from solvers.preset import Preset
from solvers.search import search
from util.config import load_yaml
from util.files import UserError
from util.rng import BatchRandom


def picture(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def shakes(*seeds, side=9):
    kernels = np.stack(
        [motion_kernel(side, 0.5, np.random.RandomState(seed), None) for seed in seeds]
    )
    return torch.from_numpy(kernels / kernels.sum((1, 2), keepdims=True)).float()


def test_the_simplex_is_reached_by_the_shortest_way():
    v = torch.tensor([[0.2, 0.3, 0.5], [2.0, 0.0, 0.0], [0.5, 0.5, -7.0], [0.4, 0.4, 0.4]])
    torch.testing.assert_close(
        onto_simplex(v),
        torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3] * 3]),
    )


@pytest.mark.parametrize("mirror", [True, False])
def test_the_kernel_is_found_from_the_true_picture(mirror):
    x, kernels = picture(2, 3, 40, 36), shakes(1, 2)
    y = (blurring if mirror else correlating)(kernels, (40, 36))(x)
    A = UnknownBlur(9, (40, 36), "cpu", mirror)
    assert A(x).shape == y.shape
    for _ in range(5):
        A.refit([x], y)
    assert (A.unknown >= 0).all() and A.unknown.sum((1, 2)) == pytest.approx([1, 1], abs=1e-4)
    assert max(kernel_error(kernel, true) for kernel, true in zip(A.unknown, kernels)) < 0.05


def test_what_is_centred_explains_the_same():
    A, x = UnknownBlur(9, (32, 32), "cpu", True), picture(1, 3, 32, 32)
    A.unknown = torch.zeros(1, 9, 9)
    A.unknown[0, 1, 6] = 1
    before = A(x)
    (moved,) = A.centre([x])
    assert A.unknown[0, 4, 4] == 1
    torch.testing.assert_close(A(moved)[..., 8:-8, 8:-8], before[..., 8:-8, 8:-8])


def test_a_kernel_is_compared_wherever_it_lies():
    (kernel,) = shakes(3)
    assert (
        kernel_error(kernel.roll((1, -2), (0, 1)), kernel)
        < 1e-6
        < 0.1
        < kernel_error(torch.full((9, 9), 1 / 81), kernel)
    )


def test_a_picture_is_compared_wherever_it_lies_by_quarters_of_a_pixel():
    x = torch.from_numpy(gaussian_filter(picture(3, 32, 32).numpy(), (0, 2, 2), mode="wrap"))
    back, shift = nearest_moved(moved(x, (1.25, -2.5)), x)
    assert shift == (-1.25, 2.5) and (back - x).abs().max() < 0.01
    assert nearest_moved(x, x)[1] == (0, 0) and torch.equal(nearest_moved(x, x)[0], x)


def test_the_kernel_is_told_from_where_there_is_structure():
    y = torch.zeros(1, 3, 600, 300)
    y[..., 330:500, 20:200] = picture(1, 3, 170, 180)
    (top, left), _ = most_structured(torch.cat([y, y.flip(-2)]), 256)
    assert 230 <= top <= 340 and left <= 44


def test_photographs_of_a_batch_have_their_kernels_told_each_from_its_own_part():
    y = torch.zeros(1, 3, 600, 300)
    y[..., 330:500, 20:200] = picture(1, 3, 170, 180)
    both = most_structured(torch.cat([y, y.flip(-2)]), 256)
    assert both == most_structured(y, 256) + most_structured(y.flip(-2), 256) and both[0] != both[1]


def test_the_kernel_is_found_again_between_outer_iterations_and_after_a_kill():
    x, A = picture(1, 3, 16, 16), UnknownBlur(5, (16, 16), "cpu", True)
    y = blurring(shakes(1, side=5), (16, 16))(x)
    kernels = []

    def solver(g, operator, y, z_0, h, on_step, state=None):
        for t in range(state["t"] if state else 0, 3):
            kernels.append(A.unknown)
            yield Iterate(f"{t}_after", x, {"t": t + 1}, ends_outer=True)

    h = Preset(hyperparameters=Hyperparameters(outer=3, inner=1, lr_z=1.0), sigma=0.01)
    states = [iterate.state for iterate in search(solver, Chain(None, 3, None), A, y, [x], h, None)]
    assert (
        torch.equal(kernels[0], A.start)
        and not torch.equal(kernels[1], kernels[0])
        and not torch.equal(kernels[2], kernels[1])
    )
    wanted, A.unknown = A.unknown, None
    assert len(list(search(solver, Chain(None, 3, None), A, y, [x], h, None, states[0]))) == 2
    assert torch.equal(kernels[-2], kernels[1]) and torch.equal(A.unknown, wanted)


@pytest.fixture
def few_levels(monkeypatch):
    load = experiment.runner.load_row

    def loaded(*arguments, **given):
        h = load(*arguments, **given)
        return dataclasses.replace(h, init=dataclasses.replace(h.init, steps=3)) if h.init else h

    monkeypatch.setattr(experiment.runner, "load_row", loaded)


def test_a_simulated_blind_run_leaves_both_kernels_and_both_figures(
    run_method, tiny_prior, few_levels, monkeypatch
):
    latents, draw = [], restoration.draw_latents
    monkeypatch.setattr(
        restoration, "draw_latents", lambda *a: latents.append(draw(*a)) or latents[-1]
    )
    run = run_method("dmilo", "blind_deblur", "--preset", "fast", "-n", 1)
    left = run.folder / "images" / "astronaut"
    estimate, true = (
        np.asarray(Image.open(left / f"{name}.png")) for name in ("kernel", "kernel_true")
    )
    assert estimate.shape == true.shape == (13, 13) and not np.array_equal(estimate, true)
    record = json.loads((run.folder / "record" / "astronaut.json").read_text())
    assert record["kernel_error"] == pytest.approx(
        kernel_error(*(torch.from_numpy(k / k.sum()) for k in (estimate * 1.0, true * 1.0))),
        abs=0.02,
    )
    assert run.summary["kernel_error"] == record["kernel_error"]
    assert run.summary["measurement"]["psnr"] == record["measurement"]["psnr"] > 15
    assert run.summary["psnr_unturned"] == record["psnr_unturned"][-1]
    assert all(
        moved >= as_found for moved, as_found in zip(record["psnr"], record["psnr_unturned"])
    )
    assert (
        run.summary["operator_known"] == record["operator_known"]
        and record["operator_known"]["psnr"] != record["psnr"][-1]
    )
    assert len(latents) == 2 and all(
        map(torch.equal, *latents)
    )  # who knows the kernel begins at the same noise


@pytest.mark.slow
def test_a_known_kernel_helps(run_method):
    """With the built-in prior: blurred, blind and known kernel, each above the one before."""
    summary = run_method("dmilo", "blind_deblur", "--preset", "fast", "-n", 1).summary
    assert (
        summary["measurement"]["psnr"] + 1
        < summary["final"]["psnr"]["mean"]
        < summary["operator_known"]["psnr"] - 1
    )


def test_dmplug_finds_the_kernel_by_gradient_and_goes_on_after_a_kill():
    x, A = picture(1, 3, 16, 16), UnknownBlur(5, (16, 16), "cpu", True)
    y = blurring(shakes(1, side=5), (16, 16))(x)
    h = DMPlugRow(outer=2, inner=30, lr_z=0.01, lr_unknown=0.1, chain_steps=1, sigma=0.01)

    abar = Chain(None, 1, None).timesteps[0].abar

    def run(state=None):
        g = Chain(
            lambda z, t: z * (1 - abar**0.5 / 2) / (1 - abar) ** 0.5, 1, BatchRandom([0])
        )  # the picture is z / 2
        latents = [picture(1, 3, 16, 16, seed=1)]
        iterates = search(dmplug, g, A, y, latents, h, silent, state)
        return [copy.deepcopy(one) for one in iterates]  # a state is written before the next step

    first, half, whole = run()

    def misfit(X, kernels):
        return (blurring(kernels, (16, 16))(X) - y).square().mean()

    assert misfit(whole.x, whole.state["unknown"]) < misfit(whole.x, half.state["unknown"])
    assert misfit(whole.x, whole.state["unknown"]) < 0.9 * misfit(first.x, A.start)
    assert (A.unknown > 0).all() and A.unknown.sum() == pytest.approx(1, abs=1e-5)
    A.unknown = A.start
    assert torch.equal(run(half.state)[-1].x, whole.x) and torch.equal(
        A.unknown, whole.state["unknown"]
    )


def test_a_photograph_is_deblurred_without_a_kernel(script, tmp_path, tiny_prior, few_levels):
    options = ["-l", tmp_path, "--name", "r", "--cuda", -1, "--inner", 1]
    arguments = ["restore.py", "data/demo/astronaut.png", *options]
    result = script(*arguments, "--blind", 8, "--method", "dmilo")
    assert result.code == 0, result.err
    assert Image.open(tmp_path / "r" / "astronaut.png").size == (64, 64)
    kernel = Image.open(tmp_path / "r" / "run" / "images" / "astronaut" / "kernel.png")
    assert kernel.size == (7, 7)  # at most 8, and odd
    result = script(*arguments, "--blind", 40)
    assert result.code == 2 and "--blind 40" in result.err


@pytest.mark.parametrize(
    "estimate", [torch.zeros(1, 3, 40, 40), torch.full((1, 3, 40, 40), float("nan"))]
)
def test_an_estimate_without_structure_leaves_its_kernel(estimate):
    A, x = UnknownBlur(9, (40, 40), "cpu", True), picture(1, 3, 40, 40)
    y = blurring(shakes(1), (40, 40))(x).expand(2, -1, -1, -1)
    A.refit([torch.cat([estimate, x])], y)
    torch.testing.assert_close(A.unknown[0], A.start[0], rtol=0, atol=1e-6)
    assert (A.unknown[1] - A.start[0]).abs().max() > 0.01


def test_a_kernel_to_be_found_has_an_odd_side():
    path = "configs/tasks/blind_deblur_config.yaml"
    with pytest.raises(UserError, match="kernel_size: is 12, must be odd"):
        load_measurement({**load_yaml(path), "kernel_size": 12}, path, (64, 64), 64)


def test_who_would_never_look_for_the_kernel_is_refused(script, tmp_path, tiny_prior):
    result = script("baselines.dps", "-t", "blind_deblur", "-n", 1, "-l", tmp_path, "--cuda", -1)
    assert (
        result.code == 2
        and "never estimates the blur kernel" in result.err
        and len(result.err.splitlines()) == 1
    )


def test_dmplug_looks_for_the_kernel_in_one_outer_iteration_too(script, tmp_path, tiny_prior):
    """It was refused, with the advice to take dmplug."""
    result = script(
        "baselines.dmplug",
        "-t",
        "blind_deblur",
        "-n",
        1,
        "--outer",
        1,
        "--inner",
        1,
        "-l",
        tmp_path,
        "--cuda",
        -1,
    )
    assert result.code == 0, result.err


def test_a_search_uses_the_kernel_as_it_is_refitted():
    """A preconditioned search once kept the transpose of the kernel it had started with."""
    x, A = picture(1, 3, 16, 16), UnknownBlur(5, (16, 16), "cpu", True)
    y, outputs = blurring(shakes(1, side=5), (16, 16))(x), []

    def solver(g, operator, y, z_0, h, on_step, state=None):
        for t in range(2):
            outputs.append(operator(0 * x))
            yield Iterate(f"{t}_after", x, {"t": t + 1}, ends_outer=True)

    term, hyperparameters = DataTerm(variance=0.01), Hyperparameters(outer=2, inner=1, lr_z=1.0)
    h = Preset(hyperparameters=hyperparameters, init=Smooth(), data_term=term, sigma=0.01)
    *_, last = search(solver, Chain(None, 3, None), A, y, [x], h, None)
    refitted = UnknownBlur(5, (16, 16), "cpu", True)
    task = LinearTask(refitted, y, x)
    refitted.unknown = last.state["unknown"]  # fitted twice to the same image
    task.renew()
    expected = term.preconditioned(task, y, 0.01)[0](0 * x)
    assert not torch.allclose(outputs[0], expected, atol=1e-3)
    torch.testing.assert_close(outputs[1], expected, rtol=0, atol=0.05)


def test_a_row_that_averages_and_never_fits_the_kernel_is_refused():
    """Two searches in one outer iteration were accepted, and the kernel stayed at its start."""
    h = load_row(load_method("dmilo"), "motion_deblur", "fast")
    A = UnknownBlur(5, (16, 16), "cpu", True)
    with pytest.raises(UserError, match="never estimates the blur kernel"):
        search(None, None, A, None, [None], h, None)


@pytest.mark.parametrize(
    "size, side, halvings",
    [((600, 520), 13, 1), ((300, 320), 25, 2), ((200, 200), 7, 0), ((100, 300), 13, 0)],
)
def test_pictures_are_halved_while_their_kernels_are_worth_it(size, side, halvings):
    A, y, count = (
        UnknownBlur(side, size, "cpu", False),
        torch.zeros(1, 3, *(length - side + 1 for length in size)),
        0,
    )
    while half := A.halved(y):
        (A, y), count = half, count + 1
    assert count == halvings


@pytest.mark.parametrize(
    "side, mirror, size", [(13, False, (212, 212)), (15, False, (155, 162)), (9, True, (129, 140))]
)
def test_a_large_picture_is_halved_and_taken_over_in_its_place(side, mirror, size):
    A, border = UnknownBlur(side, size, "cpu", mirror), 0 if mirror else side // 2
    rows, columns = torch.meshgrid(
        *(torch.linspace(-1, 1, length) for length in size), indexing="ij"
    )
    x = (rows * columns).expand(1, 3, *size)  # smooth, so that halving loses nothing
    y = x[..., border : size[0] - border, border : size[1] - border]
    half, small = A.halved(y)
    assert half(torch.zeros(1, 3, *half.size)).shape == small.shape and half.halved(small) is None
    edge = 0 if mirror else half.side // 2
    estimate = A.take_over(half, torch.nn.functional.pad(small, [edge] * 4, mode="replicate"))
    inner = slice(border + 4, -border - 4)
    torch.testing.assert_close(
        estimate[..., inner, inner], x[..., inner, inner], rtol=0, atol=0.005
    )
    assert (
        estimate.shape == x.shape
        and A.unknown.shape == (1, side, side)
        and A.unknown.sum() == pytest.approx(1, abs=1e-5)
    )
    assert A.unknown[0, side // 2, side // 2] == A.unknown.max()


def test_a_colour_picture_and_a_grey_one_are_one_run(script, tmp_path, tiny_prior, few_levels):
    with Image.open("data/demo/astronaut.png") as image:
        for name, mode in (("a", "RGB"), ("b", "L")):
            (tmp_path / "photos").mkdir(exist_ok=True)
            image.convert(mode).save(tmp_path / "photos" / f"{name}.png")
    result = script(
        "dmilo.py",
        "-t",
        "blind_deblur",
        "--data",
        tmp_path / "photos",
        "-l",
        tmp_path,
        "--name",
        "r",
        "--cuda",
        -1,
        "--inner",
        1,
    )
    assert result.code == 0, result.err
    folder = tmp_path / "demo" / "blind_deblur" / "r"
    a, b, summary = (
        json.loads((folder / file).read_text())
        for file in ("record/a.json", "record/b.json", "summary.json")
    )
    assert summary["measurement"]["psnr"] == pytest.approx(
        (a["measurement"]["psnr"] + b["measurement"]["psnr"]) / 2
    )
