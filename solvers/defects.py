"""Defects of a photograph (hot pixels, salt and pepper, specks): px that neither their neighbours
nor the network explain."""

import numpy as np
import torch
from scipy import ndimage

from guided_diffusion.measurements import masking
from solvers.init import PlugAndPlayByErrors
from solvers.least_squares import LinearTask, silent

WIDEST = 1  # px, of a mark
THRESHOLD = 1.75  # see `find_defects`
QUANTILE = 0.8  # of the differences around a px: specks do not change it, scratches do
FLOOR = 0.03  # least detail, in units of [-1, 1]: of blank areas, where it is 0
MOST = 0.5  # of a mark's px too wide: part of the picture; of a colour's px marked: of defects
HALF = 0.5  # of the threshold, for px of such a colour
LEVEL = 255  # white of 8 bits: px of one colour agree to within such a step
ESTIMATE = PlugAndPlayByErrors(steps=4, top=0.3)  # of the suspected px; 8 steps find no more
# For `seems_defective`: a clear outlier, and the share of them from which on it is no texture.
# Of 68 pictures without defects none has more than 0.006 %; 0.5 % impulses leave 0.35 %.
CLEAR, SHARE, MIDDLE = 6.0, 0.0005, 512  # the latter px a side, examined


def from_medians(y, width):
    """(differences of y, (3, H, W), from medians of windows that marks of `width` px do not change;
    their detail, (H, W): how large they usually are nearby), of y's units."""
    side = 2 * width + 1
    medians = np.stack([ndimage.median_filter(one, side, mode="mirror") for one in y.numpy()])
    differences = y - torch.from_numpy(medians)
    largest = differences.abs().amax(0).numpy()
    detail = ndimage.percentile_filter(largest, 100 * QUANTILE, 2 * side - 1, mode="mirror")
    return differences, torch.from_numpy(detail) + FLOOR


def with_colours(marks, weak, y):
    """The marks, (H, W) bool, and those of the px `weak`, (H, W) bool, whose colour in y,
    (3, H, W), is that of defects: most px of this colour are marked, as of salt and pepper."""
    levels = ((y.double() + 1) * LEVEL / 2).round().long()
    colours = (levels[0] * (LEVEL + 1) + levels[1]) * (LEVEL + 1) + levels[2]
    _, index, counts = np.unique(colours.numpy(), return_inverse=True, return_counts=True)
    index = index.reshape(marks.shape)
    is_defects = np.bincount(index[marks], minlength=len(counts)) > MOST * counts
    return marks | weak & is_defects[index]


def without_wide(marks, widest):
    """The marks, (H, W) bool, without connected ones that are mostly wider than `widest` px."""
    labels, count = ndimage.label(marks, np.ones((3, 3)))
    wide = ndimage.binary_opening(marks, np.ones((widest + 1,) * 2))
    return marks & (ndimage.mean(wide, labels, np.arange(count + 1)) < MOST)[labels]


def seems_defective(y):
    """Whether the middle of a photograph y, (1, 3, H, W) in [-1, 1], seems to have impulses; found
    without a network."""
    top, left = (max(0, (side - MIDDLE) // 2) for side in y.shape[-2:])
    differences, detail = from_medians(y[0, :, top : top + MIDDLE, left : left + MIDDLE], 1)
    return bool((differences.abs().amax(0) > CLEAR * detail).float().mean() > SHARE)


@torch.no_grad()
def find_defects(g, y, observed, sigma, widest=WIDEST, threshold=THRESHOLD):
    """The mask of a photograph y, (1, 3, H, W) in [-1, 1]: (1, 1, H, W) float32, 0 at defects,
    else 1.

    Px that differ from the median of their neighbours are suspected. The network estimates them
    from the others; those that differ from this estimate, too, are defects. If they have a common
    colour, half of the difference from the median suffices for others of it.

    g: the chain; observed: (1, 1, H, W), 0 where px are missing; sigma: of the noise; widest: the
    widest mark, px; threshold: of both differences, in units of the detail (`from_medians`), of a
    mark w px wide sqrt(w) times as large.
    """
    of_medians, suspected = [], torch.zeros(y.shape[-2:], dtype=torch.bool)
    weak = suspected.clone()
    for width in range(1, widest + 1):
        differences, detail = from_medians(y[0].cpu(), width)
        limit = width**0.5 * threshold * detail
        of_medians.append((differences.abs() > limit, limit))
        suspected |= of_medians[-1][0].any(0)
        weak |= (differences.abs() > HALF * limit).any(0)
    mask = observed * ~suspected.to(y.device)
    estimate = ESTIMATE(g, LinearTask(masking(mask), y * mask, y), sigma, silent)
    error = (y - estimate)[0].abs().cpu()
    marks = torch.stack([(far & (error > limit)).any(0) for far, limit in of_medians]).any(0)
    marks = (
        with_colours(marks.numpy(), weak.numpy(), y[0].cpu()) & (observed[0, 0].cpu() > 0).numpy()
    )
    marks = without_wide(marks, widest)
    return 1 - torch.from_numpy(marks).float()[None, None]
