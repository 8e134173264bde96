"""Accuracy of `photographs.noise`: estimate / truth for images of scikit-image.

    python tests/noise_table.py            # about a minute

White noise with the sigma above each column, in units of [-1, 1], is added; then the image is
demosaiced (bilinear, RGGB), blurred (Gaussian, 1 px) or saved as a JPEG. The truth is the deviation
of the treated noisy image from the treated clean one where it is not clipped. "blank": the share
that is a white page. The letter is the kind: w(hite), c(oloured), h(idden); the latter two are
warned of.
"""

import io
import sys

import numpy as np
import skimage.data
import torch
from PIL import Image
from scipy import ndimage

sys.path.insert(0, ".")
from photographs.noise import estimate_noise  # noqa: E402

NAMES = ("astronaut", "coffee", "chelsea", "camera", "rocket")
SIGMAS = (0.02, 0.05, 0.1, 0.2)


def photograph(name):
    """(H, W, C) in [-1, 1], including its own unknown grain, about 0.01 in astronaut and coffee."""
    x = getattr(skimage.data, name)().astype(float) / 127.5 - 1
    return x if x.ndim == 3 else x[..., None]


def rounded(x):
    return (x.clip(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1


def jpeg(x, quality):
    image, file = (x.clip(-1, 1) * 127.5 + 127.5).round().astype(np.uint8), io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality)
    return (np.asarray(Image.open(file), float) / 127.5 - 1).reshape(x.shape)


def demosaiced(x):
    where, kernel = np.zeros((3, *x.shape[:2])), np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    where[0, ::2, ::2] = where[2, 1::2, 1::2] = 1
    where[1] = 1 - where[0] - where[2]
    if x.shape[-1] != 3:
        return rounded(x)
    weights = [ndimage.convolve(one, kernel) for one in where]
    sums = [ndimage.convolve(x[..., c] * where[c], kernel) for c in range(3)]
    return rounded(np.stack([one / weight for one, weight in zip(sums, weights)], -1))


TREATMENTS = {
    "white": rounded,
    "demosaiced": demosaiced,
    "blurred 1 px": lambda x: rounded(ndimage.gaussian_filter(x, (1, 1, 0))),
    **{f"JPEG {quality}": lambda x, quality=quality: jpeg(x, quality) for quality in (90, 75, 50)},
}


def estimate(name, sigma, treatment="white", blank=0.0, seed=0):
    """(the estimated Noise, the true sigma)."""
    clean = photograph(name)
    noisy = clean + sigma * np.random.default_rng(seed).standard_normal(clean.shape)
    page = int(blank * clean.shape[0])
    noisy[:page] = 1
    noisy, treated = TREATMENTS[treatment](noisy), TREATMENTS[treatment](clean)
    inside = np.abs(clean[page + 8 :]) < 1 - 2 * sigma
    y = torch.from_numpy(noisy.transpose(2, 0, 1)).float()[None].expand(1, 3, -1, -1)  # as read
    return estimate_noise(y, torch.ones_like(y[:, :1])), (noisy - treated)[page + 8 :][inside].std()


if __name__ == "__main__":
    print(f"{'':12s}{'':14s}{'blank':6s}" + "".join(f"{sigma:8g}" for sigma in SIGMAS))
    for treatment in TREATMENTS:
        for blank in (0, 0.1, 0.3, 0.6):
            for name in NAMES:
                pairs = [estimate(name, sigma, treatment, blank) for sigma in SIGMAS]
                cells = "".join(
                    f"{noise.sigma / truth:7.2f}{noise.kind[0]}" for noise, truth in pairs
                )
                print(f"{name:12s}{treatment:14s}{blank:<6g}{cells}", flush=True)
