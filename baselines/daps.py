"""DAPS: decoupled annealing posterior sampling, in pixel space (Zhang et al., CVPR 2025; github.com/zhangbingliang2019/DAPS).

    python -m baselines.daps --task inpainting --data faces/ -n 4 --cuda -1

At each of falling noise levels: a few DDIM steps guess the picture, Langevin steps draw it towards the measurement, and fresh
noise takes it to the next level. The command line and the files of dmilo.py.
"""
from dataclasses import dataclass

import torch

from guided_diffusion.ddim import ddim_step, predict_x0
from util.runner import main
from util.start import Start


@dataclass(frozen=True, kw_only=True)
class DAPSHyperparameters(Start):
    """One row of configs/daps.yaml. outer: samples, drawn one after the other; chain_steps: noise levels of each; ode_steps: DDIM
    steps of a guess; langevin_steps, lr_x: Langevin steps and their size; sigma_y: standard deviation that the misfit is
    divided by."""

    outer: int
    ode_steps: int
    langevin_steps: int
    lr_x: float
    sigma_y: float


def guess(g, x, i, steps):
    """The picture behind x at level i, by `steps` DDIM steps over the remaining levels."""
    stride = max(1, (len(g) - i) // steps)
    path = list(range(i, len(g), stride))[:steps]
    for here, after in zip(path, path[1:]):
        x = ddim_step(x, g.eps(x, g.levels[here]), g.levels[here].abar, g.levels[after].abar)
    return predict_x0(x, g.eps(x, g.levels[path[-1]]), g.levels[path[-1]].abar)


def daps(g, operator, y, z_0, h, on_step, state=None):
    """Yields (name, X, None): the noise, then the sample, (B, 3, H, W) in [-1, 1]."""
    yield "init", z_0.clamp(-1, 1), None
    for t in range(h.outer):
        x = z_0
        for i, level in enumerate(g.levels):
            with torch.no_grad():
                x0 = guess(g, x, i, h.ode_steps)
            spread = (1 - level.abar) / level.abar  # of the picture, given x
            X = x0
            for _ in range(h.langevin_steps):
                X = X.detach().requires_grad_()
                energy = (X - x0).square().sum() / (2 * spread) + (operator(X) - y).square().sum() / (2 * h.sigma_y**2)
                gradient = torch.autograd.grad(energy, X)[0]
                X = X.detach() - h.lr_x * gradient + (2 * h.lr_x) ** 0.5 * g.rng.randn(X.shape[1:], X.device)
            x = level.abar_prev**0.5 * X + (1 - level.abar_prev) ** 0.5 * g.rng.randn(X.shape[1:], X.device)
            on_step(i + 1, len(g), (operator(X) - y).square().sum())
        yield f"{t}_after", X.clamp(-1, 1), None


if __name__ == "__main__":
    main(__doc__, "daps", daps, DAPSHyperparameters)
