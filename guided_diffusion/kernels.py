"""Blur kernels and the matrix of bicubic reduction, and what applies a kernel to a picture."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.ndimage import gaussian_filter

from motionblur.motionblur import Kernel


def cubic(x, a=-0.5):
    """The cubic interpolation kernel (Keys 1981), 0 beyond 2."""
    x = np.abs(x)
    inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
    outer = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0))


def resampling_matrix(size, factor, weight, reach, width):
    """(size / factor, size) float32: reduction of one axis by weight((centre - tap) / width), 0 beyond `reach` widths, normalised to one; the
    signal is mirrored at its ends with the edge sample repeated. width: the factor, against aliasing, or 1."""
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
    """Bicubic reduction of one axis as MATLAB's imresize does it: the cubic (a = -0.5) is widened by the factor against aliasing. Source:
    assafshocher/ResizeRight's predecessor, Resizer."""
    return resampling_matrix(size, factor, cubic, 2, factor)


def lanczos_matrix(size, factor):
    """Lanczos reduction of one axis, three lobes, widened by the factor: Pillow's LANCZOS, but for its borders."""
    return resampling_matrix(
        size, factor, lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0), 3, factor
    )


def plain_cubic_matrix(size, factor):
    """Bicubic reduction of one axis without antialiasing, a = -0.75: OpenCV's INTER_CUBIC, PyTorch's interpolate, but for their borders."""
    return resampling_matrix(size, factor, lambda x: cubic(x, -0.75), 2, 1)


def area_matrix(size, factor):
    """The mean of each `factor` samples of one axis: OpenCV's INTER_AREA, Pillow's BOX and reduce, a camera's binning."""
    return torch.eye(size // factor).repeat_interleave(factor, 1) / factor


def nearest_matrix(size, factor):
    """The first of each `factor` samples of one axis: x[::factor], OpenCV's INTER_NEAREST, PyTorch's nearest."""
    return torch.eye(size)[: size // factor * factor : factor]


FILTERS = {
    "bicubic": bicubic_matrix,
    "lanczos": lanczos_matrix,
    "area": area_matrix,
    "cubic": plain_cubic_matrix,
    "nearest": nearest_matrix,
}


def gaussian_kernel(size, sigma, numpy_rng, torch_rng):
    """(size, size) float64: a point at (size // 2, size // 2) through scipy's gaussian_filter; sigma in pixels."""
    # The published code keeps the kernel in a 3-channel Conv2d, whose first weights are drawn from the stream that the
    # noise then goes on with.
    torch.empty(3 * size * size).uniform_(generator=torch_rng)
    point = np.zeros((size, size))
    point[size // 2, size // 2] = 1
    return gaussian_filter(point, sigma)


def motion_kernel(size, intensity, numpy_rng, torch_rng):
    """(size, size) float64: a random camera shake; intensity 0 (straight) … 1 (most crooked)."""
    return Kernel(size=(size, size), intensity=intensity, rng=numpy_rng).kernelMatrix


def mirrored(x, border, dim):
    """x with `border` more pixels at both ends of an axis, mirrored without repeating the edge. F.pad's gradient adds up in no
    fixed order on a GPU; this one's does."""
    before, after = x.narrow(dim, 1, border), x.narrow(dim, x.shape[dim] - 1 - border, border)
    return torch.cat([before.flip(dim), x, after.flip(dim)], dim)


def mirrored_after(x, multiple, dim):
    """x mirrored on at the end of an axis until its length is a multiple of `multiple`, without repeating the edge; one pixel
    alone is all that there is, and is repeated."""
    if x.shape[dim] == 1:
        return x.repeat_interleave(multiple, dim)
    while missing := -x.shape[dim] % multiple:
        more = min(missing, x.shape[dim] - 1)
        x = torch.cat([x, x.narrow(dim, x.shape[dim] - 1 - more, more).flip(dim)], dim)
    return x


def correlating(kernels, size):
    """The function that cross-correlates each image with its own kernel where the kernel lies wholly inside it: (B, 3, H, W) ->
    (B, 3, H - h + 1, W - w + 1).

    kernels: (B, h, w); size: (H, W). In the Fourier domain, for the published kernels have 64 x 64 taps.
    """
    (height, width), (h, w) = size, kernels.shape[-2:]
    spectrum = torch.fft.rfft2(kernels, (height, width))[:, None].conj()
    return lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * spectrum, (height, width))[
        ..., : height - h + 1, : width - w + 1
    ]


def lit_beyond_white(y, kernel, clipped):
    """Which pixels of y, (1, 3, h, w) in [-1, 1], a cross-correlation with kernel, (1, k, l), may be lit by a lamp brighter than white: (1, 1, h, w),
    0 or 1. clipped: likewise, where y is cut off at white.

    A clipped pixel means that all was white under the kernel, or that something there was brighter. If all was, what lies beside cannot be
    darker than the part of the kernel that still covers white; where it is, by a fifth of the range, there is a lamp, and whatever the kernel
    may have spread its light to is given.
    """
    weights, taps = kernel[:, None], (kernel > 0.01 * kernel.max()).float()[:, None]
    white = (
        F.conv_transpose2d(clipped, taps) > 0
    ).float()  # of what was blurred: it is larger by a kernel
    too_dark = ((y.mean(1, keepdim=True) + 1) / 2 < F.conv2d(white, weights) - 0.2).float()
    doubted = white * (F.conv_transpose2d(too_dark, taps) > 0)
    labels, _ = ndimage.label(clipped[0, 0].numpy(), np.ones((3, 3)))
    beside_lamps = (F.conv2d(doubted, taps) > 0)[0, 0].numpy()
    lamps = np.isin(labels, np.setdiff1d(labels[beside_lamps], 0))
    lamps = torch.from_numpy(lamps).float()[None, None]
    return (F.conv2d((F.conv_transpose2d(lamps, taps) > 0).float(), taps) > 0).float()


def blurring(kernels, size):
    """The function that cross-correlates each image with its own kernel, the border mirrored by k // 2 without repeating
    the edge: (B, 3, H, W) -> (B, 3, H', W'), where H' = H for odd k and H + 1 for even k (as published).

    kernels: (B, k, k); size: (H, W).
    """
    k = kernels.shape[-1]
    correlate = correlating(kernels, (size[0] + 2 * (k // 2), size[1] + 2 * (k // 2)))
    return lambda x: correlate(mirrored(mirrored(x.contiguous(), k // 2, -2), k // 2, -1))


def smooth_field(size, rms, smoothness, rng):
    """(2, H, W) float64, shifts down and to the right in pixels of that root mean square: normal noise through a Gaussian of standard
    deviation `smoothness` pixels. size: (H, W)."""
    field = gaussian_filter(
        rng.standard_normal((2, *size)), (0, smoothness, smoothness), mode="mirror"
    )
    return rms * field / np.sqrt(np.square(field).mean())


def warping(fields):
    """The function that takes each pixel of an image from where its shift points to, bilinearly; beyond the border the edge goes on.
    fields: (B, 2, H, W), shifts down and to the right in pixels."""
    height, width = fields.shape[-2:]
    rows = torch.arange(height, device=fields.device)[:, None] + fields[:, 0]
    columns = torch.arange(width, device=fields.device) + fields[:, 1]
    grid = torch.stack(
        [2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], -1
    )  # -1 and 1: the outermost pixels' centres
    return lambda x: F.grid_sample(x, grid, padding_mode="border", align_corners=True)
