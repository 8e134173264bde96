"""Plug-and-play ADMM with renoising (AC-DC: Shrestha & Fu, arXiv 2603.10281).

    python -m baselines.admm --task inpainting --data faces/ -n 4 --cuda -1

In turns, at falling noise levels: a proximal step towards the measurement, fresh noise and the
network's denoising, and the update of the dual variable. Without a gradient of the network. Their
Langevin steps between noise and denoising are left out. The command line and the files of dmilo.py.
"""

from dataclasses import dataclass, field

import torch

from guided_diffusion.ddim import even_sigmas
from solvers.least_squares import LinearTask, floor_sigma
from solvers.method import Iterate, IteratedRow, Method


@dataclass(frozen=True, kw_only=True)
class ADMMRow(IteratedRow):
    """One row of configs/admm.yaml.

    outer: samples, one after the other; steps: ADMM iterations of each, one NFE each, at noise
    levels evenly spaced in the network's timesteps, from `top` (0: the training's largest) to
    `last`, in units of [-1, 1]; damping: of the proximal step, in units of (sigma / sigma_t)^2.
    """

    steps: int
    top: float
    last: float = field(metadata={"low": 1e-9})  # it divides
    damping: float = field(metadata={"low": 1e-9})


@torch.no_grad()
def admm(g, operator, y, z_0, h, on_step, state=None):
    """Yields Iterates: grey, then each sample, (B, 3, H, W) in [-1, 1].

    Raises UserError for an operator that is not linear.
    """
    task, sigma = LinearTask(operator, y, z_0), floor_sigma(h.sigma)
    sigmas = even_sigmas(h.steps, h.last, h.top)
    if state is None:
        yield Iterate("init", torch.zeros_like(z_0))
    for t in range(state["t"] if state else 0, h.outer):
        z = u = torch.zeros_like(z_0)
        for k, sigma_t in enumerate(sigmas):
            u = u * (sigma_t / sigmas[max(k - 1, 0)]) ** 2  # scaled by the penalty, which grows
            x = task.prox(z - u, h.damping * (sigma / sigma_t) ** 2)
            noise = g.rng.randn(x.shape[1:], x.device)
            z = g.denoised(x + u + sigma_t * noise, sigma_t)
            u = u + x - z
            on_step(k + 1, len(sigmas), (operator(z) - y).square().sum())
        yield Iterate(f"{t}_after", z, {"t": t + 1}, ends_outer=True)


METHOD = Method("admm", admm, ADMMRow, "PnP-ADMM with renoising")

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
