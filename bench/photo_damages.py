"""What `benchmark.py photographs` does to photographs: the kinds of damage and their truths."""

from collections import namedtuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from bench import cameras
from guided_diffusion.kernels import correlating, motion_kernel
from guided_diffusion.measurements import reducing

KERNEL = 13  # px a side
SCRATCH, SCRATCHES = 4, 8  # px wide; how many on SIDE px
FACTOR = 4  # of the reduction
IMPULSES = 0.03  # share of the px
SIDE = 176  # px, of a photograph's crop


def noisy(sigma):
    """Gaussian noise of standard deviation sigma / 255 of the range."""

    def damage(x, rng):
        return x, x + sigma / 127.5 * torch.from_numpy(rng.standard_normal(x.shape)).float(), {}

    return damage


def scratched(x, rng):
    """Straight white scratches from edge to edge; their number is proportional to the side."""
    height, width = x.shape[-2:]
    mask = Image.new("L", (width, height), 255)
    canvas = ImageDraw.Draw(mask)
    for n in range(round(SCRATCHES * max(height, width) / SIDE)):
        first, last = rng.random(2)
        down = [(first * width, -1), (last * width, height)]
        across = [(-1, first * height), (width, last * height)]
        canvas.line(down if n % 2 else across, fill=0, width=SCRATCH)
    mask = np.asarray(mask) > 0
    return x, torch.where(torch.from_numpy(mask), x, 1.0), {"mask": mask}


def blurred(sigma):
    """Camera shake and noise of standard deviation sigma / 255 of the range. The truth lacks the
    border that the kernel needs around each px."""

    def damage(x, rng):
        kernel = torch.from_numpy(motion_kernel(KERNEL, 0.5, rng, None)).float()
        size, border = tuple(x.shape[-2:]), KERNEL // 2
        clean = correlating(kernel[None], size)(x[None])[0]
        truth = x[:, border:-border, border:-border]
        return truth, noisy(sigma)(clean, rng)[1], {"kernel": kernel.numpy()}

    return damage


def reduced(x, rng):
    """Bicubic reduction as in MATLAB."""
    height, width = (FACTOR * (length // FACTOR) for length in x.shape[-2:])
    x = x[:, :height, :width]
    return x, reducing((height, width), FACTOR, torch.device("cpu"))(x[None])[0], {"factor": FACTOR}


def compressed(quality):
    """Compression as a JPEG with chroma of half the size (4:2:0), which `write_damaged` does."""

    def damage(x, rng):
        return x, x, {"quality": quality}

    return damage


def with_impulses(values):
    """A share IMPULSES of the px has other values: values(rng, (C, H, W)) -> (…, H, W)."""

    def damage(x, rng):
        hit = torch.from_numpy(rng.random(x.shape[-2:]) < IMPULSES)
        y = torch.where(hit, torch.from_numpy(values(rng, x.shape)).float(), x)
        return x, y, {"impulses": hit.numpy()}

    return damage


def to_unit(x):
    """(C, H, W) in [-1, 1] -> (H, W, 3) in [0, 1]."""
    return (x.expand(3, -1, -1).permute(1, 2, 0).double().numpy() + 1) / 2


def from_unit(x):
    """The inverse of `to_unit`, for three channels."""
    return torch.from_numpy(2 * x.transpose(2, 0, 1) - 1).float()


def by_camera(photons, is_known):
    """A camera's noise (`bench.cameras`); is_known: its spectrum is known. The truth is the same
    camera's picture without noise."""

    def damage(x, rng):
        x = to_unit(x)
        noisy, clean = cameras.photograph(x, photons, rng)
        known = {}
        if is_known:
            frame = from_unit(cameras.even_surface(photons, rng))
            known = {"noise": frame, "spectrum": cameras.spectrum(x, photons, rng)}
        return from_unit(clean), from_unit(noisy), known

    return damage


def salt_and_pepper(rng, shape):
    return rng.choice([-1.0, 1.0], shape[-2:])


def uniform(rng, shape):
    return rng.uniform(-1, 1, shape)


def of_photons(photons, is_bright):
    """Poisson noise with `photons` at white, without a mosaic; scored in the brighter or the darker
    half of the px."""

    def damage(x, rng):
        light = (x.double().numpy() + 1) / 2
        y = torch.from_numpy(rng.poisson(light * photons) / photons * 2 - 1).float().clamp(-1, 1)
        brightness = light.mean(0)
        half = (brightness > np.median(brightness)) == is_bright
        sigma = (y - x)[:, torch.from_numpy(half)].square().mean().item() ** 0.5 / 2
        return x, y, {"half": ~half, "sigma": sigma}

    return damage


# sigma: noise of 255, or None; option: restore.py's for this damage; make(x, rng): truth and
# measurement, (C, H, W) in [-1, 1], and what is known about the damage; rivals: the key of RIVALS
# if it is not the option.
Damage = namedtuple("Damage", "title sigma option make rivals", defaults=[None])

DAMAGES = {
    f"noise{sigma}": Damage(f"noise {sigma} of 255", sigma, None, noisy(sigma))
    for sigma in (2, 5, 10, 25, 50)
}
DAMAGES["scratches"] = Damage(f"scratches {SCRATCH} px wide", None, "mask", scratched)
DAMAGES["blur"] = Damage(f"known blur of {KERNEL} px, noise 2.5", 2.5, "kernel", blurred(2.5))
DAMAGES["reduced"] = Damage(f"enlarging x {FACTOR}", None, "scale", reduced)
DAMAGES.update(
    (f"jpeg{quality}", Damage(f"JPEG of quality {quality}", None, "jpeg", compressed(quality)))
    for quality in (10, 20, 40)
)
DAMAGES["impulses"] = Damage(
    f"{IMPULSES:.0%} salt and pepper", None, "defects", with_impulses(salt_and_pepper)
)
DAMAGES["random"] = Damage(
    f"{IMPULSES:.0%} px of random values", None, "defects", with_impulses(uniform)
)
DAMAGES.update(
    (
        f"camera{photons}",
        Damage(f"camera, {photons} photons", None, None, by_camera(photons, False), "camera"),
    )
    for photons in (50, 100, 200)
)
DAMAGES.update(
    (
        f"camera{photons}-known",
        Damage(
            f"camera, {photons} photons, spectrum known", None, "noise", by_camera(photons, True)
        ),
    )
    for photons in (50, 100, 200)
)
DAMAGES.update(
    (
        f"poisson{photons}-{half}",
        Damage(
            f"Poisson, {photons} photons, {half} half",
            None,
            None,
            of_photons(photons, half == "bright"),
            "poisson",
        ),
    )
    for photons in (40, 200, 1000)
    for half in ("dark", "bright")
)
