"""Blur kernels, matrices of reduction, warping, and their application to images."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.ndimage import gaussian_filter

from motionblur.motionblur import Kernel

FINE = 8  # samples along each side of a px of kernels that are given by formulas


def cubic(x, a=-0.5):
    """The cubic interpolation kernel (Keys 1981), 0 beyond 2."""
    x = np.abs(x)
    inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
    outer = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0))


def resampling_matrix(size, factor, weight, reach, width):
    """(size / factor, size) float32: reduces one axis with weights weight((centre - tap) / width)
    of sum one, 0 beyond `reach` widths; the signal is mirrored at its ends, edge samples repeated.
    width: the factor, against aliasing, or 1."""
    centres = (np.arange(size // factor) + 0.5) * factor - 0.5
    taps = np.floor(centres - reach * width)[:, None] + np.arange(2 * reach * width + 2)
    weights = weight((centres[:, None] - taps) / width)
    weights /= weights.sum(1, keepdims=True)
    mirror = np.concatenate([np.arange(size), np.arange(size)[::-1]])
    matrix = np.zeros((size // factor, size))
    np.add.at(
        matrix, (np.arange(size // factor)[:, None], mirror[taps.astype(int) % (2 * size)]), weights
    )
    return torch.from_numpy(matrix).float()


def bicubic_matrix(size, factor):
    """Bicubic reduction of one axis as in MATLAB's imresize: a = -0.5, antialiased. Source:
    Resizer, the predecessor of assafshocher/ResizeRight."""
    return resampling_matrix(size, factor, cubic, 2, factor)


def lanczos_matrix(size, factor):
    """Lanczos reduction of one axis, three lobes, antialiased: Pillow's LANCZOS but for borders."""

    def lanczos(x):
        return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)

    return resampling_matrix(size, factor, lanczos, 3, factor)


def plain_cubic_matrix(size, factor):
    """Bicubic reduction of one axis without antialiasing, a = -0.75: OpenCV's INTER_CUBIC and
    PyTorch's interpolate except at borders."""
    return resampling_matrix(size, factor, lambda x: cubic(x, -0.75), 2, 1)


def area_matrix(size, factor):
    """The mean of each `factor` samples of one axis: OpenCV's INTER_AREA, Pillow's BOX, binning."""
    return torch.eye(size // factor).repeat_interleave(factor, 1) / factor


def nearest_matrix(size, factor):
    """x[::factor] along one axis: OpenCV's INTER_NEAREST, PyTorch's nearest."""
    return torch.eye(size)[: size // factor * factor : factor]


FILTERS = {
    "bicubic": bicubic_matrix,
    "lanczos": lanczos_matrix,
    "area": area_matrix,
    "cubic": plain_cubic_matrix,
    "nearest": nearest_matrix,
}


def gaussian_kernel(size, sigma, numpy_rng, torch_rng):
    """(size, size) float64: scipy's gaussian_filter of a point at the centre; sigma in px."""
    # The published code stores the kernel in a Conv2d of 3 channels, whose initial weights come
    # from the same generator as the noise after them.
    torch.empty(3 * size * size).uniform_(generator=torch_rng)
    point = np.zeros((size, size))
    point[size // 2, size // 2] = 1
    return gaussian_filter(point, sigma)


def motion_kernel(size, intensity, numpy_rng, torch_rng):
    """(size, size) float64: a random camera shake; intensity: 0 (straight) … 1 (most erratic)."""
    return Kernel(size=(size, size), intensity=intensity, rng=numpy_rng).kernelMatrix


def disk_kernel(radius):
    """(k, k) float64: a uniform disk, the blur of a defocused lens; radius in px."""
    down, right = fine_grid(radius)
    return averaged(np.hypot(down, right) <= max(radius, 0.5))


def line_kernel(length, angle):
    """(k, k) float64: a straight line 1 px wide, the blur of a steady motion; length in px, angle
    in degrees, counterclockwise from the right."""
    down, right = fine_grid((length + 1) / 2)
    along = np.cos(np.deg2rad(angle)) * right - np.sin(np.deg2rad(angle)) * down
    across = np.sin(np.deg2rad(angle)) * right + np.cos(np.deg2rad(angle)) * down
    return averaged((np.abs(along) <= max(length, 1) / 2) & (np.abs(across) <= 0.5))


def round_kernel(sigma):
    """(k, k) float64: a Gaussian; its standard deviation in px."""
    down, right = fine_grid(3 * sigma)
    return averaged(np.exp(-(down**2 + right**2) / (2 * sigma**2)))


def fine_grid(reach):
    """(down, right) in px from the centre: FINE x FINE samples in each of (k, k) px, k odd and
    large enough for `reach`."""
    side = 2 * max(1, math.ceil(reach - 0.5)) + 1
    along = (np.arange(side * FINE) + 0.5) / FINE - side / 2
    return along[:, None], along[None]


def averaged(samples):
    """The mean of each px of a `fine_grid`, divided by their sum."""
    side = len(samples) // FINE
    kernel = samples.astype(np.float64).reshape(side, FINE, side, FINE).mean((1, 3))
    return kernel / kernel.sum()


class Family(NamedTuple):
    """Kernels of one or two numbers. kernel: a function of them; numbers: their names; widest: the
    kernel's side in units of the first one; grids: values where a search begins, evenly spaced."""

    kernel: Callable
    numbers: tuple
    widest: float
    grids: tuple


FAMILIES = {
    "motion": Family(line_kernel, ("length", "angle"), 1, (range(3, 32, 2), range(0, 180, 10))),
    "disk": Family(disk_kernel, ("radius",), 2, (range(1, 11),)),
    "gauss": Family(round_kernel, ("sigma",), 6, ((0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0),)),
}


def mirrored(x, border, dim):
    """x extended by `border` px at both ends of an axis, mirrored without repeating the edge.
    Unlike F.pad, its gradient is deterministic on a GPU."""
    before, after = x.narrow(dim, 1, border), x.narrow(dim, x.shape[dim] - 1 - border, border)
    return torch.cat([before.flip(dim), x, after.flip(dim)], dim)


def mirrored_after(x, multiple, dim):
    """x extended at the end of an axis to a multiple of `multiple`, mirrored without repeating the
    edge; a single px is repeated."""
    if x.shape[dim] == 1:
        return x.repeat_interleave(multiple, dim)
    while missing := -x.shape[dim] % multiple:
        more = min(missing, x.shape[dim] - 1)
        x = torch.cat([x, x.narrow(dim, x.shape[dim] - 1 - more, more).flip(dim)], dim)
    return x


def correlating(kernels, size):
    """The cross-correlation of each image with its own kernel, without a border: a function (B, 3,
    H, W) -> (B, 3, H - h + 1, W - w + 1).

    kernels: (B, h, w); size: (H, W). Computed by FFT: the published kernels are 64 x 64.
    """
    valid = [n - k + 1 for n, k in zip(size, kernels.shape[-2:])]
    spectrum = torch.fft.rfft2(kernels, size)[:, None].conj()

    def correlate(x):
        full = torch.fft.irfft2(torch.fft.rfft2(x) * spectrum, size)
        return full[..., : valid[0], : valid[1]]

    return correlate


def lit_beyond_white(y, kernel, clipped):
    """Where y may contain light from lamps brighter than white: (1, 1, h, w), 0 or 1.

    y: (1, 3, h, w) in [-1, 1], a cross-correlation with kernel, (1, k, l); clipped: (1, 1, h, w), 1
    where y is clipped at white. If all px under the kernel of a clipped px were white, its
    neighbours would be at least as bright as the share of their kernel that covers white. Where
    they are darker by a fifth of the range, there is a lamp; all that its light may have reached is
    1.
    """
    weights, taps = kernel[:, None], (kernel > 0.01 * kernel.max()).float()[:, None]
    white = (F.conv_transpose2d(clipped, taps) > 0).float()  # larger than y by a kernel
    too_dark = ((y.mean(1, keepdim=True) + 1) / 2 < F.conv2d(white, weights) - 0.2).float()
    doubted = white * (F.conv_transpose2d(too_dark, taps) > 0)
    labels, _ = ndimage.label(clipped[0, 0].numpy(), np.ones((3, 3)))
    beside_lamps = (F.conv2d(doubted, taps) > 0)[0, 0].numpy()
    lamps = np.isin(labels, np.setdiff1d(labels[beside_lamps], 0))
    lamps = torch.from_numpy(lamps).float()[None, None]
    return (F.conv2d((F.conv_transpose2d(lamps, taps) > 0).float(), taps) > 0).float()


def blurring(kernels, size):
    """The cross-correlation of each image with its own kernel, the border mirrored by k // 2 px
    without repeating the edge: a function (B, 3, H, W) -> (B, 3, H', W'), H' = H for odd k and H +
    1 for even k (as published). kernels: (B, k, k); size: (H, W)."""
    k = kernels.shape[-1]
    correlate = correlating(kernels, (size[0] + 2 * (k // 2), size[1] + 2 * (k // 2)))
    return lambda x: correlate(mirrored(mirrored(x.contiguous(), k // 2, -2), k // 2, -1))


def smooth_field(size, rms, smoothness, rng):
    """Shifts (down, right) in px, (2, H, W) float64 of root mean square `rms`: normal noise
    smoothed by a Gaussian of standard deviation `smoothness` px. size: (H, W)."""
    normal = rng.standard_normal((2, *size))
    field = gaussian_filter(normal, (0, smoothness, smoothness), mode="mirror")
    return rms * field / np.sqrt(np.square(field).mean())


def warping(fields):
    """The function that samples each px bilinearly at its position plus its shift; the edge extends
    beyond the border. fields: (B, 2, H, W), shifts (down, right) in px."""
    height, width = fields.shape[-2:]
    rows = torch.arange(height, device=fields.device)[:, None] + fields[:, 0]
    columns = torch.arange(width, device=fields.device) + fields[:, 1]
    # -1 and 1 are the centres of the outermost px.
    grid = torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], -1)
    return lambda x: F.grid_sample(x, grid, padding_mode="border", align_corners=True)
