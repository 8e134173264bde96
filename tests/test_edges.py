"""Blur kernels that are estimated before the restoration, and kernels that are given by name."""

import re

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import solvers.edges
from bench.blind_benchmark import KERNELS, summary
from guided_diffusion.blind import kernel_error, moved
from guided_diffusion.kernels import (
    FAMILIES,
    correlating,
    disk_kernel,
    line_kernel,
    motion_kernel,
)
from photographs.arguments import Options
from photographs.damages import KERNEL_ERROR, FromEdges
from photographs.kernels import off_centre
from solvers.edges import (
    WEIGHTS,
    evidence_cost,
    find_kernel,
    find_of_family,
    kernel_from_edges,
    padded,
    straight_motion,
)

NOISE = 1 / 255


def shake(side, seed):
    kernel = motion_kernel(side, 0.5, np.random.RandomState(seed), None)
    return torch.from_numpy(kernel / kernel.sum()).float()


def scene(side=160):
    """(3, side, side) in [0, 1]: a face with strong edges."""
    x = skimage.data.astronaut()[20 : 20 + side, 140 : 140 + side].transpose(2, 0, 1)
    return torch.from_numpy(x / 255).float()


def blurred(kernel, x=None):
    """A grey picture, (H, W), blurred without a border, with noise."""
    x = (scene() if x is None else x).mean(0)[None, None]
    y = correlating(kernel[None], tuple(x.shape[-2:]))(x)[0, 0]
    return y + NOISE * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))


def write(path, y):
    Image.fromarray((y.clamp(0, 1) * 255).round().byte().numpy()).save(path)


def test_a_camera_shake_is_found_from_edges():
    true = shake(9, 1)
    kernel = kernel_from_edges(blurred(true), 9, WEIGHTS[0])
    assert (kernel >= 0).all() and kernel.sum() == pytest.approx(1, abs=1e-4)
    assert kernel_error(kernel, true) < 0.4


def test_the_evidence_prefers_the_true_kernel():
    true = shake(9, 1)
    y, point = blurred(true), torch.zeros(9, 9)
    point[4, 4] = 1
    turned = torch.rot90(true)
    costs = [evidence_cost(y, kernel, NOISE, 4) for kernel in (true, turned, point)]
    assert costs[0] < min(costs[1:]) - 0.1


def test_a_defocused_lens_is_recognised():
    estimate, (radius,) = find_of_family(
        "disk", blurred(torch.from_numpy(disk_kernel(3)).float()), NOISE, 15
    )
    assert radius == pytest.approx(3, abs=0.3) and estimate.is_trusted


def test_the_kernel_is_the_mean_of_the_likely_ones(monkeypatch):
    """One of them is moved, and an unlikely one is left out."""
    kernels = [shake(9, 1), shake(9, 1).roll(1, 0), torch.rot90(shake(9, 1)), shake(9, 1)]
    monkeypatch.setattr(solvers.edges, "kernel_from_edges", lambda y, side, w: kernels.pop())
    estimate = find_kernel(blurred(shake(9, 1)), 9, NOISE)[0]
    assert kernel_error(estimate.kernel, shake(9, 1)) < 0.05 and estimate.doubt < 0.05


def test_a_line_has_the_length_and_the_angle_of_its_motion():
    length, angle = straight_motion(torch.from_numpy(line_kernel(12, 30)).float())
    assert length == pytest.approx(12, abs=0.5) and angle == pytest.approx(30, abs=2)


@pytest.mark.parametrize(
    "name, kernel", [("disk", disk_kernel(3)), ("motion", line_kernel(9, 60)), (None, shake(9, 1))]
)
def test_a_kernel_of_few_numbers_is_recognised_without_its_name(name, kernel, monkeypatch):
    """Although the estimate from edges, here the true kernel with an error, is as likely."""
    true = torch.from_numpy(np.asarray(kernel)).float()
    true = padded(true / true.sum(), 11)
    estimate = 0.9 * true + 0.1 * true.roll(1, 0)
    monkeypatch.setattr(solvers.edges, "kernel_from_edges", lambda y, side, weight: estimate)
    found, family, _ = find_kernel(blurred(true), 11, NOISE)
    assert family == name and found.is_trusted


def test_a_sharp_picture_has_no_kernel():
    y = blurred(torch.ones(1, 1))
    assert not find_kernel(y, 9, NOISE)[0].is_trusted


def test_noise_has_no_kernel():
    y = 0.5 + 0.02 * torch.randn(80, 80, generator=torch.Generator().manual_seed(0))
    assert not find_kernel(y, 9, 0.02)[0].is_trusted


@pytest.mark.parametrize(
    "name, numbers, spread",  # the standard deviation (down, right)
    [
        ("disk", (4,), (2, 2)),
        ("gauss", (1.5,), (1.5, 1.5)),
        ("motion", (12, 0), (0, 12 / 12**0.5)),
        ("motion", (12, 90), (12 / 12**0.5, 0)),
    ],
)
def test_a_kernel_of_few_numbers_is_as_wide_as_they_say(name, numbers, spread):
    kernel = FAMILIES[name].kernel(*numbers)
    along = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1) and np.allclose(off_centre(kernel), 0, atol=1e-9)
    deviations = [(kernel.sum(other) * along**2).sum() ** 0.5 for other in (1, 0)]
    assert deviations == pytest.approx(spread, abs=0.1)


def test_motion_turns_counterclockwise_from_the_right():
    kernel = FAMILIES["motion"].kernel(9, 45)
    assert kernel[2, -3] > 0.05 > 0.01 > kernel[2, 2]


def test_what_is_restored_lies_where_the_photograph_does():
    kernel = torch.zeros(1, 5, 5)
    kernel[0, 2, 2], kernel[0, 2, 3], kernel[0, 3, 2] = 0.4, 0.4, 0.2
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    x = torch.sin(rows / 4) * torch.cos(columns / 5)[None, None].expand(1, 3, 40, 40)
    picture = FromEdges(Options((), blind=5)).picture(x, {"kernel": kernel})
    assert picture.shape == (1, 3, 36, 36)
    expected = moved(x, (-0.2, -0.4))[..., 2:-2, 2:-2]
    torch.testing.assert_close(picture, expected)


@pytest.fixture
def restore(script, tmp_path, tiny_prior, monkeypatch):
    """restore(file, option, …) -> the script's result, whose folder is `tmp_path / name`."""

    def run(path, *options, name="r"):
        common = ("-l", tmp_path, "--name", name, "--cuda", -1)
        return script("restore.py", path, "--preset", "quick", *options, *common)

    return run


def test_quick_takes_the_kernel_that_it_finds_and_so_does_the_next_picture(restore, tmp_path):
    write(tmp_path / "a.png", blurred(shake(9, 1)))
    result = restore(tmp_path / "a.png", "--blind", 9)
    assert result.code == 0 and "kernel 9 x 9 from edges" in result.out, result.err
    kernel = tmp_path / "r" / "run" / "images" / "a" / "kernel.npy"
    assert np.load(kernel).sum() == pytest.approx(1, abs=1e-4)
    assert Image.open(tmp_path / "r" / "a.png").size == Image.open(tmp_path / "a.png").size
    assert restore(tmp_path / "a.png", "--kernel", kernel, name="again").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["fast", "sharp", "posterior"])
def test_every_preset_takes_the_kernel_from_edges(restore, tmp_path, short_searches, preset):
    write(tmp_path / "a.png", blurred(shake(9, 1), scene(100)))
    result = restore(tmp_path / "a.png", "--blind", 9, "--preset", preset)
    assert result.code == 0 and "kernel 9 x 9 from edges" in result.out, result.err
    assert Image.open(tmp_path / "r" / "a.png").size == (92, 92)


def test_a_photograph_without_blur_is_given_back(restore, tmp_path):
    write(tmp_path / "a.png", blurred(torch.ones(1, 1), scene(120)))
    result = restore(tmp_path / "a.png", "--blind", 9)
    assert result.code == 0 and "returned unchanged" in result.out, result.err
    assert np.array_equal(
        *(np.asarray(Image.open(p)) for p in (tmp_path / "a.png", tmp_path / "r" / "a.png"))
    )


def test_a_family_is_looked_for(restore, tmp_path):
    write(tmp_path / "a.png", blurred(torch.from_numpy(disk_kernel(2)).float(), scene(100)))
    result = restore(tmp_path / "a.png", "--blind", "disk")
    assert result.code == 0 and "kernel disk" in result.out, result.err


def test_a_kernel_is_given_by_name(restore, tmp_path):
    write(tmp_path / "a.png", blurred(torch.from_numpy(disk_kernel(2)).float(), scene(100)))
    result = restore(tmp_path / "a.png", "--kernel", "disk 2")
    assert result.code == 0 and "kernel 5 x 5" in result.out, result.err


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("--kernel", "disk", "must be disk and radius"),
        ("--kernel", "disk -1", "must be disk and radius"),
        ("--kernel", "motion 12", "must be motion and length and angle"),
        ("--kernel", "gauss a", "must be gauss and sigma"),
        ("--kernel", "gauss 1e9", "must be gauss and sigma"),
        ("--blind", "lens", "invalid motion, disk, gauss or int"),
        ("--blind", "40", "half a side is the most"),
    ],
)
def test_an_impossible_kernel_is_one_line(restore, tmp_path, option, value, message):
    write(tmp_path / "a.png", scene(64).mean(0))
    result = restore(tmp_path / "a.png", option, value)
    assert result.code == 2 and message in result.err and len(result.err.splitlines()) == 1


def test_the_benchmarks_kernels_have_their_middle_where_the_truth_is():
    for kernel in KERNELS.values():
        assert np.allclose(off_centre(kernel), 0, atol=0.02) and (kernel >= 0).all()
        assert kernel.sum() == pytest.approx(1, abs=0.01)


def test_the_benchmarks_summary_counts_and_averages():
    figures = {"l0 + TV": 21.0, "unmoved": 24.0, "known kernel": 30.0, "seconds": 9.0}
    rows = [
        {"blurred": 20.0, "blind": blind, "error ratio": ratio, "returned": returned, **figures}
        for blind, ratio, returned in ((25.0, 2.0, 0), (24.0, 2.5, 0), (20.0, 10.0, 1))
    ]
    line = summary("noise2", rows)
    assert line["blind"] == pytest.approx(23) and line["least gain"] == 0
    assert line["returned"] == "1 of 3" and line["error ratio <= 2"] == "1 of 3"
    assert line["error ratio <= 3"] == "2 of 3"


def test_the_kernels_error_is_added_to_the_noise(restore, tmp_path):
    write(tmp_path / "a.png", blurred(shake(9, 1), scene(100)))
    lines = restore(tmp_path / "a.png", "--blind", 9).out
    sigma = float(re.search(r"sigma (\S+) \(estimated, with the kernel's error\)", lines)[1])
    assert sigma > KERNEL_ERROR
