"""Posterior samples whose distribution is known: that of Gaussian images is Gaussian and exact."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from guided_diffusion.ddim import ABAR, Chain, even_sigmas
from guided_diffusion.errors import (
    COLOURS,
    FREQUENCIES,
    LEAST,
    Errors,
    by_frequency,
    dct,
    idct,
    load_errors,
    write_errors,
)
from guided_diffusion.prior import load_model_config
from solvers import posterior
from solvers.init import Antithetic, AntitheticByGradient
from solvers.least_squares import LinearTask, silent
from solvers.posterior import posterior_sample
from util.files import UserError, project
from util.intervals import calibration as calibrated
from util.intervals import interval, ranks, steep, summarised
from util.rng import BatchRandom

SIDE, COUNT, SIGMA = 26, 50, 0.05
SHAPE = (3, SIDE, SIDE)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def power():
    """The variance of an image's DCT, (3, H, W): 1/f^2 in brightness, a fifth of it in colours; the
    values' standard deviation is 0.15."""
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
        )  # as `timestep_of` takes it
        abar = 1 / (1 + spread)
        x0_hat = idct(power() / (power() + spread) * dct(x / abar**0.5))
        return (x - abar**0.5 * x0_hat) / (1 - abar) ** 0.5

    def around(self, x0_hat, sigma):
        deviation = (1 / (1 / power() + 1 / sigma**2)).sqrt()
        return (lambda u: idct(deviation * dct(u)),) * 2 + (lambda u: idct(dct(u) / deviation),)


MASK = (normal(1, 1, 1, SIDE, SIDE) > 0.5).float()
KERNEL = torch.exp(-(torch.linspace(-2, 2, 7) ** 2) / 2)
KERNEL = (KERNEL[:, None] * KERNEL / KERNEL.sum() ** 2).expand(3, 1, 7, 7)
OPERATORS = {
    "inpainting": lambda x: MASK * x,
    "blur": lambda x: F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), KERNEL, groups=3),
    "super-resolution": lambda x: F.avg_pool2d(x, 2),
}


def exact(operator, y):
    """(means, deviation) of the posterior given y, (B, 3, H, W) and (3, H, W), in closed form."""
    size = 3 * SIDE**2
    basis = torch.eye(size).view(-1, *SHAPE)
    covariance = idct(power() * dct(basis)).reshape(size, size).double()
    a = operator(basis).flatten(1).T.double()
    gain = covariance @ a.T @ torch.linalg.inv(a @ covariance @ a.T + SIGMA**2 * torch.eye(len(a)))
    left = covariance - gain @ a @ covariance
    return (y.flatten(1).double() @ gain.T).view(-1, *SHAPE).float(), left.diagonal().clamp(
        min=0
    ).sqrt().view(SHAPE).float()


def measured(operator, truths):
    """Measurements of as many pictures of that power."""
    y = operator(idct(power().sqrt() * dct(normal(3, truths, *SHAPE))))
    return y + SIGMA * normal(4, *y.shape)


def a_sample(g, task, sigma, on_step):
    sigmas = even_sigmas(120, 0.08, denser=1.5)
    return posterior_sample(g, task, sigma, sigmas, 0.1, 30, on_step)


def pair(kind=Antithetic, top=0.0):
    return kind(steps=20, last=0.05, top=top, data_steps=20)


def one_of_a_pair(*arguments, **how):
    return pair(**how).samples(*arguments)[0]


def samples_of(operator, y, network, kind):
    """COUNT samples, as many for each of the measurements: (COUNT, 3, H, W)."""
    each = y.repeat(COUNT // len(y), 1, 1, 1)
    task = LinearTask(operator, each, normal(2, COUNT, *SHAPE))
    return kind(Chain(network, 1, BatchRandom(range(COUNT))), task, SIGMA, silent)


KINDS = {
    "posterior": a_sample,
    "pair": one_of_a_pair,
    "pair by gradient": partial(one_of_a_pair, kind=AntitheticByGradient),
    "pair from noise 2": partial(one_of_a_pair, top=2.0),
}


def rms(x):
    return x.square().mean().sqrt().item()


# Of twelve, half a minute each, three are fast enough together.
FAST = {("inpainting", "posterior"), ("blur", "pair"), ("super-resolution", "pair by gradient")}
CASES = [
    pytest.param(*case, marks=[] if case in FAST else [pytest.mark.slow])
    for case in itertools.product(OPERATORS, KINDS)
]


@pytest.mark.parametrize("name, kind", CASES)
def test_samples_have_the_posterior_distribution(name, kind):
    """2,028 values, 50 samples, of ten images."""
    operator = OPERATORS[name]
    y = measured(operator, 10)
    means, deviation = exact(operator, y)
    off = samples_of(operator, y, GaussianPrior(), KINDS[kind]).view(-1, *means.shape) - means
    assert rms(off) == pytest.approx(rms(deviation), rel=0.03)
    assert (
        rms(off.mean(0)) < 1.2 * rms(deviation) / len(off) ** 0.5
    )  # 1, if nothing but chance moves a mean of five
    assert 0.81 < (off.abs() <= stats.norm.ppf(0.5 + 0.83 / 2) * deviation).float().mean() < 0.85


class White(GaussianPrior):
    """The same network, of whose errors only the size is known."""

    def around(self, x0_hat, sigma):
        alike = (1 / (1 / power() + 1 / sigma**2)).mean().sqrt()
        return (lambda u: alike * u,) * 2 + (lambda u: u / alike,)


def test_samples_by_white_errors_have_another_distribution():
    operator = OPERATORS["super-resolution"]
    y = measured(operator, 10)
    means, deviation = exact(operator, y)
    off = samples_of(operator, y, White(), one_of_a_pair).view(-1, *means.shape) - means
    assert off.square().mean().sqrt() != pytest.approx(
        deviation.square().mean().sqrt().item(), rel=0.03
    )


class Modest(GaussianPrior):
    """The same network, of whose errors somebody has measured 1.3 times as much."""

    def around(self, x0_hat, sigma):
        root, _, inverse = super().around(x0_hat, sigma)
        return (lambda u: 1.3 * root(u),) * 2 + (lambda u: inverse(u) / 1.3,)


@pytest.mark.slow
def test_the_error_scale_corrects_a_table_of_too_large_errors(monkeypatch):
    operator = OPERATORS["inpainting"]
    y = measured(operator, 10)
    means, deviation = exact(operator, y)

    def ratio():
        off = samples_of(operator, y, Modest(), a_sample).view(-1, *means.shape) - means
        return rms(off) / rms(deviation)

    scaled = ratio()
    monkeypatch.setattr(posterior, "ERROR_RATE", 0)
    assert abs(scaled - 1) < 0.5 * abs(ratio() - 1)


def test_the_gradient_knows_what_a_table_of_errors_does_not():
    operator = OPERATORS["inpainting"]
    y = measured(operator, 10)
    means, _ = exact(operator, y)

    def off(kind):
        samples = samples_of(operator, y, White(), KINDS[kind]).view(-1, *means.shape)
        return rms(samples.mean(0) - means)

    assert off("pair by gradient") < 0.95 * off("pair")


def test_a_pairs_noise_is_antithetic():
    operator = OPERATORS["blur"]
    y = measured(operator, 1)
    mean, deviation = exact(operator, y)

    def problem():
        task = LinearTask(operator, y, normal(2, 1, *SHAPE))
        return Chain(GaussianPrior(), 1, BatchRandom([0])), task, SIGMA, silent

    def off(x):
        return (x - mean).square().mean()

    one, other = pair().samples(*problem())
    assert torch.equal(pair()(*problem()), (one + other) / 2)
    # All is nearly linear here: the noise cancels.
    assert off((one + other) / 2) < 0.1 * off(one)
    assert off(one) > 0.3 * deviation.square().mean()


@pytest.mark.parametrize("kind", ["posterior", "pair"])
def test_a_grey_pictures_measurement_counts_once(kind):
    grey = normal(5, 1, 1, SIDE, SIDE).clamp(-3, 3).expand(1, *SHAPE) / 5
    task = LinearTask(lambda x: x, grey, normal(2, 1, *SHAPE))
    sigmas = []

    def whitened_update(x, root, transposed, sigma, y, steps):
        sigmas.append(sigma)
        return torch.ones_like(x)

    task.whitened_update = whitened_update
    KINDS[kind](Chain(GaussianPrior(), 1, BatchRandom([0])), task, SIGMA, silent)
    expected = torch.full((len(sigmas), 1, 1, 1, 1), 3**0.5 * SIGMA)
    torch.testing.assert_close(torch.stack(sigmas), expected)


def test_the_dct_is_orthonormal_and_inverted():
    x = normal(6, 2, 3, 10, 17)
    assert dct(x).square().sum() == pytest.approx(x.square().sum().item(), rel=1e-5)
    torch.testing.assert_close(idct(dct(x)), x, rtol=0, atol=1e-5)
    grey = torch.ones(1, 3, 8, 8)
    result = dct(grey)
    assert result[0, 0, 0, 0] == pytest.approx(
        8 * 3**0.5, rel=1e-5
    ) and result.abs().sum() == pytest.approx(result[0, 0, 0, 0].item(), rel=1e-4)
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
    result = by_frequency(squares)
    assert (
        result.shape == (3, len(FREQUENCIES))
        and result[:, 0].min() > 2
        and (result[:, 1:] == 2).all()
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

    errors.default_errors.cache_clear()
    g = Chain(GaussianPrior(errors=False), 1, BatchRandom([0]))
    root, *_ = g.errors.around(normal(0, 1, 3, 16, 16), 0.5)
    message = capsys.readouterr().err
    assert (
        message.startswith("warning: this prior has no table of its errors")
        and len(message.strip().splitlines()) == 1
    )
    assert (
        root(normal(1, 1, 3, 16, 16)).std() < 0.5
        and g.errors.variances.min() > np.log(LEAST)
        and isinstance(g.errors, Errors)
    )


def test_intervals_hold_what_they_say_of_draws_that_are_as_the_truth_is():
    areas = {"": torch.ones(60, 60, dtype=torch.bool)}
    result = [
        calibrated(normal(n, 5, 3, 60, 60), normal(100 + n, 3, 60, 60), areas) for n in range(4)
    ]
    figures = summarised(result)
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
    )  # outside of all


def test_values_that_are_equal_take_any_rank():
    result = ranks(torch.ones(3, 3, 40, 40), torch.ones(3, 40, 40))
    assert sum(result) == 4800 and min(result) > 1000


def test_steep_is_the_tenth_where_brightness_changes_most():
    x = torch.zeros(3, 20, 20)
    x[:, :, 10:] = 1
    result = steep(x)
    assert result[:, 9:11].all() and result.sum() == 40


def test_an_interval_of_two_samples_is_wider_than_of_many():
    def width(count):
        return torch.sub(*reversed(interval(normal(0, count, 3, 30, 30)))).mean()

    assert width(2) > 2 * width(8) > 0
