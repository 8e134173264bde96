"""DiffPIR: denoising diffusion as a plug-and-play prior (Zhu et al., CVPR workshops 2023; github.com/yuanzhi-zhu/DiffPIR).

    python -m baselines.diffpir --task inpainting --data faces/ -n 4 --cuda -1

At each level of the chain: the network guesses the picture, a least squares step draws it towards the measurement, and noise, partly
the old one, takes it to the next level. The network is never differentiated. The command line and the files of dmilo.py.
"""
from dataclasses import dataclass

import torch

from guided_diffusion.ddim import predict_x0
from solvers.least_squares import LinearTask
from solvers.search import Start

@dataclass(frozen=True, kw_only=True)
class DiffPIRHyperparameters(Start):
    """One row of configs/diffpir.yaml. outer: samples, drawn one after the other; chain_steps: of each; weight: lambda, of the
    network's guess against the measurement; zeta: the share of fresh noise, 0 (none) ... 1."""

    outer: int
    weight: float
    zeta: float


@torch.no_grad()
def sample(g, task, z, h, on_step):
    """A sample of the pictures behind the task's y, (B, 3, H, W) in [-1, 1], from noise z at the chain's first level (their
    Algorithm 1)."""
    for step, level in enumerate(g.levels):
        x0 = predict_x0(z, g.eps(z, level), level.abar)
        # Without noise, the number of conjugate gradient steps alone keeps this from dividing by zero.
        X = task.drawn_to(x0, h.weight * h.sigma**2 * level.abar / (1 - level.abar)).clamp(-1, 1)
        eps = (z - level.abar**0.5 * X) / (1 - level.abar) ** 0.5
        noise = (1 - h.zeta) ** 0.5 * eps + h.zeta**0.5 * g.rng.randn(X.shape[1:], X.device)
        z = level.abar_prev**0.5 * X + (1 - level.abar_prev) ** 0.5 * noise
        on_step(step + 1, len(g), (task.operator(X) - task.y).square().sum())
    return X


def diffpir(g, operator, y, z_0, h, on_step, state=None):
    """Yields (name, X, state): the noise, then each sample, (B, 3, H, W) in [-1, 1].

    Raises UserError for an operator that is not linear.
    """
    task = LinearTask(operator, y, z_0)
    if state is None:
        yield "init", z_0.clamp(-1, 1), None
    for t in range(state["t"] if state else 0, h.outer):
        yield f"{t}_after", sample(g, task, z_0, h, on_step), {"t": t + 1}


if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, "diffpir", diffpir, DiffPIRHyperparameters)
