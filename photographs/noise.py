"""Blind estimation of an image's noise: its standard deviation, and whether it is white."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

ENOUGH = 20  # blocks, or windows, that an estimate needs
PERCENTILE = 0.07  # of the blocks: the flattest ones, of noise and little else
# What the flattest blocks measure for white noise of deviation 1, {side: (fine part, all of it)}:
# means over 512 x 512 px.
OF_WHITE = {8: (0.767, 0.860), 16: (0.878, 0.933)}
# Of images with more px, evenly spaced squares of SQUARE px a side are used.
LARGEST, SQUARE = 1 << 18, 64
WHITE = (
    0.75  # least ratio of fine noise to all noise if white; demosaiced, resized, JPEG: 0.15-0.65
)
# Largest ratio of the noise in blocks of 16 to that in blocks of 8; that of texture is larger.
LEVELS_OFF = 1.5
PATCHES = (
    (5, 2),
    (3, 1),
)  # (side, stride) of patches, the second for images too small for the first
FLAT, LEAST = 0.3, 0.1  # the share of flattest patches, the share of least components
PER_COMPONENT = 15  # patches per component that are needed to separate components
GRAIN = 0.015  # largest deviation, 2 of 255, of fine texture in a photograph's flattest blocks
CLEAR = 2.0  # standard deviations of a block's mean from black and white, where noise is clipped
TO_SIGMA = 0.6744897501960817  # median of |n|, n standard normal (Donoho & Johnstone 1994)


class Noise(NamedTuple):
    """sigma: standard deviation, in the image's units; kind: "white", "coloured" (not white) or
    "hidden" (no area is flat enough to separate noise from texture; sigma is for white noise)."""

    sigma: float
    kind: str


def squares(x):
    """x, (1, C, H, W) -> (N, C, h, w): itself or, if it is large, squares spaced evenly over it."""
    height, width = x.shape[-2:]
    if height * width <= LARGEST:
        return x
    per_side = int((LARGEST / SQUARE**2) ** 0.5)
    tops, lefts = (
        torch.linspace(0, side - SQUARE, min(per_side, side // SQUARE)).long().tolist()
        for side in (height, width)
    )
    return torch.cat(
        [x[..., top : top + SQUARE, left : left + SQUARE] for top in tops for left in lefts]
    )


def _blocks(x, side):
    """Half overlapping blocks of x, (N, C, H, W) -> (C, blocks, side^2)."""
    blocks = F.unfold(x.transpose(0, 1).reshape(-1, 1, *x.shape[-2:]), side, stride=side // 2)
    return blocks.unflatten(0, (x.shape[1], -1)).permute(0, 1, 3, 2).flatten(1, 2)


def _plane(side):
    """An orthonormal basis of the quadratic polynomials on a block, (side^2, 6)."""
    along = torch.linspace(-1, 1, side)
    v, u = (one.flatten() for one in torch.meshgrid(along, along, indexing="ij"))
    return torch.linalg.qr(torch.stack([torch.ones_like(u), u, v, u * v, u * u, v * v], 1))[0]


def _fine(x):
    """High-pass filtered x (Immerkaer 1996), of deviation 1 for white noise of deviation 1."""
    taps = torch.tensor([1.0, -2.0, 1.0])
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(padded, torch.outer(taps, taps)[None, None] / 6).view_as(x)


def spoilt_px(x, observed):
    """How unusable each px is, (N, C, H, W): 0; 1 in blank areas, where 5 x 5 px are equal; 100
    next to unobserved ones."""
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    blank = F.max_pool2d(padded, 5, 1) == -F.max_pool2d(-padded, 5, 1)
    return torch.where(F.max_pool2d(1 - observed, 3, 1, 1) > 0, 100.0, blank.float())


def _figures(x, spoilt, side):
    """For the blocks of each channel, (C, blocks) each: mean, deviation of the fine part, deviation
    from a quadratic polynomial, usable. None where x is smaller than a block."""
    if min(x.shape[-2:]) < side:
        return None
    values, fine, bad = (_blocks(one, side) for one in (x, _fine(x), spoilt))
    basis = _plane(side)
    # The squared norm along the orthonormal basis is subtracted.
    rest = values.square().sum(2) - (values @ basis).square().sum(2)
    rest = (rest / (side**2 - 6)).clamp(min=0)
    return values.mean(2), fine.square().mean(2).sqrt(), rest.sqrt(), bad.mean(2) < 0.1


def _flattest(figures, side, sigma):
    """(deviation of the fine part, of all but a quadratic polynomial) in the flattest blocks, means
    over the channels; None if too few are usable. sigma: an estimate, by which blocks must differ
    from black and white."""
    channels = []
    for mean, *deviations, whole in zip(*figures) if figures else ():
        clear = whole & (mean.abs() < 1 - CLEAR * sigma)
        chosen = clear if clear.sum() >= ENOUGH else whole
        if chosen.sum() >= ENOUGH:
            quantiles = [torch.quantile(one[chosen], PERCENTILE).item() for one in deviations]
            channels.append([one / white for one, white in zip(quantiles, OF_WHITE[side])])
    return [sum(column) / len(channels) for column in zip(*channels)] if channels else None


def _least_components(x, spoilt, sigma):
    """The deviation of the least principal components of flat patches over all channels; None if
    too few patches are usable.

    Noise is in every component, texture in few (Pyatykh, Hesser, Zheng 2013). For pure noise it is
    a tenth too small.
    """
    for side, stride in PATCHES:
        patches, bad = (
            F.unfold(one, side, stride=stride).transpose(1, 2).flatten(0, 1) for one in (x, spoilt)
        )
        patches = patches[(bad.amax(1) == 0) & (patches.abs().mean(1) < 1 - CLEAR * sigma)]
        flattest = patches.var(1).argsort()[: int(FLAT * len(patches))]
        if len(flattest) >= PER_COMPONENT * patches.shape[1]:
            variances = torch.linalg.eigvalsh(torch.cov(patches[flattest].T.double()))
            least = variances[: max(1, int(LEAST * len(variances)))]
            return least.mean().clamp(min=0).sqrt().item()
    return None


def _of_windows(x, spoilt):
    """The median absolute difference of the diagonals of usable 2 x 2 windows, as a deviation; None
    if there are too few."""
    taps = torch.tensor([[0.5, -0.5], [-0.5, 0.5]])[None, None]
    x, spoilt = (one.flatten(0, 1)[:, None] for one in (x, spoilt))
    whole = F.conv2d(spoilt, torch.ones(1, 1, 2, 2)) == 0
    if whole.sum() < 5 * ENOUGH:
        return None
    return F.conv2d(x, taps)[whole].abs().median().item() / TO_SIGMA


def estimate_noise(x, observed):
    """The Noise of an image x, (1, C, H, W) in [-1, 1], from its observed px; None if too few of
    them are neighbours.

    observed: (1, 1, H, W), 1 or 0. Sigma is 0 for a blank image.

    In flat areas all variation is noise of any spectrum: the deviation of the flattest blocks from
    a quadratic polynomial. Differences of neighbours measure white noise more precisely, as texture
    affects them less. If these are smaller, the noise is not white (larger blocks have hardly more
    of it) or it is texture (they have).
    """
    if (x == x[:, :1]).all():  # grey: repeated channels would be components without noise
        x = x[:, :1]
    x, observed = squares(x), squares(observed)
    spoilt, estimate = spoilt_px(x, observed), 0.0
    figures = {side: _figures(x, spoilt, side) for side in (8, 16)}
    for _ in range(3):  # the estimate decides which blocks are used
        small, large = (_flattest(figures[side], side, estimate) for side in (8, 16))
        if small is None:
            return _without_blocks(x, observed, spoilt)
        # A smaller block may be flatter.
        sigma, estimate = min(small[0], (large or small)[0]), small[1]
    white = sigma >= WHITE * small[1]
    if not white and large and large[1] <= LEVELS_OFF * small[1]:
        return Noise(large[1], "coloured")
    # Texture of the blocks is subtracted as far as patches allow, without a limit if not white.
    least, texture = _least_components(x, spoilt, sigma), GRAIN if white else sigma
    if least is not None:
        sigma = min(sigma, max(least, max(sigma**2 - texture**2, 0) ** 0.5))
    return Noise(sigma, "white" if white else "hidden")


def _without_blocks(x, observed, spoilt):
    """The Noise where too few blocks are usable."""
    sigma = _of_windows(x, torch.where(observed == 1, (spoilt == 1).float(), 100.0))
    if sigma is None and observed.mean() > 0.5:
        return Noise(0.0, "white")  # blank
    return None if sigma is None else Noise(sigma, "hidden")
