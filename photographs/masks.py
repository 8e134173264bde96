"""Masks of missing pixels: which file belongs to a picture, and what its values mean."""

import os
import re

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy import ndimage

from photographs.arrays import is_array, load_array
from util.files import UserError
from util.images import UNREADABLE, is_grey_mode, listed, unreadable

BESIDE = re.compile(
    r"(.+?)[-_.](?:inpaint_?)?mask[-_]?\d*", re.IGNORECASE
)  # the names of LaMa (a_mask, a_mask001) and of others
NEAR_WHITE = 0.95  # of the largest value: what is darker may be the soft edge of a brush, and holds some of what was painted over
HALF_GONE = 0.5  # share of a picture above which a mask may be meant the other way round


def owner(stem):
    """Whose mask a file without its suffix is by its name: a_mask001 -> a; None if its name does not say so."""
    found = BESIDE.fullmatch(stem)
    return found[1] if found else None


def without_masks(names):
    """Those of the names of images that are no mask of another one among them."""
    stems = {os.path.splitext(name)[0] for name in names}
    return [name for name in names if owner(os.path.splitext(name)[0]) not in stems]


def mask_of(given, path, name):
    """The mask file of the picture `path`, called `name` in the run: `given` itself or, in that folder, by its path there, by its file's
    name, or by that name followed by _mask. Raises UserError where there is none, where there are several and where it is the picture."""
    if not os.path.isdir(given):
        if os.path.exists(given) and os.path.exists(path) and os.path.samefile(given, path):
            raise UserError(
                f"--mask {given}: is the picture itself; name the file that shows what is missing"
            )
        return given
    for folder, stem in dict.fromkeys((os.path.split(name), ("", os.path.basename(name)))):
        there = os.path.join(given, folder)
        files = sorted(os.listdir(there)) if os.path.isdir(there) else []
        found = [
            file
            for file in files
            if stem in (os.path.splitext(file)[0], owner(os.path.splitext(file)[0]))
            and not file.startswith(".")
        ]
        found = [os.path.join(there, file) for file in found]
        found = [
            file for file in found if os.path.isfile(file) and not os.path.samefile(file, path)
        ]
        exact = [file for file in found if os.path.splitext(os.path.basename(file))[0] == stem]
        if len(exact or found) > 1:
            several = listed([os.path.basename(file) for file in exact or found])
            raise UserError(
                f"--mask {given}: has several masks for {path} ({several}); leave one there"
            )
        if found:
            return (exact or found)[0]
    stem = os.path.basename(name)
    raise UserError(
        f"--mask {given}: has no file called {stem} or {stem}_mask, for {path}; put it there or name one file for all"
    )


def _brightness(path):
    """((H, W) float64, what its transparency says or None): the values of a mask file, upright."""
    if is_array(path):
        return load_array(path, "a mask").astype(np.float64), None
    try:
        with Image.open(path) as opened:
            if getattr(opened, "n_frames", 1) > 1:
                raise UserError(f"{path}: has {opened.n_frames} pages; save the mask by itself")
            image = ImageOps.exif_transpose(opened)
            if not image.has_transparency_data:
                return np.asarray(
                    image if is_grey_mode(image.mode) else image.convert("L"), np.float64
                ), None
            image = image.convert("RGBA")
    except UNREADABLE as error:
        raise unreadable(path, error, f"a mask ({error})") from error
    opacity = np.asarray(image.getchannel("A"), np.float64) / 255
    values = np.asarray(image.convert("RGB").convert("L"), np.float64)
    if opacity.min() == 1:
        return values, None
    if opacity.max() == 1 and values[opacity == 1].max() < 128:  # dark paint on a transparent layer
        return values * opacity + 255 * (1 - opacity), "its dark paint is what is missing"
    return 255 * opacity, "its transparent part is what is missing"


def load_mask(path, invert=False, grow=0):
    """A mask file -> ((1, 1, H, W) float32, 0 where the picture is missing, else 1; what should be said of it, or None).

    Near white is measured, all else is missing; of two values the brighter one is white, whatever they are. invert: the other way round, as
    other programs have it; grow: pixels by which the hole grows on every side. Raises UserError for a file that is unreadable, that is one grey
    all over, or that leaves nothing.
    """
    values, said = _brightness(path)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise UserError(f"{path}: is no mask; it needs two dimensions of finite numbers")
    levels = np.unique(values)
    if len(levels) == 1 and levels[0] not in (0, 1, 255, 65535):
        raise UserError(
            f"{path}: this mask is {levels[0]:g} all over; paint what is there white and what is missing black"
        )
    if len(levels) == 2 and list(levels) not in ([0, 255], [0, 65535]):
        said = (
            f"of its two values, {levels[0]:g} and {levels[1]:g}, "
            + ("the smaller" if not invert else "the larger")
            + " is what is missing"
        )
    elif len(levels) > 2 and (levels[-1] < 200 or levels[0] < 0):
        said = f"its values go from {levels[0]:g} to {levels[-1]:g}, the largest is taken for white"
    top, low = (levels[-1] or 1, min(levels[0], 0)) if len(levels) != 2 else (levels[1], levels[0])
    shade = (values - low) / (top - low) if top > low else values
    if len(levels) > 2 and ((shade > 1 - NEAR_WHITE) & (shade < NEAR_WHITE)).mean() > HALF_GONE:
        raise UserError(
            f"{path}: is no mask, for most of it is neither black nor white; paint what is there white and what is missing black"
        )
    there = (1 - shade if invert else shade) >= NEAR_WHITE
    if grow:
        there = (
            ~ndimage.binary_dilation(~there, ndimage.generate_binary_structure(2, 2), grow)
            if not there.all()
            else there
        )
    if not there.any():
        raise UserError(
            f"{path}: this mask leaves nothing of the picture; white means that it is there (--invert-mask for the other way round)"
        )
    return torch.from_numpy(there).float()[None, None], said


def around_holes(mask, margin):
    """The slices (rows, columns) of a mask, (1, 1, H, W), that hold all its holes and `margin` pixels around them, or up to its border."""
    found = []
    for dim, side in ((-1, mask.shape[-2]), (-2, mask.shape[-1])):
        holes = (mask[0, 0] == 0).any(dim).nonzero()
        found.append(
            slice(max(0, int(holes.min()) - margin), min(side, int(holes.max()) + 1 + margin))
        )
    return tuple(found)
