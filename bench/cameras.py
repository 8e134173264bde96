"""A camera's noise, simulated: photons and electronics behind a Bayer mosaic, bilinear
demosaicing and a gamma curve."""

import numpy as np
from scipy.ndimage import convolve

GAMMA = 2.2
READ = 0.02  # variance of the electronics' noise, relative to the photons' at white
# Bilinear interpolation of red and blue, which a quarter of the px measure each, and of green.
SPARSE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
DRAWS = 20  # of noise, for its spectrum
FRAME = 512  # px a side of the photograph of an even surface
DARK = 0.02  # px value of its darkest column


def developed(light):
    """Linear light at every px, (H, W, 3), -> the picture of a camera that measures one colour at
    each, in [0, 1]."""
    measured = np.zeros_like(light)
    for channel, row, column in ((0, 0, 0), (1, 0, 1), (1, 1, 0), (2, 1, 1)):
        px = np.s_[row::2, column::2, channel]
        measured[px] = light[px]
    kernels = SPARSE, GREEN, SPARSE
    channels = [convolve(measured[..., c], kernels[c], mode="mirror") for c in range(3)]
    return np.clip(np.stack(channels, -1), 0, 1) ** (1 / GAMMA)


def photograph(x, photons, rng):
    """(the noisy picture, the same without noise) of a camera with `photons` at white; x:
    (H, W, 3) in [0, 1]."""
    light = x**GAMMA
    electronics = (READ / photons) ** 0.5 * rng.standard_normal(x.shape)
    return developed(rng.poisson(light * photons) / photons + electronics), developed(light)


def even_surface(photons, rng):
    """The camera's picture of an even surface, from dark on the left to white on the right."""
    ramp = np.broadcast_to(np.linspace(DARK, 1, FRAME)[:, None], (FRAME, FRAME, 3))
    return photograph(ramp, photons, rng)[0]


def spectrum(x, photons, rng):
    """The mean |FFT|^2, (H, W, 3), of the noise in pictures of x, without its mean, which a curve
    adds to dark px."""
    total = np.zeros_like(x)
    for _ in range(DRAWS):
        noisy, clean = photograph(x, photons, rng)
        noise = noisy - clean
        total += np.abs(np.fft.fft2(noise - noise.mean((0, 1)), axes=(0, 1))) ** 2
    return total / DRAWS
