"""Noise that is not white: its spectrum, by channel and between channels, and its growth with
brightness. The noise that it lacks is added, so that any method for white noise can be used."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from guided_diffusion.errors import OrthonormalDCT

SIDE = 8  # frequencies of a spectrum along an axis; index k: k / 16 cycles per px
# Share of the spectrum below the level up to which noise is added: a higher level hides more of the
# image, a lower one leaves more of the coarsest noise (docs/LOG.md).
COVERED = 0.95
GRID = 512  # values from -1 to 1 at which a curve is tabulated
NODES = 9  # of Gauss-Hermite quadrature


class Growth:
    """The standard deviation of noise by brightness, and the curve f that makes it constant.

    deviations: positive, at evenly spaced values from -1 to 1, linear between them. f' is inversely
    proportional to the deviation, f(-1) = -1 and f(1) = 1; for a variance that is linear in
    brightness, f is Anscombe's generalised transform up to scale. `original` inverts the mean of
    f(x + noise) instead of f, so that noise does not shift the result (Makitalo & Foi 2011).
    """

    def __init__(self, deviations):
        self.values = np.linspace(-1, 1, GRID)
        deviation = np.interp(self.values, np.linspace(-1, 1, len(deviations)), deviations)
        slope = 1 / deviation
        curve = np.cumsum([0, *(slope[1:] + slope[:-1])])
        self.curve = 2 * curve / curve[-1] - 1
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        y = np.clip(self.values[:, None] + deviation[:, None] * nodes, -1, 1)
        means = np.interp(y, self.values, self.curve) @ weights / weights.sum()
        self.means = np.maximum.accumulate(means) + 1e-9 * np.arange(GRID)  # increasing

    def stabilised(self, y):
        """f(y), for y in [-1, 1] of any shape."""
        return _through(y, self.values, self.curve)

    def original(self, x):
        """The values whose mean of f(value + noise) is x."""
        return _through(x, self.means, self.values)


def _through(x, points, values):
    return torch.from_numpy(np.interp(x.detach().cpu().numpy(), points, values)).to(x)


@dataclass(frozen=True)
class ColouredNoise:
    """Gaussian noise with a spectrum, after its growth with brightness has been undone.

    spectrum: (SIDE, SIDE, C, C), the covariance of the C channels at each frequency of a DCT, C = 3
    or, for grey images, 1; growth: a Growth, None for noise that is the same everywhere.
    """

    spectrum: torch.Tensor
    growth: Growth | None = None

    @classmethod
    def white(cls, sigma, channels, growth):
        """White noise that grows with brightness."""
        spectrum = sigma**2 * torch.eye(channels).double()
        return cls(spectrum.expand(SIDE, SIDE, -1, -1), growth)

    @property
    def sigma(self):
        """The standard deviation, over all frequencies and channels."""
        return self.spectrum.diagonal(dim1=-2, dim2=-1).mean().item() ** 0.5

    @property
    def level(self):
        """The standard deviation of the white noise up to which noise is added."""
        return torch.quantile(torch.linalg.eigvalsh(self.spectrum), COVERED).item() ** 0.5

    def lacking(self, white):
        """The noise, (B, 3, H, W), with which this one adds up to white noise of `level`. white:
        standard normal, (B, 3, H, W)."""
        variances, axes = torch.linalg.eigh(self.spectrum)
        # Of white noise nothing is lacking, whatever the rounding.
        missing = (self.level**2 * (1 - 1e-6) - variances).clamp(min=0).sqrt()
        root, size = (axes * missing[..., None, :]) @ axes.mT, white.shape[-2:]
        root = at_frequencies(root.flatten(2), size).to(white).unflatten(0, root.shape[2:])
        noise = torch.einsum("cdhw,bdhw->bchw", root, white[:, : len(root)])
        return OrthonormalDCT.apply(noise, True).expand_as(white)


def at_frequencies(table, size):
    """A table by frequency, (SIDE, SIDE, N), at those of an image's DCT, linearly interpolated:
    (N, H, W). size: (H, W)."""
    # Index k of n is the frequency of index k SIDE / n in the table; grid_sample takes -1 … 1.
    along = [(torch.arange(n) * (2 * SIDE / n / (SIDE - 1)) - 1).clamp(max=1) for n in size]
    down, right = torch.meshgrid(*along, indexing="ij")
    positions = torch.stack([right, down], -1)[None].to(table)
    return F.grid_sample(table.permute(2, 0, 1)[None], positions, align_corners=True)[0]
