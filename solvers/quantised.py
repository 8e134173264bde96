"""Quantised measurements (`guided_diffusion.jpeg.QuantisedOperator`): the posterior within their
intervals, given the network's estimate and its error."""

import math

import torch
import torch.nn.functional as F

from guided_diffusion.errors import local_scale
from guided_diffusion.jpeg import HALF, SIGMA
from solvers.least_squares import adjoint, conjugate_gradients

FLOOR = 1e-3  # of the variance in an interval, relative to the error's
MARGIN = 3  # times the noise before quantisation
SIGNS = 1, -1
LEVELS, HALVINGS = (0.002, 20.0), 30  # range and steps of the search for a sigma
PROJECTIONS = 4  # onto the intervals and onto [-1, 1] in turn


def truncated_moments(mean, deviation, low, high):
    """(mean, variance) of a normal variable that is known to lie in [low, high], in float64.

    Computed by scaled complementary error functions, exact far from the interval, too.
    """
    mean, deviation = mean.double(), deviation.double()
    a, b = (low - mean) / deviation, (high - mean) / deviation
    mirrored = a + b < 0
    a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)  # now b >= |a|
    decay = torch.exp((a.square() - b.square()).clamp(max=0) / 2)  # phi(b) / phi(a)
    root = (math.pi / 2) ** 0.5
    tail = torch.special.erfcx(a.clamp(min=0) / 2**0.5)
    tail = tail - torch.special.erfcx(b / 2**0.5) * decay
    near = torch.special.erf(b / 2**0.5) - torch.special.erf(a / 2**0.5)
    near = near * torch.exp(a.clamp(-20, 0).square() / 2)
    mass = root * torch.where(a > 0, tail, near)  # of the interval, over phi(a)
    shift = (1 - decay) / mass
    variance = 1 + (a - b * decay) / mass - shift.square()
    # Where phi(a) underflows the interval is the whole line to that side.
    far = a < -20
    shift, variance = torch.where(far, 0.0, shift), torch.where(far, 1.0, variance)
    shift = shift.clamp(min=a, max=b)
    return (
        mean + deviation * torch.where(mirrored, -shift, shift),
        deviation.square() * variance.clamp(FLOOR, 1),
    )


class QuantisedTask:
    """Quantised measurements y = A(x), (B, K, R, C), and their data steps. operator: A, a
    QuantisedOperator; like: any nonzero (B, 3, H, W)."""

    def __init__(self, operator, y, like):
        self.operator, self.y, self.like = operator, y, like
        self.transpose = adjoint(operator, like)

    def sites(self, x0_hat, errors, sigma_t):
        """(weight, slope), (B, K, R, C): of each measurement the Gaussian likelihood that gives it
        the mean and variance which it has in its interval, as its precision and as its logarithm's
        derivative at A(x0_hat). Both are 0 where the interval says nothing.

        The measurement of the network's estimate x0_hat has an error s by frequency and place;
        with the noise before quantisation it is normal, and cut to the interval.
        """
        c = self.operator(x0_hat)
        place = F.adaptive_avg_pool2d(local_scale(x0_hat).square(), c.shape[-2:])
        noise = self.operator.rounding.double().square()
        variance = self.operator.deviation(errors, sigma_t).double().square() * place + noise
        mean, cut = truncated_moments(c, variance.sqrt(), self.y - HALF, self.y + HALF)
        precision = (1 / cut - 1 / variance).clamp(min=0)
        known = 1 + noise * precision
        return (precision / known).float(), ((mean - c) / cut / known).float()

    def sample(self, x0_hat, errors, sigma_t, white, of_y, steps):
        """A posterior sample, (B, 3, H, W): of the Gaussian around the network's estimate x0_hat
        with the covariance of its error, conditioned on `sites`. white, of_y: standard normal,
        shaped like x and y, both 0 for the mean; steps: of conjugate gradients."""
        weight, slope = self.sites(x0_hat, errors, sigma_t)
        root, transposed, _ = errors.around(x0_hat, sigma_t)

        def back(v):
            return transposed(self.transpose(v))

        perturbed = weight * self.operator(root(white)) + weight.sqrt() * of_y
        u = conjugate_gradients(
            lambda u: back(weight * self.operator(root(u))) + u, back(slope - perturbed), steps
        )
        return (x0_hat + root(white + u)).clamp(-1, 1)

    def within(self, x):
        """x, (B, 3, H, W), moved until its measurements lie in their intervals, with a margin for
        the rounding of x to 8 bits, and its values in [-1, 1]."""
        margin = (MARGIN * self.operator.rounding).clamp(max=HALF / 2)
        for _ in range(PROJECTIONS):
            c = self.operator(x)
            inside = c.clamp(self.y - HALF + margin, self.y + HALF - margin)
            x = (x + self.operator.inverse(inside - c)).clamp(-1, 1)
        return x


def explained_share(operator, errors, sigma_t):
    """The share of the variance of the network's error under noise sigma_t, in the image, that
    a measurement in whole numbers makes known: of N(0, s^2) in steps, s^2 / (s^2 + 1 / 12)."""
    variance = operator.deviation(errors, sigma_t).square()
    in_image = variance * operator.gains
    return (in_image * variance / (variance + SIGMA**2)).sum().item() / in_image.sum().item()


def noise_levels(operator, errors, steps, first, last):
    """`steps` falling noise levels, a geometric sequence, from that at which the measurement has
    the share `first` of the network's error (`explained_share`) to that with the share `last`."""

    def sigma_of(share):
        low, high = (math.log(one) for one in LEVELS)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if explained_share(operator, errors, math.exp(middle)) < share:
                low = middle
            else:
                high = middle
        return math.exp(high)

    top, end = sigma_of(first), sigma_of(last)
    return [top * (end / top) ** (k / max(1, steps - 1)) for k in range(steps)]


@torch.no_grad()
def quantised_mean(g, task, sigmas, steps, on_step):
    """The mean, (B, 3, H, W), of two posterior samples with antithetic noise, moved into the
    intervals. task: a QuantisedTask; sigmas: falling noise levels; steps: of conjugate gradients at
    each of them.

    As `solvers.posterior.antithetic_samples`, from the picture that a decoder shows, with the
    likelihood of intervals in the place of Gaussian noise.
    """

    def noise(like):
        return g.rng.randn(like.shape[1:], like.device)

    operator = task.operator
    xs = [operator.possible(operator.inverse(task.y))] * 2
    for step, sigma_t in enumerate(sigmas):
        fresh, white, of_y = noise(task.like), noise(task.like), noise(task.y)
        zs = [x + sign * sigma_t * fresh for x, sign in zip(xs, SIGNS)]
        x0_hats = [operator.possible(g.denoised(z, sigma_t)) for z in zs]
        xs = [
            task.sample(x0_hat, g.errors, sigma_t, sign * white, sign * of_y, steps)
            for x0_hat, sign in zip(x0_hats, SIGNS)
        ]
        xs = [operator.possible(x) for x in xs]
        on_step(step + 1, len(sigmas), sum((operator(x) - task.y).square().sum() for x in xs))
    return task.within(sum(xs) / 2)
