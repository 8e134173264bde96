"""Noise that is not white: made white, estimated, measured on an even surface, removed."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from bench import cameras
from experiment.problem import Problem
from experiment.whitened import Whitened
from guided_diffusion.coloured import SIDE, ColouredNoise, Growth
from photographs.noise import estimate_noise
from photographs.spectrum import RADIUS, Frame, coefficients, coloured_noise, power
from solvers.method import Row
from util.rng import BatchRandom

PHOTONS = 50


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(side=160):
    return astronaut()[40 : 40 + side, 140 : 140 + side] / 255


def to_x(picture):
    return torch.from_numpy(2 * picture.transpose(2, 0, 1)[None] - 1).float()


def camera(x, photons=PHOTONS, seed=0):
    """(noisy, clean), (1, 3, H, W) in [-1, 1]."""
    return map(to_x, cameras.photograph(x, photons, np.random.default_rng(seed)))


def even(seed=1):
    return to_x(cameras.even_surface(PHOTONS, np.random.default_rng(seed)))


def measured(noise):
    """The spectrum, (SIDE, SIDE, 3, 3), of noise, (1, 3, H, W)."""
    c = coefficients(noise)
    return torch.einsum("bcuv,bduv->uvcd", c, c) / len(c)


def slanted():
    """A spectrum that falls with frequency, with correlated channels."""
    between = torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.5], [0.2, 0.5, 1.0]]).double()
    return 0.01 * torch.exp(-RADIUS / 3)[..., None, None] * between


def test_noise_and_what_it_lacks_are_white():
    noise = ColouredNoise(slanted())
    lacking = measured(noise.lacking(normal(1, 3, 512, 512)))
    total = (slanted() + lacking)[RADIUS >= 4]  # below, some of the noise is above the level
    expected = noise.level**2 * torch.eye(3).double()
    assert (total - expected).abs().max() < 0.1 * noise.level**2


def test_white_noise_lacks_nothing_and_is_restored_once():
    noise = ColouredNoise.white(0.1, 3, None)
    y = normal(1, 3, 40, 48)
    problem = Problem(lambda x: x, y, 0.1, (40, 48), noise=noise)
    whitened = Whitened.of(problem, BatchRandom([1]))
    assert torch.equal(whitened.problem.y, y) and abs(noise.level - 0.1) < 1e-9
    assert torch.equal(whitened.result(y), y)


def test_the_noise_added_to_one_copy_is_subtracted_from_the_other():
    y, mask = normal(2, 3, 40, 48), (normal(2, 1, 40, 48, seed=1) > 0).float()
    problem = Problem(lambda x: mask * x, y, 0.1, (40, 48), noise=ColouredNoise(slanted()))
    whitened = Whitened.of(problem, BatchRandom([1, 2]))
    torch.testing.assert_close(whitened.result(whitened.problem.y), y)
    assert not torch.equal(whitened.problem.y[:2], y)
    x = normal(4, 3, 40, 48, seed=2)
    torch.testing.assert_close(whitened.problem.operator(x), mask.repeat(2, 1, 1, 1) * x)
    assert whitened.rng.randn((1,)).unique().numel() == 4
    one = Whitened.of(problem, BatchRandom([1, 2]), twice=False)  # for posterior samples
    assert one.problem.y.shape == y.shape and not Row.is_sample


def test_grey_noise_is_equal_in_all_channels():
    noise = ColouredNoise(slanted()[..., :1, :1])
    lacking = noise.lacking(normal(1, 3, 40, 48))
    assert torch.equal(lacking[:, 0], lacking[:, 2]) and lacking.std() > 0.01


def test_growth_is_undone_without_bias():
    x = torch.linspace(-0.9, 0.9, 7)[:, None].expand(-1, 100_000)
    deviations = np.sqrt(0.02 * (np.linspace(-1, 1, 65) + 1.02))
    y = (
        x + torch.from_numpy(np.interp(x, np.linspace(-1, 1, 65), deviations)) * normal(*x.shape)
    ).clamp(-1, 1)
    growth = Growth(deviations)
    spread = growth.stabilised(y).std(1)[1:-1]  # the brightest values are clipped
    assert spread.max() / spread.min() < 1.15 < y.std(1)[5] / y.std(1)[1]
    means = growth.stabilised(y).mean(1)
    assert (growth.original(means) - x[:, 0]).abs().max() < 0.01
    inverse = torch.from_numpy(np.interp(means, growth.curve, growth.values))
    assert (inverse - x[:, 0]).abs().max() > 0.02  # f's inverse is biased


def estimated(y):
    found = estimate_noise(y, torch.ones_like(y[:, :1]))
    return coloured_noise(y, torch.ones_like(y[:, :1]), found.kind, True)


def test_the_spectrum_of_a_camera_is_estimated_from_its_picture():
    y, clean = camera(picture())
    found = estimated(y)
    f = found.noise.growth.stabilised
    truth = power(measured(f(y) - f(clean)))
    for low, high in ((2, 4), (4, 6), (6, 10)):
        ring = (RADIUS >= low) & (RADIUS < high)
        ratio = power(found.noise.spectrum)[ring].mean() / truth[ring].mean()
        assert 0.7 < ratio < 1.4
    dark, bright = np.diff(found.noise.growth.curve)[[60, -1]]
    assert found.is_coloured and bright > 1.5 * dark  # behind a gamma curve dark noise is stronger


def test_the_spectrum_is_estimated_beside_holes():
    y, _ = camera(picture())
    observed = torch.ones_like(y[:, :1])
    observed[..., 60:64] = 0
    whole, holed = (
        coloured_noise(y * m, m, "coloured", True).noise for m in (observed**0, observed)
    )
    assert abs(holed.sigma / whole.sigma - 1) < 0.1


@pytest.mark.parametrize("sigma", [0.04, 0.2])
def test_white_noise_is_what_it_was(sigma):
    y = to_x(picture()) + sigma * normal(1, 3, 160, 160)
    assert estimated(y.clamp(-1, 1)) is None


def test_the_growth_of_photon_noise_is_estimated():
    light = np.clip(picture(), 0, 1)
    y = to_x(np.random.default_rng(0).poisson(light * 200) / 200).clamp(-1, 1)
    noise = estimated(y).noise
    slope = np.diff(noise.growth.curve)  # inversely proportional to the deviation
    assert 1.4 < slope[128] / slope[-10] < 2.4  # sqrt of 4 in theory
    assert abs(noise.level - noise.sigma) < 1e-6  # white


def test_noise_is_measured_on_an_even_surface():
    x = even()
    assert Frame(x).is_even and not Frame(to_x(picture())).is_even
    y, clean = camera(picture())
    noise = Frame(x).noise_of(grey=False, pointwise=True)
    f = noise.growth.stabilised
    ratio = power(noise.spectrum) / power(measured(f(y) - f(clean)))
    assert 0.7 < ratio[RADIUS >= 2].median() < 1.3
    assert Frame(x).noise_of(grey=True, pointwise=False).spectrum.shape == (SIDE, SIDE, 1, 1)


def save(path, x):
    pixels = ((x[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().clip(0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def psnr(path, truth):
    x = to_x(np.asarray(Image.open(path)) / 255)
    return -10 * np.log10(((x - truth) / 2).square().mean().item())


def test_camera_noise_is_removed_better_than_if_it_were_white(script, tmp_path):
    y, clean = camera(picture(96))
    save(tmp_path / "p.png", y)
    save(tmp_path / "even.png", even())
    sigma = str((y - clean).square().mean().item() ** 0.5)
    found = {}
    for name, options in {
        "white": ["--sigma", sigma],
        "estimated": [],
        "measured": ["--noise", str(tmp_path / "even.png")],
    }.items():
        typed = f"restore.py {tmp_path}/p.png --cuda -1 -l {tmp_path} --name {name}"
        out = script(typed, *options).out
        found[name] = psnr(tmp_path / name / "p.png", clean)
        assert ("measured by --noise" in out) == (name == "measured")
    assert found["estimated"] > found["white"] + 1 and found["measured"] > found["white"] + 1


def test_noise_that_cannot_be_measured_is_one_line(script, tmp_path):
    save(tmp_path / "p.png", to_x(picture(96)))
    save(tmp_path / "even.png", even())
    typed = f"restore.py {tmp_path}/p.png --cuda -1 -l {tmp_path} --name r --noise"
    assert "is no photograph of an even surface" in script(f"{typed} {tmp_path}/p.png").err
    refused = script(f"{typed} {tmp_path}/even.png --sigma 0.1")
    assert refused.code == 2 and "--noise: not with --sigma" in refused.err
