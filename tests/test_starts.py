"""Where a search begins, with networks whose answers are known: pictures of independent normal pixels, of variance VARIANCE around 0."""

import pytest
import torch
from conftest import shortened

from experiment.methods import OURS, load_method
from experiment.presets import load_hyperparameters
from guided_diffusion.ddim import ABAR, Chain, even_levels, level_of_noise
from solvers.annealing import denoised
from solvers.least_squares import LinearTask, silent
from solvers.search import search
from solvers.starts import STARTS, Denoised, PlugAndPlay, Smooth
from util.files import UserError
from util.rng import BatchRandom

VARIANCE, SHAPE = 0.04, (2, 3, 64, 64)


def normal(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(x, t):
    """The noise that the best guess sees in x = sqrt(abar) x_0 + sqrt(1 - abar) eps, whatever the fraction of a timestep."""
    below = int(t)
    logs = [torch.tensor((1 - ABAR[n]) / ABAR[n]).log() for n in (below, min(below + 1, 999))]
    spread = (logs[0] + (t - below) * (logs[1] - logs[0])).exp()
    abar = 1 / (1 + spread)
    return (1 - abar).sqrt() * x / (abar * VARIANCE + 1 - abar)


@pytest.mark.parametrize("t", [0, 1, 56, 500, 999])
def test_the_level_of_a_timesteps_noise_is_that_timestep(t):
    level = level_of_noise(((1 - ABAR[t]) / ABAR[t]) ** 0.5)
    assert level.t == pytest.approx(t, abs=1e-3) and level.abar == pytest.approx(ABAR[t], rel=1e-6)


def test_the_level_of_any_noise_lies_between_timesteps_or_at_their_end():
    assert level_of_noise(0.0).t == level_of_noise(0.002).t == 0 and level_of_noise(1000).t == 999
    assert 57 < level_of_noise(0.2).t < 58 and level_of_noise(0.2).abar == pytest.approx(1 / 1.04)


def test_levels_are_evenly_spaced_in_timesteps_or_denser_at_the_end():
    timesteps = lambda levels: [round(level_of_noise(level).t) for level in levels]
    last, top = (((1 - ABAR[t]) / ABAR[t]) ** 0.5 for t in (20, 820))
    assert timesteps(even_levels(5, last, top)) == [820, 620, 420, 220, 20]
    assert timesteps(even_levels(5, last, top, denser=2)) == [820, 470, 220, 70, 20]
    assert timesteps(even_levels(2, last)) == [999, 20] and timesteps(
        even_levels(1, last, top)
    ) == [820]


def test_one_evaluation_is_the_posterior_mean():
    x, sigma = VARIANCE**0.5 * normal(0), 0.1
    y = x + sigma * normal(1)
    g = Chain(network, 3, None)
    found = Denoised()(g, LinearTask(lambda x: x, y, normal(2)), sigma, silent)
    torch.testing.assert_close(found, y * VARIANCE / (VARIANCE + sigma**2), rtol=0, atol=2e-3)
    assert g.evaluations == 1


def test_a_grey_pictures_noise_is_one():
    """In colour its noise is taken for three times as sure as it is: the network's answer to y is then wrong by what that makes."""
    sigma = 0.1
    y = (VARIANCE**0.5 * normal(0) + sigma * normal(1))[:, :1].expand(SHAPE)
    found = denoised(Chain(network, 3, BatchRandom([1, 2])), y, sigma, 2).mean(1)
    torch.testing.assert_close(
        found, y[:, 0] * VARIANCE / (VARIANCE + 3 * sigma**2), rtol=0, atol=2e-3
    )
    other = y.clone()
    other[:, 0, 0, 0] += 0.1  # a colour picture
    assert torch.equal(
        denoised(Chain(network, 3, None), other, sigma, 2),
        Chain(network, 3, None).denoised(other, sigma),
    )


def test_one_evaluation_is_refused_where_a_task_is_more_than_noise():
    for operator in (lambda x: x / 2, lambda x: x.mean(1, keepdim=True), lambda x: x * (x[:1] > 0)):
        with pytest.raises(UserError, match="is for denoising alone"):
            Denoised()(
                Chain(network, 3, None),
                LinearTask(lambda x: x / 2, normal(0) / 2, normal(2)),
                0.1,
                silent,
            )


def test_plug_and_play_goes_down_from_top_to_the_noise_in_equal_ratios():
    start = PlugAndPlay(steps=4, top=0.8, last=1.0)
    assert start.levels(0.1) == pytest.approx([0.8, 0.4, 0.2, 0.1])
    assert PlugAndPlay(steps=3, top=0.1, last=2.0).levels(0.2) == pytest.approx(
        [0.4] * 3
    )  # never below its end
    assert PlugAndPlay(steps=1, top=0.5, last=1.0).levels(0.1) == [0.5]


def test_plug_and_play_finds_what_is_missing_and_measured():
    """Of a mask over pictures around 0: nothing is known of missing pixels, measured ones are drawn a little to 0."""
    mask = (normal(3)[:, :1] > 0).float()
    y = mask * VARIANCE**0.5 * normal(0)
    g = Chain(network, 3, None)
    found = PlugAndPlay(steps=6, top=0.3, last=1.0)(
        g, LinearTask(lambda x: mask * x, y, normal(2)), 0.01, silent
    )
    assert g.evaluations == 6
    assert ((found - y) * mask).abs().max() < 0.1 and (
        found * (1 - mask)
    ).abs().mean() < 0.5 * VARIANCE**0.5


@pytest.mark.parametrize("kind", STARTS)
def test_a_start_is_one_word_in_a_row(kind):
    assert STARTS[kind].kind == kind and STARTS[kind].__doc__


@pytest.mark.parametrize("method", OURS)
def test_fast_denoising_begins_and_ends_at_one_evaluation(method):
    y = normal(0).clamp(-1, 1)
    g, row = Chain(network, 3, None), load_hyperparameters(load_method(method), "denoising", "fast")
    (found,) = search(None, g, lambda x: x, y, [normal(1)], shortened(row, sigma=0.1), silent)
    assert g.evaluations == 1 and torch.equal(found.x, Chain(network, 3, None).denoised(y, 0.1))


def test_a_smooth_start_follows_the_noise():
    task = LinearTask(lambda x: x, normal(0), normal(1))
    little, much = (Smooth(contrast=0.1)(None, task, sigma, silent) for sigma in (0.01, 0.5))
    assert (little - task.y).abs().max() < 0.05 and much.diff(
        dim=-1
    ).abs().mean() < 0.7 * little.diff(dim=-1).abs().mean()
