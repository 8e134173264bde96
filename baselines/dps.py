"""DPS: diffusion posterior sampling (Chung et al., ICLR 2023;
github.com/DPS2022/diffusion-posterior-sampling).

    python -m baselines.dps --task inpainting --data faces/ -n 4 --cuda -1

Ancestral sampling with a gradient step on the residual of the predicted image at each timestep. The
command line and the files of dmilo.py.
"""

from dataclasses import dataclass

import torch

from guided_diffusion.ddim import ddim_step, predict_x0
from solvers.method import Iterate, IteratedRow, Method


@dataclass(frozen=True, kw_only=True)
class DPSRow(IteratedRow):
    """One row of configs/dps.yaml. outer: samples, one after the other; chain_steps: of each;
    scale: of the gradient step on ||y - A(x_0)||, the norm in their code (the paper's Algorithm 1
    squares it and divides by it)."""

    scale: float


def dps(g, operator, y, z_0, h, on_step, state=None):
    """Yields Iterates: the noise, then each sample, (B, 3, H, W) in [-1, 1]."""
    if state is None:
        yield Iterate("init", z_0.clamp(-1, 1))
    for t in range(state["t"] if state else 0, h.outer):
        x = z_0
        for step, (_, abar, abar_prev) in enumerate(g.timesteps):
            x = x.detach().requires_grad_()
            eps = g.eps(x, g.timesteps[step])
            x0_hat = predict_x0(x, eps, abar)
            distance = torch.linalg.vector_norm((operator(x0_hat) - y).flatten(1), dim=1).sum()
            gradient = torch.autograd.grad(distance, x)[0]
            if step + 1 == len(g):
                x = x0_hat.detach()  # the last step adds no noise
            else:
                noise = g.rng.randn(x.shape[1:], x.device)
                x = ddim_step(x.detach(), eps.detach(), abar, abar_prev, eta=1.0, noise=noise)
            x = x - h.scale * gradient
            on_step(step + 1, len(g), distance.detach())
        yield Iterate(f"{t}_after", x.clamp(-1, 1), {"t": t + 1}, ends_outer=True)


METHOD = Method("dps", dps, DPSRow, "DPS")

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
