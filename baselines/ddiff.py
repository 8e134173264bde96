"""DDiff: dual ascent with a diffusion prior (Kim, Levy, Wetzstein, CVPR 2026; arXiv 2505.17353).

    python -m baselines.ddiff --task inpainting --data faces/ -n 4 --cuda -1

DiffPIR's loop as the alternating direction method of multipliers: a scaled dual variable gathers what the network and the measurement differ
by, so that later levels make up for it. From the paper's formulas. The command line and the files of dmilo.py.
"""

from dataclasses import dataclass, field

import torch

from guided_diffusion.ddim import predict_x0
from solvers.annealing import noised_on
from solvers.least_squares import LinearTask
from solvers.method import Iterate, Method, Row


@dataclass(frozen=True, kw_only=True)
class DDiffHyperparameters(Row):
    """One row of configs/ddiff.yaml. weight: lambda, of the step to the network's guess; zeta: the share of fresh noise, 0 … 1."""

    weight: float = field(metadata={"low": 1e-9})
    zeta: float = field(
        metadata={"valid": lambda value: 0 <= value <= 1, "hint": "a number, 0 … 1"}
    )


@torch.no_grad()
def ddiff(g, operator, y, z_0, h, on_step, state=None):
    """Yields the Iterate of the last level's x, (B, 3, H, W) in [-1, 1]. Raises UserError for an operator that is not linear."""
    task = LinearTask(operator, y, z_0)
    x_t, u = z_0, torch.zeros_like(z_0)
    for step, level in enumerate(g.levels):
        z = predict_x0(x_t, g.eps(x_t, level), level.abar)
        damping = h.weight * h.sigma**2 * level.abar / (1 - level.abar)
        x = task.drawn_to(z - u, damping).clamp(-1, 1)
        x_t = noised_on(x, x_t, level, h.zeta, g.rng) + level.abar_prev**0.5 * u
        u = u + x - z
        on_step(step + 1, len(g), (operator(x) - y).square().sum())
    yield Iterate("0_after", x, ends_outer=True)


METHOD = Method("ddiff", ddiff, DDiffHyperparameters)

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
