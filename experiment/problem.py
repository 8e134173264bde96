"""What a solver is given: a measurement, the operator that made it, and what else is known. Nobody behind this file needs to know
whether there is a truth."""
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Problem:
    """A batch of pictures to restore from y = operator(x) + noise.

    names: what they are called, B of them; operator: A, a differentiable function of (B, 3, H, W) in [-1, 1]; y: (B, …);
    sigma: the noise's standard deviation in units of [-1, 1]; drawn: what the operator has drawn for each picture, {"mask":
    (B, 1, H, W)}, {"kernel": (B, k, k)} or {}; size: (H, W); truth: (B, 3, H, W) in [-1, 1], or None where nobody knows it.
    """

    names: list
    operator: callable
    y: torch.Tensor
    sigma: float
    drawn: dict
    size: tuple
    truth: torch.Tensor | None


def simulate(names, x, operator, noise, rng):
    """The Problem that an operator and a noise of `guided_diffusion.measurements` make of the pictures x, (B, 3, H, W). rng: the
    batch's BatchRandom, from which first the operator draws and then the noise (the published order)."""
    A, drawn = operator.draw(rng, x.device)
    # The pixel order of an image file, in which the published code keeps its images: the noise depends on it.
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        y = noise(A(x), rng).contiguous()  # or that order would spread to whatever is computed from y
    return Problem(names, A, y, noise.sigma, drawn, tuple(x.shape[-2:]), x)
