"""Arrays in files, for kernels and masks: NumPy, TIFF with any values."""

import os

import numpy as np
import tifffile
from PIL import Image, ImageOps

from util.files import UserError
from util.images import UNREADABLE, is_grey_mode, refuse_fits, unreadable

OTHERS = tuple(".mat .npz .csv .txt .h5 .hdf5 .exr .pfm .fz .dm3 .dm4 .mrc".split())


def is_array(path):
    """Whether a file holds an array rather than an image."""
    return path.lower().endswith((".npy", *OTHERS))


def load_array(path, what):
    """A .npy file -> its values, float64, of two dimensions if the others have length one.

    what: what it should be, for errors. Raises UserError for unreadable files and for stacks.
    """
    if path.lower().endswith(OTHERS):
        stem = os.path.basename(path).split(".")[0]
        raise UserError(
            f"{path}: cannot be read as {what}; save its values as .npy: "
            f"numpy.save('{stem}.npy', values)"
        )
    try:
        values = np.load(path, allow_pickle=False)
        if np.iscomplexobj(values):
            raise ValueError("its numbers are complex")
        values = values.astype(np.float64)
        while values.ndim > 2 and 1 in values.shape:
            values = values.squeeze(values.shape.index(1))
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise _neither(path, error, what) from error
    if values.ndim > 2:
        raise UserError(
            f"{path}: is a stack, {' x '.join(map(str, values.shape))}; save {what} of two "
            "dimensions"
        )
    return values


def _neither(path, error, what):
    """The error for a file that is no image and no array."""
    return unreadable(path, error, f"{what} ({error}); give an image or a .npy of two dimensions")


def _float64_tiff(path):
    """(H, W) of a TIFF of 64-bit numbers, which NumPy writes and Pillow cannot read, else None."""
    try:
        values = tifffile.imread(path) if path.lower().endswith((".tif", ".tiff")) else None
    except Exception:  # anything a TIFF reader raises for other files; Pillow's error is reported
        return None
    return values.astype(np.float64) if values is not None and values.ndim == 2 else None


def load_picture_values(path, what):
    """An image file -> ((H, W, C) float64, colours as 0 … 255; (H, W) opacity in [0, 1] or None).

    Raises UserError for unreadable files and for several pages.
    """
    try:
        refuse_fits(path)
        with Image.open(path) as opened:
            if getattr(opened, "n_frames", 1) > 1:
                raise UserError(
                    f"{path}: is a stack of {opened.n_frames} pages; save {what} by itself"
                )
            image, opacity = ImageOps.exif_transpose(opened), None
            if image.has_transparency_data:
                opacity = np.asarray(image.convert("RGBA").getchannel("A"), np.float64) / 255
            is_grey = is_grey_mode(image.mode) and image.mode not in ("LA", "La")
            values = np.asarray(image if is_grey else image.convert("RGB"), np.float64)
    except UNREADABLE as error:
        values, opacity = _float64_tiff(path), None
        if values is None:
            raise _neither(path, error, what) from error
    return values[..., None] if values.ndim == 2 else values, opacity
