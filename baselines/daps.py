"""DAPS: decoupled annealing posterior sampling, in pixel space (Zhang et al., CVPR 2025; github.com/zhangbingliang2019/DAPS).

    python -m baselines.daps --task inpainting --data faces/ -n 4 --cuda -1

At each of falling noise levels: a few DDIM steps guess the picture, Langevin steps draw it towards the measurement, and fresh
noise takes it to the next level. The command line and the files of dmilo.py.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from guided_diffusion.ddim import ddim_step, predict_x0
from solvers.least_squares import noise_level
from solvers.method import Iterate, Method, Row


@dataclass(frozen=True, kw_only=True)
class DAPSHyperparameters(Row):
    """One row of configs/daps.yaml. outer: samples, drawn one after the other; levels: noise levels of each, from the chain's
    highest to sigma_min; ode_steps: DDIM steps of a guess; langevin_steps, lr_x, lr_min_ratio: Langevin steps, their size
    in units of one over the energy's curvature where A is the identity (2 diverges), and what it falls to, linearly, over the
    levels."""

    outer: int
    levels: int
    sigma_min: float = field(metadata={"low": 1e-9})  # it divides
    ode_steps: int
    langevin_steps: int
    lr_x: float
    lr_min_ratio: float


def annealing(g, count, sigma_min):
    """Indices of about `count` of the chain's levels, whose noise-to-signal ratios fall to sigma_min like the seventh power of a
    line (Karras et al. 2022, eq. 5)."""
    sigmas = np.array([((1 - level.abar) / level.abar) ** 0.5 for level in g.levels])
    line = np.linspace(sigmas[0] ** (1 / 7), sigma_min ** (1 / 7), count) ** 7
    return sorted({int(np.abs(np.log(sigmas) - np.log(sigma)).argmin()) for sigma in line})


def guess(g, x, i, steps):
    """The picture behind x at level i, by `steps` DDIM steps over the levels from there on."""
    stride = max(1, (len(g) - i) // steps)
    path = list(range(i, len(g), stride))[:steps]
    for here, after in zip(path, path[1:]):
        x = ddim_step(x, g.eps(x, g.levels[here]), g.levels[here].abar, g.levels[after].abar)
    return predict_x0(x, g.eps(x, g.levels[path[-1]]), g.levels[path[-1]].abar)


def daps(g, operator, y, z_0, h, on_step, state=None):
    """Yields Iterates: the noise, then each sample, (B, 3, H, W) in [-1, 1]."""
    variance = noise_level(h.sigma) ** 2
    path = annealing(g, h.levels, h.sigma_min)
    if state is None:
        yield Iterate("init", z_0.clamp(-1, 1))
    for t in range(state["t"] if state else 0, h.outer):
        x = z_0
        for k, i in enumerate(path):
            abar = g.levels[i].abar
            if k > 0:  # fresh noise for this level
                x = abar**0.5 * X + (1 - abar) ** 0.5 * g.rng.randn(X.shape[1:], X.device)
            with torch.no_grad():
                x0 = guess(g, x, i, h.ode_steps)
            spread = (1 - abar) / abar  # of the picture, given x
            rate = h.lr_x * (1 - k / len(path) * (1 - h.lr_min_ratio)) / (1 / variance + 1 / spread)
            X = x0
            for _ in range(h.langevin_steps):
                X = X.detach().requires_grad_()
                energy = (X - x0).square().sum() / (2 * spread) + (
                    operator(X) - y
                ).square().sum() / (2 * variance)
                gradient = torch.autograd.grad(energy, X)[0]
                X = (
                    X.detach()
                    - rate * gradient
                    + (2 * rate) ** 0.5 * g.rng.randn(X.shape[1:], X.device)
                )
            on_step(k + 1, len(path), energy.detach())
        yield Iterate(f"{t}_after", X.clamp(-1, 1), {"t": t + 1}, ends_outer=True)


METHOD = Method("daps", daps, DAPSHyperparameters)

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
