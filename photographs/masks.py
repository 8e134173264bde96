"""Masks of missing px: which file belongs to a photograph, and what its values mean."""

import os
import re

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy import ndimage

from photographs.arrays import is_array, load_array
from util.files import UserError
from util.images import UNREADABLE, is_grey_mode, listed, unreadable

# Names of masks, by LaMa (a_mask, a_mask001) and by others.
MASK_NAME = re.compile(r"(.+?)[-_.](?:inpaint_?)?mask[-_]?\d*", re.IGNORECASE)
# Of the largest value: darker px may be the soft edge of a brush, partly painted over.
NEAR_WHITE = 0.95
HALF_GONE = 0.5  # share missing above which a mask may be inverted


def owner(stem):
    """The image of a mask by its name without suffix: a_mask001 -> a; None for other names."""
    match = MASK_NAME.fullmatch(stem)
    return match[1] if match else None


def without_masks(names):
    """The names of images that are no mask of another one among them."""
    stems = {os.path.splitext(name)[0] for name in names}
    return [name for name in names if owner(os.path.splitext(name)[0]) not in stems]


def _masks_in(folder, stem, path):
    """The mask files in a folder for the photograph `path`, called `stem`; exact names only, if
    there are any."""
    files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    stems = {file: os.path.splitext(file)[0] for file in files if not file.startswith(".")}
    named = [file for file, one in stems.items() if stem in (one, owner(one))]
    masks = [os.path.join(folder, file) for file in named]
    masks = [mask for mask in masks if os.path.isfile(mask) and not os.path.samefile(mask, path)]
    exact = [mask for mask in masks if os.path.splitext(os.path.basename(mask))[0] == stem]
    return exact or masks


def mask_of(given, path, name):
    """The mask file for the photograph `path`, called `name` in the run.

    It is `given` or, in that folder, a file with the photograph's path, its name, or its name and
    _mask. Raises UserError if there is none, if there are several, or if it is the photograph.
    """
    if not os.path.isdir(given):
        if os.path.exists(given) and os.path.exists(path) and os.path.samefile(given, path):
            raise UserError(
                f"--mask {given}: is the photograph itself; name the file that shows what is "
                "missing"
            )
        return given
    stem = os.path.basename(name)
    for folder in dict.fromkeys((os.path.dirname(name), "")):
        masks = _masks_in(os.path.join(given, folder), stem, path)
        if len(masks) > 1:
            several = listed([os.path.basename(mask) for mask in masks])
            raise UserError(
                f"--mask {given}: has several masks for {path} ({several}); leave one there"
            )
        if masks:
            return masks[0]
    raise UserError(
        f"--mask {given}: has no file called {stem} or {stem}_mask, for {path}; put it there or "
        "name one file for all"
    )


def _brightness(path):
    """A mask file -> ((H, W) float64, upright; how its transparency is understood, or None)."""
    if is_array(path):
        return load_array(path, "a mask").astype(np.float64), None
    try:
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
    if grow and not there.all():
        square = ndimage.generate_binary_structure(2, 2)
        there = ~ndimage.binary_dilation(~there, square, grow)
    if not there.any():
        raise UserError(
            f"{path}: this mask leaves nothing of the photograph; white means that it is there "
            "(--invert-mask: that it is missing)"
        )
    return torch.from_numpy(there).float()[None, None], remark or of_transparency


def around_holes(mask, margin):
    """The slices (rows, columns) of a mask, (1, 1, H, W), that contain its holes and `margin` px
    around them, as far as it extends."""
    slices = []
    for dim, side in ((-1, mask.shape[-2]), (-2, mask.shape[-1])):
        holes = (mask[0, 0] == 0).any(dim).nonzero()
        first, last = int(holes.min()), int(holes.max())
        slices.append(slice(max(0, first - margin), min(side, last + 1 + margin)))
    return tuple(slices)
