"""The network's mean squared error by sigma, colour and frequency, as a table per prior."""

import functools
import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from scipy import fft

from util.files import UserError, warn, write_text

# Orthonormal: brightness, red - blue, green - both. Nearly uncorrelated in photographs, unlike RGB.
COLOURS = torch.nn.functional.normalize(
    torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]), dim=1
)
FREQUENCIES = 2.0 ** (np.arange(14) / 2 - 6)  # 1/64 … 1.41; 1: the sign alternates along an axis
LEAST = 1e-7  # lower bound of a variance, for its logarithm
FLAT = 0.02  # squared gradient, relative to its mean, assumed in flat areas


@functools.lru_cache(maxsize=8)
def cosines(n, device):
    """The orthonormal DCT-II matrix, (n, n)."""
    k, i = np.arange(n)[:, None], np.arange(n)
    matrix = np.cos(math.pi * k * (2 * i + 1) / (2 * n)) * (2 / n) ** 0.5
    matrix[0] /= 2**0.5
    return torch.from_numpy(matrix).float().to(device)


class OrthonormalDCT(torch.autograd.Function):
    """The 2-D DCT-II of each channel, or its inverse. By FFT on a CPU, where matrix products take
    ten times longer at 1600 x 1200; a GPU has no FFT of this kind. Its adjoint is its inverse."""

    @staticmethod
    def forward(ctx, x, inverse):
        ctx.inverse = inverse
        if x.device.type == "cpu":
            transform = fft.idctn if inverse else fft.dctn
            return torch.from_numpy(transform(x.detach().numpy(), axes=(-2, -1), norm="ortho"))
        height, width = (cosines(n, x.device) for n in x.shape[-2:])
        return height.T @ x @ width if inverse else height @ x @ width.T

    @staticmethod
    def backward(ctx, gradient):
        return OrthonormalDCT.apply(gradient, not ctx.inverse), None


def dct(x):
    """The orthonormal 2-D DCT-II of images in the basis COLOURS: (B, 3, H, W) -> the same shape."""
    return torch.einsum("cd,bdhw->bchw", COLOURS.to(x.device), OrthonormalDCT.apply(x, False))


def idct(coefficients):
    """The inverse of `dct`: (B, 3, H, W) -> images of the same shape."""
    channels = torch.einsum("dc,bdhw->bchw", COLOURS.to(coefficients.device), coefficients)
    return OrthonormalDCT.apply(channels, True)


@functools.lru_cache(maxsize=8)
def frequency_index(size):
    """The fractional index into FREQUENCIES of each DCT coefficient, (H, W); size: (H, W)."""
    down, right = (np.arange(n) / n for n in size)
    radius = np.hypot(down[:, None], right).clip(FREQUENCIES[0], FREQUENCIES[-1])
    return 2 * np.log2(radius / FREQUENCIES[0])


def local_scale(x0_hat):
    """The spatial variation of the network's error, estimated from its output x0_hat, (B, 3, H, W):
    (B, 1, H, W) with mean square 1.

    The fourth root of the squared brightness gradient, averaged over 3 x 3 px (docs/LOG.md).
    """
    brightness = F.pad(x0_hat.mean(1, keepdim=True), (0, 1, 0, 1), mode="replicate")
    down, right = brightness.diff(dim=-2)[..., :-1], brightness.diff(dim=-1)[..., :-1, :]
    change = F.avg_pool2d(F.pad(down**2 + right**2, (1, 1, 1, 1), mode="replicate"), 3, 1)
    change = (change / change.mean((-2, -1), keepdim=True).clamp(min=LEAST) + FLAT) ** 0.5
    return (change / change.mean((-2, -1), keepdim=True)).sqrt()


class Errors:
    """The mean squared error of the network's x0_hat in [-1, 1].

    sigmas: (L,), increasing noise levels; variances: (L, 3, F), at each of them by COLOURS and
    FREQUENCIES. Interpolated linearly in logarithms, constant outside the table.
    """

    def __init__(self, sigmas, variances):
        self.logs, self.variances = np.log(sigmas), np.log(np.maximum(variances, LEAST))
        self.deviation = functools.lru_cache(maxsize=4)(self._deviation)

    def _deviation(self, sigma, size, device):
        """The root mean squared error of each DCT coefficient under noise sigma, (3, H, W).

        size: (H, W).
        """
        columns = self.variances.reshape(len(self.logs), -1).T
        table = np.array([np.interp(math.log(sigma), self.logs, column) for column in columns])
        index, bins = frequency_index(size), np.arange(len(FREQUENCIES))
        logs = np.stack([np.interp(index, bins, row) for row in table.reshape(3, -1)])
        return torch.from_numpy(np.exp(logs / 2)).float().to(device)

    def around(self, x0_hat, sigma):
        """(S, S^T, S^-T), functions of (B, 3, H, W): S S^T is the covariance of the error of
        x0_hat, (B, 3, H, W), under noise sigma, larger near edges (`local_scale`)."""
        deviation = self.deviation(sigma, tuple(x0_hat.shape[-2:]), x0_hat.device)
        local = local_scale(x0_hat)
        return (
            lambda u: local * idct(deviation * dct(u)),
            lambda v: idct(deviation * dct(local * v)),
            lambda u: idct(dct(u) / deviation) / local,
        )


def errors_of_natural_images():
    """The Errors of the optimal denoiser of Gaussian images with a 1 / f^2 spectrum whose colour
    has a tenth of the variance of their brightness."""
    sigmas = np.geomspace(0.01, 150, 24)
    power = np.array([0.07, 0.007, 0.007])[:, None] / FREQUENCIES**2
    return Errors(sigmas, np.stack([1 / (1 / power + 1 / sigma**2) for sigma in sigmas]))


@functools.cache
def default_errors():
    """Errors for a network without a table of its own; warns once."""
    warn(
        "this prior has no table of its errors (MODEL_errors.csv), using those of natural images: "
        "samples may spread too little or too much; python train.py --only-errors measures them"
    )
    return errors_of_natural_images()


def by_frequency(squares):
    """Means of squared DCT coefficients, a numpy array (3, H, W), over those nearest to each of
    FREQUENCIES: (3, F). Empty bins repeat the lower frequency."""
    nearest = frequency_index(squares.shape[-2:]).round().astype(int).ravel()
    bins = len(FREQUENCIES)
    count = np.bincount(nearest, minlength=bins)
    means = np.stack([np.bincount(nearest, one.ravel(), bins) for one in squares]) / count.clip(1)
    for k in range(1, bins):
        means[:, k] = means[:, k] if count[k] else means[:, k - 1]
    return means


def errors_path(checkpoint):
    """The path of a checkpoint's table."""
    return os.path.splitext(checkpoint)[0] + "_errors.csv"


def write_errors(path, sigmas, variances, about):
    """Write a table, one line per sigma and colour; about: how it was measured."""
    columns = ", ".join(["sigma", "colour", *(f"{f:.4f}" for f in FREQUENCIES)])
    lines = [f"# {about}", f"# {columns}"]
    for sigma, table in zip(sigmas, variances):
        for c, row in enumerate(table):
            lines.append(", ".join([f"{sigma:.6g}", str(c), *(f"{v:.4g}" for v in row)]))
    write_text(path, "\n".join(lines) + "\n")


def load_errors(checkpoint):
    """The Errors of a checkpoint, None without a table. Raises UserError for an invalid table."""
    path = errors_path(checkpoint)
    if not os.path.isfile(path):
        return None
    try:
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
        sigmas, variances = rows[::3, 0], rows[:, 2:].reshape(-1, 3, len(FREQUENCIES))
        increasing = len(sigmas) > 1 and sigmas[0] > 0 and (np.diff(sigmas) > 0).all()
        valid = increasing and np.isfinite(rows).all() and (variances >= 0).all()
    except ValueError:
        valid = False
    if not valid:
        raise UserError(
            f"{path}: is not a table of a network's errors; remove it, or measure it again (python "
            "train.py --only-errors)"
        )
    return Errors(sigmas, variances)
