"""Masks of missing px: what the values of a file mean."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from scipy import ndimage

from experiment.problem import Window
from photographs.arrays import is_array, load_array
from util.files import UserError
from util.images import UNREADABLE, is_grey_mode, refuse_fits, unreadable

# Of the largest value: darker px may be the soft edge of a brush, partly painted over.
NEAR_WHITE = 0.95
SEPARATE = 0.7  # share of one window's px up to which holes have windows of their own
HALF_GONE = 0.5  # share missing above which a mask may be inverted


def _brightness(path):
    """A mask file -> ((H, W) float64, upright; how its transparency is understood, or None)."""
    if is_array(path):
        return load_array(path, "a mask").astype(np.float64), None
    try:
        refuse_fits(path)
        with Image.open(path) as opened:
            if getattr(opened, "n_frames", 1) > 1:
                raise UserError(f"{path}: has {opened.n_frames} pages; save the mask by itself")
            image = ImageOps.exif_transpose(opened)
            if not image.has_transparency_data:
                image = image if is_grey_mode(image.mode) else image.convert("L")
                return np.asarray(image, np.float64), None
            image = image.convert("RGBA")
    except UNREADABLE as error:
        raise unreadable(path, error, f"a mask ({error})") from error
    opacity = np.asarray(image.getchannel("A"), np.float64) / 255
    values = np.asarray(image.convert("RGB").convert("L"), np.float64)
    if opacity.min() == 1:
        return values, None
    if opacity.max() == 1 and values[opacity == 1].max() < 128:  # dark paint on a transparent layer
        return values * opacity + 255 * (1 - opacity), "its dark paint is missing"
    return 255 * opacity, "its transparent part is missing"


def _shade(path, values, levels):
    """(values scaled so that white is 1 and black 0, how, or None). levels: the distinct values."""
    bottom, top, remark = levels[0], levels[-1], None
    if len(levels) == 1 and bottom not in (0, 1, 255, 65535):
        raise UserError(
            f"{path}: this mask is {bottom:g} all over; paint what is there white and what is "
            "missing black"
        )
    if len(levels) == 2 and list(levels) not in ([0, 255], [0, 65535]):
        remark = f"of its two values, {bottom:g} and {top:g}, the larger is white"
    elif len(levels) > 2 and (top < 200 or bottom < 0):
        remark = f"its values are {bottom:g} to {top:g}, the largest is white"
    if len(levels) != 2:
        bottom, top = min(bottom, 0), top or 1
    return (values - bottom) / (top - bottom) if top > bottom else values, remark


def grown(mask, px):
    """A mask, (1, 1, H, W), 0 where px are missing, else 1, with its holes `px` larger on every
    side."""
    return 1 - F.max_pool2d(1 - mask, 2 * px + 1, 1, px)


def load_mask(path, invert=False, grow=0):
    """A mask file -> ((1, 1, H, W) float32, 0 where the photograph is missing, else 1; a remark on
    how it was understood, or None).

    White is present, everything else missing; of two values the larger one is white. invert: white
    is missing, as in other programs; grow: px by which the holes grow on every side. Raises
    UserError for a file that is unreadable, of one grey all over, or that leaves nothing.
    """
    values, of_transparency = _brightness(path)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise UserError(f"{path}: is no mask; it needs two dimensions of finite numbers")
    levels = np.unique(values)
    shade, remark = _shade(path, values, levels)
    is_between = (shade > 1 - NEAR_WHITE) & (shade < NEAR_WHITE)
    if len(levels) > 2 and is_between.mean() > HALF_GONE:
        raise UserError(
            f"{path}: is no mask, as most of it is neither black nor white; paint what is there "
            "white and what is missing black"
        )
    there = (1 - shade if invert else shade) >= NEAR_WHITE
    mask = grown(torch.from_numpy(there).float()[None, None], grow)
    if not mask.any():
        raise UserError(
            f"{path}: this mask leaves nothing of the photograph; white means that it is there "
            "(--invert-mask: that it is missing)"
        )
    return mask, remark or of_transparency


def _around(boxes, height):
    """Windows of one height, that of the largest of the boxes (rows, columns), each around one."""
    largest, windows = max(rows.stop - rows.start for rows, _ in boxes), []
    for rows, columns in boxes:
        first = min(max(0, (rows.start + rows.stop - largest) // 2), height - largest)
        windows.append(Window(slice(first, first + largest), columns, rows))
    return tuple(windows)


def _union(boxes):
    """The box around boxes."""
    return tuple(
        slice(min(one.start for one in side), max(one.stop for one in side)) for side in zip(*boxes)
    )


def _overlap(*boxes):
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(*boxes))


def area(windows):
    """The px of windows side by side."""
    rows = windows[0].rows
    return (rows.stop - rows.start) * sum(one.width for one in windows)


def around_holes(mask, margin):
    """The Windows of a mask, (1, 1, H, W), that contain its holes and `margin` px around them, as
    far as it extends: one, or several where that is much less to restore."""
    near = ndimage.maximum_filter(mask[0, 0].numpy() == 0, 2 * margin + 1, mode="constant")
    boxes = []
    for box in ndimage.find_objects(ndimage.label(near)[0]):
        while touched := [one for one in boxes if _overlap(one, box)]:
            boxes = [one for one in boxes if one not in touched]
            box = _union([*touched, box])
        boxes.append(box)
    several, single = (_around(some, len(near)) for some in (boxes, [_union(boxes)]))
    return several if area(several) < SEPARATE * area(single) else single
