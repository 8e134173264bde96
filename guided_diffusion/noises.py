"""Noises by name: called with a measurement, (B, …), and the batch's `util.rng.BatchRandom`.

`sigma` is the standard deviation in units of [-1, 1]. To add a noise, write a class here under
@noise("name").
"""

import numpy as np
import torch

from guided_diffusion.jpeg import SIGMA
from guided_diffusion.registry import noise
from util.config import above_0, at_least_0


@noise("gaussian")
class GaussianNoise:
    """y + sigma * n, n standard normal; sigma in units of the [-1, 1] range."""

    def __init__(self, options):
        self.sigma = options.take("sigma", float, at_least_0, "a number, 0 or more")

    def __call__(self, y, rng):
        return y + self.sigma * rng.randn_like(y)


@noise("poisson")
class PoissonNoise:
    """Photon counts: Poisson of mean 255 * rate * (y in [0, 1]), back to [-1, 1] and clamped."""

    def __init__(self, options):
        self.rate = options.take("rate", float, above_0, "a number above 0")
        self.sigma = (2 / (255 * self.rate)) ** 0.5  # at y = 0

    def __call__(self, y, rng):
        expected = ((y + 1) / 2).clamp(0, 1).cpu().numpy() * 255 * self.rate
        counts = np.stack([r.poisson(image) for r, image in zip(rng.numpy, expected)])
        return (torch.from_numpy(counts / 255 / self.rate).to(y) * 2 - 1).clamp(-1, 1)


@noise("clean")
class NoNoise:
    """y itself."""

    sigma = 0.0

    def __init__(self, options):
        pass

    def __call__(self, y, rng):
        return y


@noise("rounding")
class Rounding:
    """y rounded to whole numbers."""

    sigma = SIGMA

    def __init__(self, options):
        pass

    def __call__(self, y, rng):
        return y.round()
