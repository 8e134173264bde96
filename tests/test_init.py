"""Inits and samplers on networks whose answers are known: images of independent normal pixel
values, of variance VARIANCE around 0."""

import pytest
import torch

from experiment.methods import load_method
from experiment.presets import load_row
from guided_diffusion.ddim import ABAR, Chain, even_sigmas, timestep_of
from samplers.denoiser import denoiser
from solvers.ilo import run_chain
from solvers.init import INITS, PlugAndPlay, Smooth
from solvers.least_squares import LinearTask, silent
from solvers.plug_and_play import denoised
from util.files import UserError
from util.rng import BatchRandom

VARIANCE, SHAPE = 0.04, (2, 3, 64, 64)


def normal(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(x, t):
    """eps of the posterior mean at x = sqrt(abar) x_0 + sqrt(1 - abar) eps, for fractional t."""
    below = int(t)
    logs = [torch.tensor((1 - ABAR[n]) / ABAR[n]).log() for n in (below, min(below + 1, 999))]
    ratio = (logs[0] + (t - below) * (logs[1] - logs[0])).exp()
    abar = 1 / (1 + ratio)
    return (1 - abar).sqrt() * x / (abar * VARIANCE + 1 - abar)


def sigma_at(t):
    return ((1 - ABAR[t]) / ABAR[t]) ** 0.5


@pytest.mark.parametrize("t", [0, 1, 56, 500, 999])
def test_the_timestep_of_a_timesteps_noise_is_that_timestep(t):
    timestep = timestep_of(sigma_at(t))
    assert timestep.t == pytest.approx(t, abs=1e-3)
    assert timestep.abar == pytest.approx(ABAR[t], rel=1e-6)


def test_the_timestep_of_any_noise_is_between_timesteps_or_at_their_end():
    assert timestep_of(0.0).t == timestep_of(0.002).t == 0 and timestep_of(1000).t == 999
    assert 57 < timestep_of(0.2).t < 58 and timestep_of(0.2).abar == pytest.approx(1 / 1.04)


def test_sigmas_are_evenly_spaced_in_timesteps_or_denser_at_the_end():
    def timesteps(*arguments, **options):
        return [round(timestep_of(sigma).t) for sigma in even_sigmas(*arguments, **options)]

    last, top = sigma_at(20), sigma_at(820)
    assert timesteps(5, last, top) == [820, 620, 420, 220, 20]
    assert timesteps(5, last, top, denser=2) == [820, 470, 220, 70, 20]
    assert timesteps(2, last) == [999, 20] and timesteps(1, last, top) == [820]


def test_the_denoiser_is_the_posterior_mean():
    x, sigma = VARIANCE**0.5 * normal(0), 0.1
    y = (x + sigma * normal(1)).clamp(-1, 1)
    g, row = Chain(network, 3, None), load_row(load_method("denoiser"), "denoising")
    object.__setattr__(row, "sigma", sigma)
    (iterate,) = denoiser(g, lambda x: x, y, normal(2), row, silent)
    torch.testing.assert_close(iterate.x, y * VARIANCE / (VARIANCE + sigma**2), rtol=0, atol=2e-3)
    assert g.nfe == 1 and iterate.ends_outer


def test_a_grey_images_noise_is_one():
    """Three channels of equal noise carry the information of one: taken for three, the result would
    be wrong."""
    sigma = 0.1
    y = (VARIANCE**0.5 * normal(0) + sigma * normal(1))[:, :1].expand(SHAPE)
    x = denoised(Chain(network, 3, BatchRandom([1, 2])), y, sigma, 2).mean(1)
    expected = y[:, 0] * VARIANCE / (VARIANCE + 3 * sigma**2)
    torch.testing.assert_close(x, expected, rtol=0, atol=2e-3)
    other = y.clone()
    other[:, 0, 0, 0] += 0.1  # a colour image
    in_colour = denoised(Chain(network, 3, None), other, sigma, 2)
    assert torch.equal(in_colour, Chain(network, 3, None).denoised(other, sigma))


@pytest.mark.parametrize(
    "operator", [lambda x: x / 2, lambda x: x.mean(1, keepdim=True), lambda x: x * (x[:1] > 0)]
)
def test_the_denoiser_refuses_other_tasks(operator):
    row = load_row(load_method("denoiser"), "denoising")
    with pytest.raises(UserError, match="another method"):
        list(denoiser(Chain(network, 3, None), operator, operator(normal(0)), normal(2), row, None))


def test_plug_and_play_runs_from_top_to_the_noise_in_equal_ratios():
    init = PlugAndPlay(steps=4, top=0.8, last=1.0)
    assert init.sigmas(0.1) == pytest.approx([0.8, 0.4, 0.2, 0.1])
    assert PlugAndPlay(steps=3, top=0.1, last=2.0).sigmas(0.2) == pytest.approx([0.4] * 3)
    assert PlugAndPlay(steps=1, top=0.5, last=1.0).sigmas(0.1) == [0.5]


def test_plug_and_play_fills_missing_values_and_keeps_measured_ones():
    """With a mask over images around 0, nothing is known of missing values."""
    mask = (normal(3)[:, :1] > 0).float()
    y = mask * VARIANCE**0.5 * normal(0)
    g, init = Chain(network, 3, None), PlugAndPlay(steps=6, top=0.3, last=1.0)
    x = init(g, LinearTask(lambda x: mask * x, y, normal(2)), 0.01, silent)
    assert g.nfe == 6
    assert ((x - y) * mask).abs().max() < 0.1
    assert (x * (1 - mask)).abs().mean() < 0.5 * VARIANCE**0.5


@pytest.mark.parametrize("kind", INITS)
def test_an_init_is_one_word_in_a_row(kind):
    required = {"steps": 5} if kind == "annealed" else {}
    assert INITS[kind](**required).kind == kind and INITS[kind].__doc__


def test_a_sample_is_the_output_of_the_chain_for_noise():
    g = Chain(network, 1, BatchRandom([3, 4]))
    x = INITS["sample"](steps=4)(g, LinearTask(lambda x: x, normal(0), normal(1)), 0.01, silent)
    rng = BatchRandom([3, 4])
    chain = Chain(network, 4, rng)
    expected = run_chain(chain, rng.randn(normal(0).shape[1:], x.device), [0] * 4)[-1]
    assert g.nfe == 4 and torch.equal(x, expected.clamp(-1, 1))


def test_a_smooth_init_follows_the_noise():
    task = LinearTask(lambda x: x, normal(0), normal(1))
    little, much = (Smooth(contrast=0.1)(None, task, sigma, silent) for sigma in (0.01, 0.5))
    assert (little - task.y).abs().max() < 0.05
    assert much.diff(dim=-1).abs().mean() < 0.7 * little.diff(dim=-1).abs().mean()
