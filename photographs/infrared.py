"""Scans of film with an infrared channel, in which dust and scratches are dark and the picture is
hardly visible."""

import numpy as np
import tifffile
import torch
from PIL import Image
from scipy import ndimage

from photographs.reading import ORIENTATION, TURNS
from util.files import PictureError

REDUCED = 4  # times smaller, for the film around dust
AROUND = 15  # px of the reduced picture, for its median: wider than dust
SPREADS = 6  # times the infrared's own spread, from which on it is dark
LEAST = 0.05  # of the light: a smaller loss is no dust
SOFT = 1  # px around dust, partly covered
TO_SIGMA = 1.4826  # of a median absolute deviation


def read_infrared(path):
    """The fourth channel of a TIFF of R, G, B and infrared, upright: (H, W) float32 in [0, 1].
    Raises PictureError for other files."""
    advice = "--infrared: needs a TIFF of R, G, B and infrared, as VueScan's 64-bit RGBI"
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            values, opacity = page.asarray(), any(one in (1, 2) for one in page.extrasamples)
            turn = page.tags.get(ORIENTATION)
    except Exception as error:  # anything that a TIFF reader raises for other files
        raise PictureError(f"{path}: is no TIFF that can be read; {advice}") from error
    if values.ndim == 3 and len(values) == 4:  # one plane a channel
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[2] != 4 or opacity or values.dtype.kind != "u":
        raise PictureError(f"{path}: has no infrared channel; {advice}")
    infrared = values[..., 3].astype(np.float32) / np.iinfo(values.dtype).max
    turn = TURNS.get(turn.value if turn else 1)
    if turn:
        infrared = np.asarray(Image.fromarray(infrared).transpose(Image.Transpose[turn]))
    return np.ascontiguousarray(infrared)


def dust_mask(infrared):
    """Infrared, (H, W) in [0, 1] -> (1, 1, H, W) float32, 0 where dust absorbs light, else 1.

    What is left of the light, relative to the film around, has a spread of its own: noise and a
    trace of the picture. Dust is far darker than that.
    """
    height, width = infrared.shape
    small = np.asarray(
        Image.fromarray(infrared).resize(
            (max(1, width // REDUCED), max(1, height // REDUCED)), Image.BOX
        )
    )
    film = Image.fromarray(ndimage.median_filter(small, AROUND, mode="mirror"))
    film = np.asarray(film.resize((width, height), Image.BILINEAR))
    lost = 1 - infrared / np.maximum(film, 1e-6)
    spread = TO_SIGMA * np.median(np.abs(lost - np.median(lost)))
    dark = lost > max(LEAST, SPREADS * spread)
    dark = ndimage.binary_dilation(dark, np.ones((2 * SOFT + 1,) * 2))
    return 1 - torch.from_numpy(dark).float()[None, None]
