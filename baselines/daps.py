"""DAPS: decoupled annealing posterior sampling, in pixel space (Zhang et al., CVPR 2025;
github.com/zhangbingliang2019/DAPS).

    python -m baselines.daps --task inpainting --data faces/ -n 4 --cuda -1

At falling noise levels: a few DDIM steps estimate the image, Langevin steps move it towards the
measurement, fresh noise leads to the next one. The command line and the files of dmilo.py.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from guided_diffusion.ddim import ddim_step, predict_x0
from solvers.least_squares import floor_sigma
from solvers.method import Iterate, IteratedRow, Method


@dataclass(frozen=True, kw_only=True)
class DAPSRow(IteratedRow):
    """One row of configs/daps.yaml.

    outer: samples, one after the other; levels: noise levels of each, from the chain's highest to
    sigma_min; ode_steps: DDIM steps of an estimate; langevin_steps, lr_x, lr_min_ratio: Langevin
    steps, their size in units of one over the energy's curvature where A is the identity (2
    diverges), and the factor by which it falls, linearly, over the levels.
    """

    levels: int
    sigma_min: float = field(metadata={"low": 1e-9})  # it divides
    ode_steps: int
    langevin_steps: int
    lr_x: float
    lr_min_ratio: float


def annealing(g, count, sigma_min):
    """Indices of about `count` of the chain's timesteps, whose noise levels fall to sigma_min as
    the seventh power of a linear sequence (Karras et al. 2022, eq. 5)."""
    sigmas = np.array([((1 - one.abar) / one.abar) ** 0.5 for one in g.timesteps])
    line = np.linspace(sigmas[0] ** (1 / 7), sigma_min ** (1 / 7), count) ** 7
    return sorted({int(np.abs(np.log(sigmas) - np.log(sigma)).argmin()) for sigma in line})


def estimate(g, x, i, steps):
    """The image behind x at timestep i, by `steps` DDIM steps over the following timesteps."""
    stride = max(1, (len(g) - i) // steps)
    path = list(range(i, len(g), stride))[:steps]
    for here, after in zip(path, path[1:]):
        eps = g.eps(x, g.timesteps[here])
        x = ddim_step(x, eps, g.timesteps[here].abar, g.timesteps[after].abar)
    return predict_x0(x, g.eps(x, g.timesteps[path[-1]]), g.timesteps[path[-1]].abar)


def langevin(x0_hat, operator, y, variances, rate, steps, rng):
    """(the sample, its energy) by Langevin steps from x0_hat. variances: of x0_hat and of y."""
    x = x0_hat
    for _ in range(steps):
        x = x.detach().requires_grad_()
        prior, data = (x - x0_hat).square().sum(), (operator(x) - y).square().sum()
        energy = prior / (2 * variances[0]) + data / (2 * variances[1])
        gradient = torch.autograd.grad(energy, x)[0]
        x = x.detach() - rate * gradient + (2 * rate) ** 0.5 * rng.randn(x.shape[1:], x.device)
    return x, energy.detach()


def daps(g, operator, y, z_0, h, on_step, state=None):
    """Yields Iterates: the noise, then each sample, (B, 3, H, W) in [-1, 1]."""
    variance = floor_sigma(h.sigma) ** 2
    path = annealing(g, h.levels, h.sigma_min)
    if state is None:
        yield Iterate("init", z_0.clamp(-1, 1))
    for t in range(state["t"] if state else 0, h.outer):
        x = X = z_0
        for k, i in enumerate(path):
            abar = g.timesteps[i].abar
            if k > 0:  # fresh noise for this sigma_t
                x = abar**0.5 * X + (1 - abar) ** 0.5 * g.rng.randn(X.shape[1:], X.device)
            with torch.no_grad():
                x0_hat = estimate(g, x, i, h.ode_steps)
            given_x = (1 - abar) / abar  # the estimate's variance
            rate = h.lr_x * (1 - k / len(path) * (1 - h.lr_min_ratio))
            rate /= 1 / variance + 1 / given_x
            variances = given_x, variance
            X, energy = langevin(x0_hat, operator, y, variances, rate, h.langevin_steps, g.rng)
            on_step(k + 1, len(path), energy)
        yield Iterate(f"{t}_after", X.clamp(-1, 1), {"t": t + 1}, ends_outer=True)


METHOD = Method("daps", daps, DAPSRow, "DAPS")

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
