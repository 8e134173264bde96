"""Total variation (Rudin, Osher & Fatemi 1992; scikit-image's Chambolle).

    python -m baselines.total_variation --task inpainting --data faces/ -n 4 --cuda -1

Proximal gradient steps on 1/2 ||A(x) - y||^2 + sigma^2 / length TV(x), the MAP estimate if noise is
Gaussian and gradient lengths are distributed as exp(-|gradient| / length); accelerated (FISTA, Beck
& Teboulle 2009). The command line and the files of dmilo.py.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from skimage.restoration import denoise_tv_chambolle

from solvers.least_squares import adjoint, floor_sigma
from solvers.method import Iterate, IteratedRow, Method


@dataclass(frozen=True, kw_only=True)
class TotalVariationRow(IteratedRow):
    """One row of configs/total_variation.yaml. outer, inner: rounds, and steps in each; length: the
    mean length of the image's gradients, in units of [-1, 1]."""

    inner: int
    length: float = field(metadata={"low": 1e-9})  # it divides


def largest_gain(operator, transpose, x, steps=30):
    """The largest eigenvalue of A^T A for each image, by power iteration: (B, 1, 1, 1)."""
    for _ in range(steps):
        image = transpose(operator(x))
        gain = torch.linalg.vector_norm(image, dim=(1, 2, 3), keepdim=True)
        x = image / gain
    return gain


def denoise(x, weights):
    """argmin_u 1/2 ||u - x||^2 + weight TV(u) for each image of x (B, 3, H, W)."""
    images = [
        denoise_tv_chambolle(image, weight, channel_axis=0)
        for image, weight in zip(x.cpu().numpy(), weights.flatten().tolist())
    ]
    return torch.from_numpy(np.stack(images)).to(x)


@torch.no_grad()
def total_variation(g, operator, y, z_0, h, on_step, state=None):
    """Yields Iterates: grey, then X after each round, (B, 3, H, W) in [-1, 1], with the state to
    resume from. The chain g is not used.

    Raises UserError for an operator that is not linear.
    """
    transpose = adjoint(operator, z_0)
    weight = floor_sigma(h.sigma) ** 2 / h.length
    rate = 1 / largest_gain(operator, transpose, z_0)
    if state is None:
        state = {
            "t": 0,
            "X": torch.zeros_like(z_0),
            "ahead": torch.zeros_like(z_0),
            "momentum": 1.0,
        }
        yield Iterate("init", state["X"])
    X, ahead, momentum = state["X"], state["ahead"], state["momentum"]
    for t in range(state["t"], h.outer):
        for step in range(h.inner):
            residual = operator(ahead) - y
            previous, X = X, denoise(ahead - rate * transpose(residual), rate * weight)
            faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead, momentum = X + (momentum - 1) / faster * (X - previous), faster
            on_step(step + 1, h.inner, residual.square().sum())
        yield Iterate(
            f"{t}_after",
            X.clamp(-1, 1),
            {"t": t + 1, "X": X, "ahead": ahead, "momentum": momentum},
            ends_outer=True,
        )


METHOD = Method(
    "total_variation", total_variation, TotalVariationRow, "total variation", uses_prior=False
)

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
