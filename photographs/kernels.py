"""Blur kernels from files, with warnings about values that seem not to be a kernel's."""

import os

import numpy as np
import torch

from guided_diffusion.kernels import FAMILIES
from photographs.arrays import is_array, load_array, load_picture_values
from util.files import UserError

# Shares of the largest value: the mean difference of the channels above which the file is coloured,
# and the median of the border above which it is not dark.
COLOURFUL, BRIGHT_BORDER = 0.1, 0.03
LARGEST = 1000  # px: side of a kernel that is given by name
OFF_CENTRE = 1.0  # px
TRIMMED = 0.001  # largest share of a kernel's sum in the dark border that is trimmed


def _of_picture(path, warnings):
    """(h, w) float64: the brightness of an image of a kernel, times its opacity."""
    values, opacity = load_picture_values(path, "a kernel")
    difference = (values.max(2) - values.min(2)).mean()
    if values.shape[2] > 1 and difference > COLOURFUL * max(values.max(), 1):
        warnings.append(
            "it is coloured: the brightness of a colour map is not the kernel's values; save them "
            "as .npy or in grey"
        )
    kernel = values[..., 0] if values.shape[2] == 1 else values @ [0.299, 0.587, 0.114]
    if opacity is not None and opacity.min() < 1:
        kernel = kernel * opacity if (kernel * opacity).any() else opacity
    return kernel


def off_centre(kernel):
    """(down, right): the offset of a kernel's centre of mass from its middle, in px. kernel:
    (h, w), sum one."""
    return [
        float((kernel.sum(axis) * (np.arange(side) - side // 2)).sum())
        for axis, side in ((1, kernel.shape[0]), (0, kernel.shape[1]))
    ]


def centred(kernel):
    """The kernel, (h, w) with odd sides, padded so that its centre of mass is in the middle px."""
    pads = [(max(0, -2 * round(off)), max(0, 2 * round(off))) for off in off_centre(kernel)]
    return np.pad(kernel, pads)


def trimmed(kernel):
    """A kernel, (h, w) with odd sides and sum one, without its dark border, the middle px kept."""
    cut = []
    for axis, side in ((1, kernel.shape[0]), (0, kernel.shape[1])):
        line = kernel.sum(axis)
        border = np.cumsum((line + line[::-1])[: side // 2])
        count = int((border <= TRIMMED / 2).sum())
        cut.append(slice(count, side - count))
    kernel = kernel[tuple(cut)]
    return kernel / kernel.sum()


def _warn_of_border(kernel, warnings):
    border = np.concatenate([kernel[0], kernel[-1], kernel[:, 0], kernel[:, -1]])
    share = np.median(border) / kernel.max()
    if min(kernel.shape) > 2 and kernel.min() < kernel.max() and share > BRIGHT_BORDER:
        warnings.append(
            f"its border is not dark ({share:.0%} of its largest value) and counts as blur: "
            "subtract the background, invert black on white, crop the frame of a plot"
        )


def _warn_of_offset(kernel, warnings):
    down, right = off_centre(kernel)
    if max(abs(down), abs(right)) >= OFF_CENTRE:
        rows = f"{abs(down):.1f} px {'below' if down > 0 else 'above'}"
        columns = f"{abs(right):.1f} px {'right' if right > 0 else 'left'}"
        warnings.append(
            f"its centre of mass is {rows} and {columns} of its middle, by which the result is "
            "shifted (--centre-kernel)"
        )


def family_numbers(text):
    """The numbers of a kernel that is given by name, "motion 12 30"; empty if it is a file's path.
    Raises UserError for numbers that the family does not have."""
    name, *numbers = text.split() or [""]
    if name not in FAMILIES or os.path.exists(text):
        return ()
    family = FAMILIES[name]
    try:
        values = tuple(map(float, numbers))
    except ValueError:
        values = ()
    wanted = len(values) == len(family.numbers) and np.isfinite(values).all()
    if not wanted or not 0 < values[0] * family.widest <= LARGEST:
        raise UserError(
            f"--kernel {text}: must be {name} and {' and '.join(family.numbers)}, the first above "
            f"0 and at most {LARGEST / family.widest:.4g} px"
        )
    return values


def kernel_of_family(text):
    """A kernel that is given by name, (1, h, w) float32."""
    kernel = FAMILIES[text.split()[0]].kernel(*family_numbers(text))
    return torch.from_numpy(trimmed(kernel)).float()[None]


def load_kernel(path, flip=False, centre=False):
    """An image or .npy file -> ((1, h, w) float32, (h, w) of the file, warnings): a kernel for
    cross-correlation.

    Negative values are set to 0, the sum to one; a row or column of zeros makes h and w odd, then
    its dark border is trimmed. flip: rotate it by 180 degrees, for files meant for convolution;
    centre: move its centre of mass to its middle. Raises UserError for an unreadable file, a stack
    and an empty kernel.
    """
    warnings = []
    kernel = load_array(path, "a kernel") if is_array(path) else _of_picture(path, warnings)
    kernel = kernel if kernel.ndim == 2 and kernel.size else np.zeros((1, 1))
    if not np.isfinite(kernel).all() or not (kernel > 0).any():
        raise UserError(
            f"{path}: is no kernel; it needs two dimensions of finite numbers, one of them above 0"
        )
    if -kernel.clip(None, 0).sum() > 0.01 * kernel.clip(0).sum():
        warnings.append("its negative values are set to 0")
    kernel = kernel.clip(0)
    _warn_of_border(kernel, warnings)
    size = kernel.shape
    kernel = np.pad(kernel, [(0, 1 - side % 2) for side in size])
    kernel = kernel[::-1, ::-1] if flip else kernel
    kernel = kernel / kernel.sum()
    if centre:
        kernel = centred(kernel)
    else:
        _warn_of_offset(kernel, warnings)
    kernel = np.ascontiguousarray(trimmed(kernel))
    return torch.from_numpy(kernel).float()[None], size, warnings
