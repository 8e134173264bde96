"""How much noise a picture has, and whether it is white, told from the picture alone."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

ENOUGH = 20  # blocks, or windows, below which nothing is told
PERCENTILE = 0.07  # of the blocks: the flattest ones, where there is noise and little else
# What the flattest blocks have of white noise of deviation 1: {side: (fine part, all of it)}, means of 512 x 512 pixels.
OF_WHITE = {8: (0.767, 0.860), 16: (0.878, 0.933)}
LARGEST = (
    1 << 18
)  # pixels; of larger pictures evenly spread squares of SQUARE pixels a side are looked at
SQUARE = 64
WHITE = 0.75  # fine noise over all noise, at least, where it is white; demosaiced, resized or JPEG's has 0.15 to 0.65
LEVELS_OFF = (
    1.5  # noise of blocks of 16 over that of blocks of 8, at most; what is texture goes on growing
)
PATCHES = (
    (5, 2),
    (3, 1),
)  # (side, from one to the next) of patches, the second where a picture is too small for the first
FLAT, LEAST = 0.3, 0.1  # the share of flattest patches, the share of least components
PER_COMPONENT = 15  # patches a component, below which components are not told from one another
GRAIN = 0.015  # the deviation of fine texture, at most, that the flattest blocks of a photograph hold beside noise: 2 of 255
CLEAR = 2.0  # standard deviations that a block's mean keeps from black and white, where noise is cut off
TO_SIGMA = 0.6744897501960817  # the median of |n|, n standard normal (Donoho & Johnstone 1994)


class Noise(NamedTuple):
    """sigma: the standard deviation, in the picture's units; kind: "white", "coloured" (not white), or "hidden" (no place is flat
    enough to tell noise from texture; sigma is of white noise)."""

    sigma: float
    kind: str


def _squares(x):
    """x, (1, C, H, W) -> (N, C, h, w): itself, or of a large one squares that are spread evenly over it."""
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
    parts = F.unfold(x.transpose(0, 1).reshape(-1, 1, *x.shape[-2:]), side, stride=side // 2)
    return parts.unflatten(0, (x.shape[1], -1)).permute(0, 1, 3, 2).flatten(1, 2)


def _plane(side):
    """An orthonormal basis of the quadratic polynomials on a block, (side^2, 6)."""
    along = torch.linspace(-1, 1, side)
    v, u = (one.flatten() for one in torch.meshgrid(along, along, indexing="ij"))
    return torch.linalg.qr(torch.stack([torch.ones_like(u), u, v, u * v, u * u, v * v], 1))[0]


def _fine(x):
    """What neighbours do not have in common, of deviation 1 for white noise of deviation 1 (the filter of Immerkaer 1996)."""
    taps = torch.tensor([1.0, -2.0, 1.0])
    out = F.conv2d(
        F.pad(x, (1, 1, 1, 1), mode="reflect").flatten(0, 1)[:, None],
        torch.outer(taps, taps)[None, None] / 6,
    )
    return out.view_as(x)


def _spoilt(x, observed):
    """How little a pixel says, (N, C, H, W): 0, 1 on a blank page, where 5 x 5 are the same, and 100 beside one that was not measured."""
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    blank = F.max_pool2d(padded, 5, 1) == -F.max_pool2d(-padded, 5, 1)
    return torch.where(F.max_pool2d(1 - observed, 3, 1, 1) > 0, 100.0, blank.float())


def _figures(x, spoilt, side):
    """Of each block of each channel its mean, the deviations of its fine part and of what a quadratic polynomial leaves of it, and whether it
    says anything: each (C, blocks), None where a picture is smaller than a block."""
    if min(x.shape[-2:]) < side:
        return None
    values, fine, bad, basis = (
        _blocks(x, side),
        _blocks(_fine(x), side),
        _blocks(spoilt, side),
        _plane(side),
    )
    # What lies along the orthonormal basis is taken off, in squares.
    rest = ((values.square().sum(2) - (values @ basis).square().sum(2)) / (side**2 - 6)).clamp(
        min=0
    )
    return values.mean(2), fine.square().mean(2).sqrt(), rest.sqrt(), bad.mean(2) < 0.1


def _flattest(figures, side, sigma):
    """(deviation of the fine part, of all but a quadratic polynomial) of the flattest blocks, means over the channels; None where too few say
    anything. sigma: a first guess, by which blocks keep clear of black and white."""
    found = []
    for mean, *deviations, whole in zip(*figures) if figures else ():
        clear = whole & (mean.abs() < 1 - CLEAR * sigma)
        chosen = clear if clear.sum() >= ENOUGH else whole
        if chosen.sum() >= ENOUGH:
            found.append(
                [
                    torch.quantile(one[chosen], PERCENTILE).item() / white
                    for one, white in zip(deviations, OF_WHITE[side])
                ]
            )
    return [sum(column) / len(found) for column in zip(*found)] if found else None


def _least_components(x, spoilt, sigma):
    """The deviation of what varies least in flat patches, all channels together: noise is in each of their components, texture in few
    (Pyatykh, Hesser, Zheng 2013). None where too few patches say anything. Of noise alone it is a tenth too low."""
    for side, stride in PATCHES:
        patches, bad = (
            F.unfold(one, side, stride=stride).transpose(1, 2).flatten(0, 1) for one in (x, spoilt)
        )
        patches = patches[(bad.amax(1) == 0) & (patches.abs().mean(1) < 1 - CLEAR * sigma)]
        flattest = patches.var(1).argsort()[: int(FLAT * len(patches))]
        if len(flattest) >= PER_COMPONENT * patches.shape[1]:
            variances = torch.linalg.eigvalsh(torch.cov(patches[flattest].T.double()))
            return (
                variances[: max(1, int(LEAST * len(variances)))].mean().clamp(min=0).sqrt().item()
            )
    return None


def _of_windows(x, spoilt):
    """The median size of what 2 x 2 pixels differ by along both diagonals, as a deviation, where all four say something; None where too few
    do."""
    taps = torch.tensor([[0.5, -0.5], [-0.5, 0.5]])[None, None]
    x, spoilt = (one.flatten(0, 1)[:, None] for one in (x, spoilt))
    whole = F.conv2d(spoilt, torch.ones(1, 1, 2, 2)) == 0
    return (
        F.conv2d(x, taps)[whole].abs().median().item() / TO_SIGMA
        if whole.sum() >= 5 * ENOUGH
        else None
    )


def estimate_noise(x, observed):
    """The Noise of a picture x, (1, C, H, W) in [-1, 1], from the pixels where `observed`, (1, 1, H, W), is 1; None where too few
    neighbours are. 0 where all is blank.

    Where a picture is flat, all that varies is noise, and all noise is there whatever its colour: what a quadratic polynomial leaves of
    the flattest blocks. White noise is told more exactly by the differences of neighbours, which texture spoils less. If these explain
    less than there is, it is either noise that is not white, of which larger blocks hold hardly more, or texture, of which they do.
    """
    x, observed = _squares(x), _squares(observed)
    spoilt, guess = _spoilt(x, observed), 0.0
    figures = {side: _figures(x, spoilt, side) for side in (8, 16)}
    for _ in range(3):  # the guess by which blocks keep clear
        small, large = (_flattest(figures[side], side, guess) for side in (8, 16))
        if small is None:
            break
        sigma, guess = (
            min(small[0], (large or small)[0]),
            small[1],
        )  # a smaller block finds a flatter place
    if small is None:
        sigma = _of_windows(x, torch.where(observed == 1, (spoilt == 1).float(), 100.0))
        if sigma is None and observed.mean() > 0.5:
            return Noise(0.0, "white")  # a blank page
        return None if sigma is None else Noise(sigma, "hidden")
    white = sigma >= WHITE * small[1]
    if not white and large and large[1] <= LEVELS_OFF * small[1]:
        return Noise(large[1], "coloured")
    # The blocks' own texture is taken off, as far as patches say that it is none: where all is texture, without a limit.
    least, texture = _least_components(x, spoilt, sigma), GRAIN if white else sigma
    if least is not None:
        sigma = min(sigma, max(least, max(sigma**2 - texture**2, 0) ** 0.5))
    return Noise(sigma, "white" if white else "hidden")
