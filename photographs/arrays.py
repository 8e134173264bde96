"""Files of numbers, for kernels and masks: NumPy's, FITS, TIFF with any values."""

import os

import numpy as np
import tifffile
from PIL import Image, ImageOps

from util.files import UserError
from util.images import UNREADABLE, is_grey_mode, unreadable

FITS = (".fits", ".fit", ".fts")
OTHERS = (
    ".mat",
    ".npz",
    ".csv",
    ".txt",
    ".h5",
    ".hdf5",
    ".exr",
    ".pfm",
    ".fits.gz",
    ".fz",
    ".dm3",
    ".dm4",
    ".mrc",
)


def is_array(path):
    """Is it a file that holds numbers and no picture?"""
    return path.lower().endswith((".npy", *FITS, *OTHERS))


def _fits(path):
    try:
        from astropy.io import fits
    except ImportError as error:
        raise UserError(
            f"{path}: is FITS, which astropy reads (pip install astropy); or save the values as .npy"
        ) from error
    with fits.open(path) as units:
        found = next(
            (
                unit.data
                for unit in units
                if getattr(unit, "data", None) is not None and unit.data.dtype.names is None
            ),
            None,
        )
    if found is None:
        raise UserError(f"{path}: has no image in it; save the values as .npy")
    return np.asarray(found)


def load_array(path, what):
    """The values of a .npy or FITS file, dimensions of one left out, float64 or bool. what: what it should be, for the error. Raises UserError
    for what cannot be read, and for a stack of pictures."""
    if path.lower().endswith(OTHERS):
        raise UserError(
            f"{path}: cannot be read as {what}; save its values as .npy: numpy.save('{os.path.basename(path).split('.')[0]}.npy', values)"
        )
    try:
        values = _fits(path) if path.lower().endswith(FITS) else np.load(path, allow_pickle=False)
        if np.iscomplexobj(values):
            raise ValueError("its numbers are complex")
        values = np.squeeze(values.astype(np.float64))
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise unreadable(
            path, error, f"{what} ({error}); give an image or a .npy of two dimensions"
        ) from error
    if values.ndim > 2:
        raise UserError(
            f"{path}: is a stack, {' x '.join(map(str, values.shape))}; save {what} of two dimensions"
        )
    return values


def _float64_tiff(path):
    """(H, W) of a TIFF of 64-bit numbers, NumPy's own, which Pillow does not read; None where it is none."""
    try:
        values = tifffile.imread(path) if path.lower().endswith((".tif", ".tiff")) else None
    except (
        Exception
    ):  # whatever a file that is no TIFF makes its reader say; Pillow's reason is told
        return None
    return values.astype(np.float64) if values is not None and values.ndim == 2 else None


def load_picture_values(path, what):
    """((H, W, C) float64, (H, W) opacity in [0, 1] or None): the values of an image file as they are, colours as 0 … 255. Raises UserError for
    what cannot be read, and for several pages."""
    try:
        with Image.open(path) as opened:
            if getattr(opened, "n_frames", 1) > 1:
                raise UserError(
                    f"{path}: is a stack of {opened.n_frames} pages; save {what} by itself"
                )
            image = ImageOps.exif_transpose(opened)
            opacity = (
                np.asarray(image.convert("RGBA").getchannel("A"), np.float64) / 255
                if image.has_transparency_data
                else None
            )
            image = (
                image
                if is_grey_mode(image.mode) and image.mode not in ("LA", "La")
                else image.convert("RGB")
            )
            values = np.asarray(image, np.float64)
    except UNREADABLE as error:
        values, opacity = _float64_tiff(path), None
        if values is None:
            raise unreadable(
                path, error, f"{what} ({error}); give an image or a .npy of two dimensions"
            ) from error
    return values[..., None] if values.ndim == 2 else values, opacity
