"""How far the network errs about a picture, by noise level, colour and frequency: a table beside each prior."""

import functools
import math
import os

import numpy as np
import torch
import torch.nn.functional as F

from util.files import UserError, warn, write_text

# Orthonormal: brightness, red against blue, green against both. In photographs these vary nearly independently, R, G and B do not.
COLOURS = torch.nn.functional.normalize(
    torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]), dim=1
)
FREQUENCIES = 2.0 ** (
    np.arange(14) / 2 - 6
)  # 1/64 … 1.41, where 1 is a change of sign from pixel to pixel
LEAST = 1e-7  # a variance that the logarithm stands
FLAT = 0.02  # how much change, of the mean, counts where there is none


@functools.lru_cache(maxsize=8)
def cosines(n, device):
    """The orthonormal discrete cosine transform (DCT-II) of n values: (n, n)."""
    k, i = np.arange(n)[:, None], np.arange(n)
    matrix = np.cos(math.pi * k * (2 * i + 1) / (2 * n)) * (2 / n) ** 0.5
    matrix[0] /= 2**0.5
    return torch.from_numpy(matrix).float().to(device)


def waves(x):
    """Pictures (B, 3, H, W) as amounts of each of COLOURS at each frequency, of the same shape: orthonormal, `pixels` undoes it."""
    height, width = (cosines(n, x.device) for n in x.shape[-2:])
    return torch.einsum("cd,bdhw->bchw", COLOURS.to(x.device), height @ x @ width.T)


def pixels(amounts):
    """The pictures, (B, 3, H, W), whose `waves` these are."""
    height, width = (cosines(n, amounts.device) for n in amounts.shape[-2:])
    return torch.einsum("dc,bdhw->bchw", COLOURS.to(amounts.device), height.T @ amounts @ width)


@functools.lru_cache(maxsize=8)
def places(size):
    """Where the frequencies of a picture of `size` (H, W) lie among FREQUENCIES: (H, W), 0 for the first one, 1 for the second …"""
    down, right = (np.arange(n) / n for n in size)
    radius = np.hypot(down[:, None], right).clip(FREQUENCIES[0], FREQUENCIES[-1])
    return 2 * np.log2(radius / FREQUENCIES[0])


def unevenness(guess):
    """By how much a network errs more around each pixel than elsewhere in a guess, (B, 3, H, W): (B, 1, H, W) of mean square 1. It goes with the
    fourth root of how much brightness changes there, squared, over 3 x 3 pixels (docs/LOG.md)."""
    brightness = F.pad(guess.mean(1, keepdim=True), (0, 1, 0, 1), mode="replicate")
    down, right = brightness.diff(dim=-2)[..., :-1], brightness.diff(dim=-1)[..., :-1, :]
    change = F.avg_pool2d(F.pad(down**2 + right**2, (1, 1, 1, 1), mode="replicate"), 3, 1)
    change = (change / change.mean((-2, -1), keepdim=True).clamp(min=LEAST) + FLAT) ** 0.5
    return (change / change.mean((-2, -1), keepdim=True)).sqrt()


class Errors:
    """The mean squared error of the network's guess of a picture in [-1, 1]. sigmas: (L,), rising, noise levels; variances: (L, 3, F), at
    each by COLOURS and FREQUENCIES. Between them it is interpolated in logarithms, beyond them it stays.
    """

    def __init__(self, sigmas, variances):
        self.logs, self.variances = np.log(sigmas), np.log(np.maximum(variances, LEAST))

    def deviation(self, sigma, size, device):
        """The root mean square of each of a picture's `waves`, (3, H, W), at a noise level. size: (H, W)."""
        rows = self.variances.reshape(len(self.logs), -1)
        table = np.array([np.interp(math.log(sigma), self.logs, row) for row in rows.T]).reshape(
            3, -1
        )
        found = [np.interp(places(size), np.arange(len(FREQUENCIES)), row) for row in table]
        return torch.from_numpy(np.exp(np.stack(found) / 2)).float().to(device)

    def around(self, guess, sigma):
        """(S, S^T, S^-T), functions of (B, 3, H, W): for a standard normal u, S(u) is distributed as the error of a guess, (B, 3, H, W), at a
        noise level, larger near edges."""
        deviation = self.deviation(sigma, tuple(guess.shape[-2:]), guess.device)
        local = unevenness(guess)
        return (
            lambda u: local * pixels(deviation * waves(u)),
            lambda v: pixels(deviation * waves(local * v)),
            lambda u: pixels(waves(u) / deviation) / local,
        )


def errors_of_usual_pictures():
    """The best that can be done of Gaussian pictures whose variance falls with the square of the frequency, with a tenth as much colour as
    brightness."""
    sigmas = np.geomspace(0.01, 150, 24)
    pictures = np.array([0.07, 0.007, 0.007])[:, None] / FREQUENCIES**2
    return Errors(sigmas, np.stack([1 / (1 / pictures + 1 / sigma**2) for sigma in sigmas]))


@functools.cache
def usual_errors():
    """Errors for a network whose own nobody has measured, said once."""
    warn(
        "this prior has no table of its errors beside it (MODEL_errors.csv): those of usual pictures are taken, with which a spread may be "
        "wrong; python train.py --only-errors measures its own"
    )
    return errors_of_usual_pictures()


def by_frequency(squares):
    """Means over all frequencies that lie next to each of FREQUENCIES, (3, F), of the squares of `waves`, a numpy array (3, H, W)."""
    nearest = places(squares.shape[-2:]).round().astype(int).ravel()
    count = np.bincount(nearest, minlength=len(FREQUENCIES))
    found = np.stack(
        [np.bincount(nearest, one.ravel(), len(FREQUENCIES)) for one in squares]
    ) / count.clip(1)
    for k in range(1, len(FREQUENCIES)):  # none lies there in a small picture
        found[:, k] = found[:, k] if count[k] else found[:, k - 1]
    return found


def errors_path(checkpoint):
    """Where the table of a checkpoint's errors lies."""
    return os.path.splitext(checkpoint)[0] + "_errors.csv"


def write_errors(path, sigmas, variances, about):
    """The table as a file, a line a noise level and colour. about: how it was measured."""
    columns = ", ".join(["noise level", "colour", *(f"{f:.4f}" for f in FREQUENCIES)])
    lines = [f"# {about}", f"# {columns}"]
    lines += [
        ", ".join([f"{sigma:.6g}", str(c), *(f"{v:.4g}" for v in row)])
        for sigma, table in zip(sigmas, variances)
        for c, row in enumerate(table)
    ]
    write_text(path, "\n".join(lines) + "\n")


def load_errors(checkpoint):
    """The Errors of a checkpoint, None if nobody has measured them. Raises UserError for a file that is no such table."""
    path = errors_path(checkpoint)
    if not os.path.isfile(path):
        return None
    try:
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
        sigmas, variances = rows[::3, 0], rows[:, 2:].reshape(-1, 3, len(FREQUENCIES))
        whole = (
            len(sigmas) > 1
            and np.isfinite(rows).all()
            and (np.diff(sigmas) > 0).all()
            and sigmas[0] > 0
            and (variances >= 0).all()
        )
    except ValueError:
        whole = False
    if not whole:
        raise UserError(
            f"{path}: is not a table of a network's errors; remove it, or make it anew (python train.py --only-errors)"
        )
    return Errors(sigmas, variances)
