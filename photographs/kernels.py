"""Blur kernels in files: their values as they are, and what looks as if they were not a kernel's."""

import numpy as np
import torch

from photographs.arrays import is_array, load_array, load_picture_values
from util.files import UserError

COLOURFUL = 0.1  # of the largest value, the mean difference of the channels beyond which brightness is not the kernel
BRIGHT_BORDER = (
    0.03  # of the largest value, the border's median: there a kernel has come to nothing
)
OFF_CENTRE = 1.0  # pixels


def _of_picture(path, said):
    """(h, w) float64: the brightness of a picture of a kernel, of what is painted on nothing the opacity."""
    values, opacity = load_picture_values(path, "a kernel")
    if values.shape[2] > 1 and (values.max(2) - values.min(2)).mean() > COLOURFUL * max(
        values.max(), 1
    ):
        said.append(
            "it is coloured: a colour map's brightness is not the kernel's values; save these as .npy or in grey"
        )
    kernel = values[..., 0] if values.shape[2] == 1 else values @ [0.299, 0.587, 0.114]
    if opacity is not None and opacity.min() < 1:
        kernel = kernel * opacity if (kernel * opacity).any() else opacity
    return kernel


def off_centre(kernel):
    """How far below and to the right of its middle a kernel's centre of mass lies, in pixels. kernel: (h, w), sum one."""
    return [
        float((kernel.sum(axis) * (np.arange(side) - side // 2)).sum())
        for axis, side in ((1, kernel.shape[0]), (0, kernel.shape[1]))
    ]


def centred(kernel):
    """The kernel, (h, w) of odd sides, with zeros added so that its centre of mass is in the pixel in the middle."""
    pads = [(max(0, -2 * round(off)), max(0, 2 * round(off))) for off in off_centre(kernel)]
    return np.pad(kernel, pads)


def load_kernel(path, flip=False, centre=False):
    """An image, .npy or FITS file -> ((1, h, w) float32, a list of what should be said of it): a blur kernel for cross-correlation. Negative values
    are set to 0, the sum is one, h and w are odd (a last row or column of zeros is added). flip: turn it by 180 degrees, for a file that
    means convolution; centre: move its centre of mass to its middle. Raises UserError for one that is unreadable, a stack or empty."""
    said = []
    kernel = load_array(path, "a kernel") if is_array(path) else _of_picture(path, said)
    if (
        kernel.ndim != 2
        or not kernel.size
        or not np.isfinite(kernel).all()
        or not (kernel > 0).any()
    ):
        raise UserError(
            f"{path}: is no kernel; it needs two dimensions of finite numbers, one of them above 0"
        )
    if -kernel.clip(None, 0).sum() > 0.01 * kernel.clip(0).sum():
        said.append("its negative values are set to 0")
    kernel = kernel.clip(0)
    border = np.concatenate([kernel[0], kernel[-1], kernel[:, 0], kernel[:, -1]])
    if (
        min(kernel.shape) > 2
        and kernel.min() < kernel.max()
        and np.median(border) > BRIGHT_BORDER * kernel.max()
    ):
        share = np.median(border) / kernel.max()
        said.append(
            f"its border is not dark ({share:.0%} of its largest value) and counts as blur: subtract the background, turn black on white round, "
            "cut a plot's frame off"
        )
    kernel = np.pad(kernel, [(0, 1 - side % 2) for side in kernel.shape])
    kernel = kernel[::-1, ::-1] if flip else kernel
    kernel = kernel / kernel.sum()
    down, right = off_centre(kernel)
    if centre:
        kernel = centred(kernel)
    elif max(abs(down), abs(right)) >= OFF_CENTRE:
        rows, columns = (
            f"{abs(down):.1f} px {'below' if down > 0 else 'above'}",
            f"{abs(right):.1f} px {'right' if right > 0 else 'left'}",
        )
        said.append(
            f"its centre of mass lies {rows} and {columns} of its middle, by which the result moves (--centre-kernel)"
        )
    return torch.from_numpy(np.ascontiguousarray(kernel)).float()[None], said
