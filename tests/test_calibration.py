"""Draws whose distribution is known: of Gaussian pictures what a measurement leaves open is Gaussian, too, and computed exactly."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from experiment.methods import OURS, load_method
from experiment.presets import load_hyperparameters
from guided_diffusion.ddim import ABAR, Chain
from guided_diffusion.errors import (
    COLOURS,
    FREQUENCIES,
    LEAST,
    Errors,
    by_frequency,
    load_errors,
    pixels,
    waves,
    write_errors,
)
from guided_diffusion.prior import load_model_config
from solvers import annealing
from solvers.least_squares import LinearTask, silent
from solvers.starts import Drawn, Pair
from util.files import UserError, project
from util.intervals import calibration as calibrated
from util.intervals import interval, ranks, steep, summarised
from util.rng import BatchRandom

SIDE, DRAWS, SIGMA = 26, 50, 0.05
SHAPE = (3, SIDE, SIDE)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def power():
    """The variance of a picture's waves, (3, H, W): 1/f^2 in brightness, a fifth as much in colours; 0.15 of [-1, 1] by pixel."""
    down = torch.arange(SIDE) / SIDE
    radius = (down[:, None] ** 2 + down**2).sqrt().clamp(min=FREQUENCIES[0])
    return torch.tensor([0.006, 0.0012, 0.0012])[:, None, None] / radius**2


class GaussianPrior:
    """The exact network of Gaussian pictures around grey with that power, and its exact errors."""

    errors = None

    def __init__(self, errors=True):
        self.errors = self if errors else None

    def __call__(self, x, t):
        timesteps = np.arange(len(ABAR))
        spread = np.exp(
            np.interp(t.item(), timesteps, np.log((1 - np.array(ABAR)) / ABAR))
        )  # as `level_of_noise` takes it
        abar = 1 / (1 + spread)
        guess = pixels(power() / (power() + spread) * waves(x / abar**0.5))
        return (x - abar**0.5 * guess) / (1 - abar) ** 0.5

    def around(self, guess, sigma):
        deviation = (1 / (1 / power() + 1 / sigma**2)).sqrt()
        return (lambda u: pixels(deviation * waves(u)),) * 2 + (
            lambda u: pixels(waves(u) / deviation),
        )


MASK = (normal(1, 1, 1, SIDE, SIDE) > 0.5).float()
KERNEL = torch.exp(-(torch.linspace(-2, 2, 7) ** 2) / 2)
KERNEL = (KERNEL[:, None] * KERNEL / KERNEL.sum() ** 2).expand(3, 1, 7, 7)
OPERATORS = {
    "inpainting": lambda x: MASK * x,
    "blur": lambda x: F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), KERNEL, groups=3),
    "super-resolution": lambda x: F.avg_pool2d(x, 2),
}


def exact(operator, y):
    """(means, deviation) of the pictures behind y, (B, 3, H, W) and (3, H, W), by the textbook's formula."""
    size = 3 * SIDE**2
    basis = torch.eye(size).view(-1, *SHAPE)
    covariance = pixels(power() * waves(basis)).reshape(size, size).double()
    a = operator(basis).flatten(1).T.double()
    gain = covariance @ a.T @ torch.linalg.inv(a @ covariance @ a.T + SIGMA**2 * torch.eye(len(a)))
    left = covariance - gain @ a @ covariance
    return (y.flatten(1).double() @ gain.T).view(-1, *SHAPE).float(), left.diagonal().clamp(
        min=0
    ).sqrt().view(SHAPE).float()


def measured(operator, truths):
    """Measurements of as many pictures of that power."""
    y = operator(pixels(power().sqrt() * waves(normal(3, truths, *SHAPE))))
    return y + SIGMA * normal(4, *y.shape)


def a_draw(*seen):
    return Drawn(steps=120, last=0.08, zeta=0.1, data_steps=30)(*seen)


def one_of_a_pair(*seen, **how):
    return Pair(steps=20, last=0.05, **how).draws(*seen)[0]


def draws(operator, y, network, kind):
    """DRAWS draws, as many of each of the measurements: (DRAWS, 3, H, W)."""
    each = y.repeat(DRAWS // len(y), 1, 1, 1)
    return kind(
        Chain(network, 1, BatchRandom(range(DRAWS))),
        LinearTask(operator, each, normal(2, DRAWS, *SHAPE)),
        SIGMA,
        silent,
    )


KINDS = {
    "drawn": a_draw,
    "pair": one_of_a_pair,
    "pair by gradient": partial(one_of_a_pair, by_gradient=True),
    "pair from noise 2": partial(one_of_a_pair, top=2.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPERATORS)
def test_draws_are_distributed_as_what_the_measurement_leaves_open(name, kind):
    """2,028 values, 50 draws, of ten pictures."""
    operator = OPERATORS[name]
    y = measured(operator, 10)
    means, deviation = exact(operator, y)
    off = draws(operator, y, GaussianPrior(), KINDS[kind]).view(-1, *means.shape) - means
    rms = lambda x: x.square().mean().sqrt().item()
    assert rms(off) == pytest.approx(rms(deviation), rel=0.03)
    assert (
        rms(off.mean(0)) < 1.2 * rms(deviation) / len(off) ** 0.5
    )  # 1, if nothing but chance moves a mean of five
    assert 0.81 < (off.abs() <= stats.norm.ppf(0.5 + 0.83 / 2) * deviation).float().mean() < 0.85


class White(GaussianPrior):
    """The same network, of whose errors only the size is known."""

    def around(self, guess, sigma):
        alike = (1 / (1 / power() + 1 / sigma**2)).mean().sqrt()
        return (lambda u: alike * u,) * 2 + (lambda u: u / alike,)


def test_a_network_taken_to_err_alike_in_all_frequencies_is_told_from_one_whose_errors_are_known():
    operator = OPERATORS["super-resolution"]
    y = measured(operator, 10)
    means, deviation = exact(operator, y)
    off = draws(operator, y, White(), one_of_a_pair).view(-1, *means.shape) - means
    assert off.square().mean().sqrt() != pytest.approx(
        deviation.square().mean().sqrt().item(), rel=0.03
    )


class Modest(GaussianPrior):
    """The same network, of whose errors somebody has measured 1.3 times as much."""

    def around(self, guess, sigma):
        root, _, inverse = super().around(guess, sigma)
        return (lambda u: 1.3 * root(u),) * 2 + (lambda u: inverse(u) / 1.3,)


def test_a_draw_learns_that_the_network_errs_less_about_a_picture_than_usual(monkeypatch):
    operator = OPERATORS["inpainting"]
    y = measured(operator, 10)
    means, deviation = exact(operator, y)
    wide = lambda: (
        (draws(operator, y, Modest(), a_draw).view(-1, *means.shape) - means).square().mean().sqrt()
        / deviation.square().mean().sqrt()
    )
    learnt = wide()
    monkeypatch.setattr(annealing, "LEARNT", 0)
    assert abs(learnt - 1) < 0.5 * abs(wide() - 1)


def test_the_gradient_knows_what_a_table_of_errors_does_not():
    operator = OPERATORS["inpainting"]
    y = measured(operator, 10)
    means, _ = exact(operator, y)
    off = lambda kind: (
        (draws(operator, y, White(), KINDS[kind]).view(-1, *means.shape).mean(0) - means)
        .square()
        .mean()
    )
    assert off("pair by gradient") < 0.9 * off("pair")


def test_the_draws_of_a_pair_have_opposite_noise():
    operator = OPERATORS["blur"]
    y = measured(operator, 1)
    seen = lambda: (
        Chain(GaussianPrior(), 1, BatchRandom([0])),
        LinearTask(operator, y, normal(2, 1, *SHAPE)),
        SIGMA,
        silent,
    )
    mean, deviation = exact(operator, y)
    off = lambda found: (found - mean).square().mean()
    pair = Pair(steps=20, last=0.05)
    one, other = pair.draws(*seen())
    assert torch.equal(pair(*seen()), (one + other) / 2)
    assert (
        off((one + other) / 2) < 0.1 * off(one) and off(one) > 0.3 * deviation.square().mean()
    )  # all is nearly linear here: the noise cancels


@pytest.mark.parametrize("kind", ["drawn", "pair"])
def test_a_grey_pictures_measurement_counts_once(kind):
    grey = normal(5, 1, 1, SIDE, SIDE).clamp(-3, 3).expand(1, *SHAPE) / 5
    task = LinearTask(lambda x: x, grey, normal(2, 1, *SHAPE))
    seen = []
    task.innovation = lambda x, root, transposed, sigma, y, steps: (
        seen.append(sigma) or torch.ones_like(x)
    )
    KINDS[kind](Chain(GaussianPrior(), 1, BatchRandom([0])), task, SIGMA, silent)
    torch.testing.assert_close(
        torch.stack(seen), torch.full((len(seen), 1, 1, 1, 1), 3**0.5 * SIGMA)
    )


def test_the_waves_of_a_picture_are_orthonormal_and_undone():
    x = normal(6, 2, 3, 10, 17)
    assert waves(x).square().sum() == pytest.approx(x.square().sum().item(), rel=1e-5)
    torch.testing.assert_close(pixels(waves(x)), x, rtol=0, atol=1e-5)
    grey = torch.ones(1, 3, 8, 8)
    found = waves(grey)
    assert found[0, 0, 0, 0] == pytest.approx(
        8 * 3**0.5, rel=1e-5
    ) and found.abs().sum() == pytest.approx(found[0, 0, 0, 0].item(), rel=1e-4)
    torch.testing.assert_close(COLOURS @ COLOURS.T, torch.eye(3), rtol=0, atol=1e-6)


def test_a_table_of_errors_is_written_read_and_interpolated(tmp_path):
    sigmas = [0.01, 0.1, 1.0]
    variances = [sigma**2 / (1 + FREQUENCIES / np.array([[1.0], [2.0], [4.0]])) for sigma in sigmas]
    write_errors(tmp_path / "m_errors.csv", sigmas, variances, "for a test")
    errors = load_errors(str(tmp_path / "m.pt"))
    for sigma in (0.01, 0.05, 0.3, 1.0):
        deviation = errors.deviation(sigma, (32, 64), torch.device("cpu"))
        down, right = torch.arange(32)[:, None] / 32, torch.arange(64) / 64
        radius = (down**2 + right**2).sqrt().clamp(min=FREQUENCIES[0])
        for c, scale in enumerate((1, 2, 4)):
            torch.testing.assert_close(
                deviation[c], sigma / (1 + radius / scale).sqrt(), rtol=0.02, atol=0
            )
    assert torch.equal(
        errors.deviation(5.0, (8, 8), torch.device("cpu")),
        errors.deviation(1.0, (8, 8), torch.device("cpu")),
    )
    assert load_errors(str(tmp_path / "other.pt")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "0.1, 0, 1, 2\n",
        "\n".join(f"{s}, {c}" + ", 1" * 14 for s in (1, 0.5) for c in range(3)),
        "\n".join(f"{s}, {c}" + ", nan" * 14 for s in (1, 2) for c in range(3)),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_what_is_no_table_of_errors_is_one_line(tmp_path, text):
    (tmp_path / "m_errors.csv").write_text(text)
    with pytest.raises(
        UserError, match=r"m_errors.csv: is not a table of a network's errors; remove it"
    ):
        load_errors(str(tmp_path / "m.pt"))


def test_means_by_frequency_are_those_of_the_waves_next_to_it():
    squares = np.full((3, 64, 64), 2.0)
    squares[:, 0, 0] = 50
    found = by_frequency(squares)
    assert (
        found.shape == (3, len(FREQUENCIES)) and found[:, 0].min() > 2 and (found[:, 1:] == 2).all()
    )
    assert (
        by_frequency(np.ones((3, 4, 4))) == 1
    ).all()  # where there is none so low, that of the next


@pytest.mark.parametrize("dataset", ["demo", "photo"])
def test_shipped_priors_have_a_table_that_knows_what_they_cannot_see(dataset):
    errors = load_errors(
        project(load_model_config(project(f"configs/model_config_{dataset}.yaml"))["model_path"])
    )
    low, high = (
        errors.deviation(1.0, (64, 64), torch.device("cpu"))[0, 0, n].item() for n in (1, 63)
    )
    assert (
        0.2 < low < 1.05 and high < 0.2 * low
    )  # under much noise what is fine has little left to err by


def test_a_prior_without_a_table_is_taken_for_a_usual_one_and_told(capsys):
    from guided_diffusion import errors

    errors.usual_errors.cache_clear()
    g = Chain(GaussianPrior(errors=False), 1, BatchRandom([0]))
    root, *_ = g.errors.around(normal(0, 1, 3, 16, 16), 0.5)
    said = capsys.readouterr().err
    assert (
        said.startswith("warning: this prior has no table of its errors")
        and len(said.strip().splitlines()) == 1
    )
    assert (
        root(normal(1, 1, 3, 16, 16)).std() < 0.5
        and g.errors.variances.min() > np.log(LEAST)
        and isinstance(g.errors, Errors)
    )


def test_intervals_hold_what_they_say_of_draws_that_are_as_the_truth_is():
    parts = {"": torch.ones(60, 60, dtype=torch.bool)}
    found = [
        calibrated(normal(n, 5, 3, 60, 60), normal(100 + n, 3, 60, 60), parts) for n in range(4)
    ]
    figures = summarised(found)
    for nominal in (50, 83, 95):
        assert figures[f"inside_{nominal}"] == pytest.approx(nominal / 100, abs=0.01)
    assert figures["spread_over_error"] == pytest.approx(1, abs=0.02)
    assert figures["crps"] == pytest.approx(
        (2 / np.pi) ** 0.5 * 2**0.5 - 1 / np.pi**0.5, abs=0.01
    )  # E|a - b| / 2, normal
    assert np.array(figures["ranks"]) / sum(figures["ranks"]) == pytest.approx(
        np.full(6, 1 / 6), abs=0.01
    )


def test_samples_that_are_surer_than_they_may_be_are_told():
    figures = calibrated(
        0.3 * normal(0, 5, 3, 60, 60),
        normal(1, 3, 60, 60),
        {"": torch.ones(60, 60, dtype=torch.bool)},
    )
    assert figures["inside_83"] < 0.5 and figures["apart"] / figures["error"] < 0.5
    assert figures["ranks"][0] + figures["ranks"][-1] > 0.6 * sum(
        figures["ranks"]
    )  # the truth lies outside of all


def test_values_that_are_equal_take_any_rank():
    found = ranks(torch.ones(3, 3, 40, 40), torch.ones(3, 40, 40))
    assert sum(found) == 4800 and min(found) > 1000


def test_steep_is_the_tenth_where_brightness_changes_most():
    x = torch.zeros(3, 20, 20)
    x[:, :, 10:] = 1
    found = steep(x)
    assert found[:, 9:11].all() and found.sum() == 40


def test_an_interval_of_two_samples_is_wider_than_of_many():
    width = lambda count: torch.sub(*reversed(interval(normal(0, count, 3, 30, 30)))).mean()
    assert width(2) > 2 * width(8) > 0


@pytest.mark.parametrize("name", OURS)
def test_the_preset_for_samples_draws_and_searches_nothing(name):
    h = load_hyperparameters(load_method(name), "super_resolution", "posterior")
    assert h.searches == 0 and isinstance(h.start, Drawn)
