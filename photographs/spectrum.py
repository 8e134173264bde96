"""Blind estimation of noise that is not white: its spectrum, and its growth with brightness."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import fft
from scipy.ndimage import gaussian_filter
from scipy.special import gammaincinv

from guided_diffusion.coloured import SIDE, ColouredNoise, Growth
from photographs.noise import estimate_noise, spoilt_px, squares
from photographs.reading import read_photograph
from util.files import UserError

# Squared coefficients are compared at this quantile: texture, which adds to few of them, raises it
# less than the median.
QUANTILE = 0.3
UNIT = 2 * gammaincinv(1 / 2, QUANTILE)  # that quantile of a squared standard normal
SMOOTHED = 2.0  # px, before gradients are compared, so that noise does not choose the blocks
FLAT, FLATTEST = 0.3, 0.1  # shares of the blocks, for the first estimate
FEWEST = 60  # blocks of an estimate
ROUNDS, LIMIT = 5, 2.0  # of choosing consistent blocks; standard deviations of their energy
CLEAR = 0.05  # distance of a block's mean from black and white, where noise is clipped
LEAST = 1e-3  # of a spectrum's mean, added before it is inverted
LOW = 2.0  # frequency index (radius) below which smooth changes of the image are stronger
RING = 5.0  # the spectrum from LOW to here is extrapolated to lower frequencies
# A coloured spectrum falls at least by this factor from index 3 to 7; that of demosaiced noise by
# 12, of texture or white noise by 4 at most (docs/LOG.md).
COLOURED = 0.2
# Largest standard deviation of a spectrum, in units of that of the flattest blocks: that of texture
# in all blocks is larger.
SURE = 1.28
BINS, PER_BIN = 8, 100  # of brightness; least number of blocks and channels in each
FINE = 3.0  # least frequency index at which brightnesses are compared
FINEST = 6.0  # least frequency index at which white noise under texture is measured
SPOILT = 0.1  # largest share of unusable px in a block
SMALLEST = 64  # px a side of a photograph of an even surface
CALM = 0.1  # quantile of the energies in a bin: texture adds to the others
ABOVE = 0.3  # weight of noise above the curve, which may be texture, that of noise below being 1
PREFERENCE = 0.03  # mean log variance by which growth must fit better than constant noise
KNOTS = 65  # of the curve
OFFSETS = 0.0, *np.geomspace(0.003, 0.3, 9)  # b / a of variance a x + b, x in 0 … 1
GAMMA = 2.2  # of the curve from linear light to px
# Largest ratio of plain to robust variances in a photograph of an even surface; 1 for normal noise.
EVEN = 1.7
DARKEST = 0.12  # px value below which noise that a gamma curve amplifies is clipped

RADIUS = torch.hypot(*torch.meshgrid(*[torch.arange(SIDE).double()] * 2, indexing="ij"))


class Bin(NamedTuple):
    """The mean px value and the log variance, relative to the spectrum's, of some blocks."""

    value: float
    level: float


def blocks_of(x):
    """Half overlapping blocks of x: (N, C, H, W) -> (blocks, C, SIDE, SIDE)."""
    found = F.unfold(x, SIDE, stride=SIDE // 2).transpose(1, 2)
    return found.reshape(-1, x.shape[1], SIDE, SIDE)


def coefficients(x):
    """The orthonormal DCT of each of `blocks_of`, float64."""
    return torch.from_numpy(fft.dctn(blocks_of(x).double().numpy(), axes=(-2, -1), norm="ortho"))


def gradients(x):
    """The variance of each of `blocks_of` after smoothing, a sum over channels: (blocks,)."""
    smooth = gaussian_filter(x.numpy(), (0, 0, SMOOTHED, SMOOTHED))
    return blocks_of(torch.from_numpy(smooth)).var((-2, -1)).sum(1)


def is_clear(c):
    """Whether blocks, as coefficients, are neither black nor white in any channel: (blocks,)."""
    return ((c[..., 0, 0] / SIDE).abs() < 1 - CLEAR).all(1)


def variances(c):
    """Robust variances of c over its first axis, which have mean 0."""
    return torch.quantile(c.square(), QUANTILE, dim=0) / UNIT


def covariances(c):
    """The spectrum, (SIDE, SIDE, C, C), of coefficients c, (blocks, C, SIDE, SIDE): covariances
    from the variances of sums and differences (Gnanadesikan & Kettenring 1972)."""
    deviation, channels = variances(c).clamp(min=1e-12).sqrt(), c.shape[1]
    unit = c / deviation
    table = torch.zeros(SIDE, SIDE, channels, channels, dtype=c.dtype)
    for i in range(channels):
        for j in range(channels):
            plus, minus = (variances(unit[:, i] + sign * unit[:, j]) for sign in (1, -1))
            correlation = (plus - minus) / (plus + minus).clamp(min=1e-12)
            table[..., i, j] = correlation * deviation[i] * deviation[j]
    values, axes = torch.linalg.eigh(table)
    return extrapolated((axes * values.clamp(min=0)[..., None, :]) @ axes.mT)


def second_moments(c):
    """As `covariances`, but not robust."""
    return extrapolated(torch.einsum("bcuv,bduv->uvcd", c, c) / len(c))


def power(table):
    """The mean over channels of a spectrum's variances, (SIDE, SIDE)."""
    return table.diagonal(dim1=-2, dim2=-1).mean(-1)


def extrapolated(table):
    """A spectrum whose lowest frequencies follow from those above: log-linear in the squared
    frequency, as for noise behind a short filter."""
    near = (RADIUS >= LOW) & (RADIUS < RING)
    logs = power(table)[near].clamp(min=1e-12).log()
    slope = min(0.0, np.polyfit(RADIUS[near].square(), logs, 1)[0])
    ring = (RADIUS >= LOW) & (RADIUS < LOW + 1)
    lifted = torch.exp(slope * (RADIUS.square() - RADIUS[ring].square().mean()))
    return torch.where(
        (RADIUS < LOW)[..., None, None], lifted[..., None, None] * table[ring].mean(0), table
    )


def falls_off(table):
    """Whether a spectrum falls too steeply for white noise with texture."""
    fine, coarse = RADIUS >= FINEST, (RADIUS >= LOW) & (RADIUS < FINE + 1)
    return bool(power(table)[fine].mean() < COLOURED * power(table)[coarse].mean())


def spectrum_of(x, usable):
    """The spectrum of the noise in x, (N, C, H, W).

    Robust, from the flattest blocks; then, repeatedly, from all whose energy is that of such noise,
    and in the end from all their values: a JPEG's noise is zero in most coefficients.
    """
    c = coefficients(x)
    total, fine = int(usable.sum()), RADIUS >= LOW
    by_gradient = torch.where(usable, gradients(x), torch.inf).argsort()
    table = covariances(c[by_gradient[: max(1, int(FLAT * total))]])
    fewest = min(total, max(FEWEST, int(FLATTEST * total)))
    for k in range(ROUNDS):
        floor = (LEAST * power(table).mean()).clamp(min=1e-9) * torch.eye(x.shape[1])
        whitened = torch.einsum("bcuv,uvcd,bduv->buv", c, torch.linalg.inv(table + floor), c)
        energy = whitened[:, fine].mean(1) / x.shape[1]
        limit = 1 + LIMIT * (2 / (int(fine.sum()) * x.shape[1])) ** 0.5
        agreeing = int((energy[usable] < limit).sum()) if k else 0
        order = torch.where(usable, energy, torch.inf).argsort()
        c_agreeing = c[order[: max(fewest, agreeing)]]
        table = covariances(c_agreeing) if k + 1 < ROUNDS else second_moments(c_agreeing)
    return table


def by_brightness(c, table, usable):
    """The noise by brightness, a list of Bins, from blocks with little texture in each."""
    fine, means = RADIUS >= FINE, (c[..., 0, 0] / SIDE)[usable].flatten()
    deviation = table.diagonal(dim1=-2, dim2=-1).permute(2, 0, 1).clamp(min=1e-12).sqrt()
    energies = (c / deviation)[..., fine].square().mean(-1)[usable].flatten()
    count, found = int(fine.sum()), []
    for part in means.argsort().chunk(max(1, min(BINS, len(means) // PER_BIN))):
        level = torch.quantile(energies[part], CALM) * count / (2 * gammaincinv(count / 2, CALM))
        calm = part[energies[part] <= torch.quantile(energies[part], 2 * CALM)]
        found.append(Bin(means[calm].mean().item(), level.clamp(min=1e-9).log().item()))
    return found


def of_photons(offset):
    """The variance of photon and read noise by px value in [-1, 1]: x + offset."""
    return lambda v: ((v + 1) / 2).clip(1 / 255) + offset


def behind_gamma(offset):
    """The same where px are linear light to the power 1 / GAMMA."""

    def variance(v):
        x = ((v + 1) / 2).clip(DARKEST)
        # Offsets in linear light matter where they are a hundred times smaller.
        return (x**GAMMA + offset / 10) * x ** (2 - 2 * GAMMA)

    return variance


def growth_of(bins, families):
    """The relative deviations at KNOTS that fit Bins best, of the families of variances that the
    functions of OFFSETS are, and of a constant; None for a constant."""
    values, levels = (np.array(column) for column in zip(*bins))

    def fit(variance):
        rest = levels - np.log(variance(values))
        losses = [
            np.where(rest < level, level - rest, ABOVE * (rest - level)).mean() for level in rest
        ]
        return min(losses), rest[np.argmin(losses)]

    best, chosen = fit(np.ones_like)[0] - PREFERENCE, None
    for variance in (family(offset) for family in families for offset in OFFSETS):
        loss, level = fit(variance)
        if loss < best:
            knots = np.linspace(-1, 1, KNOTS)
            best, chosen = loss, np.exp(level / 2) * np.sqrt(variance(knots))
    return chosen


class Estimate(NamedTuple):
    """noise: a ColouredNoise; is_coloured: False for white noise, to whose spectrum texture may
    have been added."""

    noise: ColouredNoise
    is_coloured: bool


def estimate_spectrum(x, observed, kind, pointwise):
    """The Estimate of the noise of an image x, (1, C, H, W) in [-1, 1], from its observed px; None
    if too few of them are neighbours.

    observed: (1, 1, H, W), 1 or 0; kind: that of `photographs.noise.estimate_noise`, "white" or
    "coloured"; pointwise: whether px of x are px of the restored image, so that the growth with
    brightness can be undone.
    """
    x, observed = squares(x), squares(observed)
    whole = blocks_of(spoilt_px(x, observed)).mean((1, 2, 3)) < SPOILT
    c = coefficients(x)
    usable = whole & is_clear(c)
    if usable.sum() < FEWEST:
        return None
    table = spectrum_of(x, usable)
    is_coloured = kind == "coloured" and falls_off(table)
    families = (of_photons, behind_gamma) if is_coloured else (of_photons,)
    relative = growth_of(by_brightness(c, table, usable), families) if pointwise else None
    if relative is None:
        return Estimate(ColouredNoise(table), is_coloured)
    growth = Growth(ColouredNoise(table).sigma * relative)
    table = spectrum_of(growth.stabilised(x), usable)
    return Estimate(ColouredNoise(table, growth), is_coloured)


def coloured_noise(x, observed, kind, pointwise):
    """The Estimate of the noise of an image x, or None if `estimate_noise` describes it: white
    noise that is the same everywhere. Arguments: those of `estimate_spectrum`."""
    found = estimate_spectrum(x, observed, kind, pointwise)
    growth = found and found.noise.growth
    if found is None or (kind == "white" and growth is None):
        return None
    sigma = estimate_noise(growth.stabilised(x) if growth else x, observed).sigma
    if found.is_coloured:
        return found if found.noise.sigma < SURE * sigma else None
    if kind == "coloured":  # texture, taken for noise of low frequency, over white noise
        fine = power(found.noise.spectrum)[RADIUS >= FINEST].mean().item() ** 0.5
        sigma = min(sigma, fine)
    return Estimate(ColouredNoise.white(sigma, x.shape[1], growth), is_coloured=False)


class Frame:
    """A photograph of an even surface, x, (1, 3, H, W) in [-1, 1], in which all variation but a
    smooth one is noise. is_even: whether it is one."""

    def __init__(self, x):
        self.x, c = x, coefficients(x)
        plain, robust = c.square().mean(0), variances(c)
        fine = RADIUS >= LOW
        self.is_even = bool(plain[:, fine].mean() < EVEN * robust[:, fine].mean())

    def noise_of(self, grey, pointwise):
        """The ColouredNoise of photographs that are grey or not; pointwise: see
        `estimate_spectrum`."""
        x = self.x.mean(1, keepdim=True) if grey else self.x
        c = coefficients(x)
        usable = is_clear(c)
        table = second_moments(c[usable])
        families = (of_photons, behind_gamma)
        relative = growth_of(by_brightness(c, table, usable), families) if pointwise else None
        if relative is None:
            return ColouredNoise(table)
        growth = Growth(ColouredNoise(table).sigma * relative)
        return ColouredNoise(second_moments(coefficients(growth.stabilised(x))[usable]), growth)


def read_frame(path, linear):
    """The Frame in a file. Raises UserError for a photograph of anything else."""
    x = read_photograph(path, linear).x
    frame = Frame(x) if min(x.shape[-2:]) >= SMALLEST else None
    if frame is None or not frame.is_even or is_clear(coefficients(x)).sum() < FEWEST:
        raise UserError(
            f"--noise {path}: is no photograph of an even surface, neither black nor white, of "
            f"{SMALLEST} px a side or more; fill the picture with a defocused wall or the sky, or "
            "leave the option out"
        )
    return frame
