"""SubDAPS: annealing that is random first, then deterministic, then corrected (arXiv 2605.14267).

    python -m baselines.subdaps --task inpainting --data faces/ -n 4 --cuda -1

DiffPIR's loop with fresh noise only, until the measurement hardly moves the network's guess. From there on it keeps its noise. What it has
passed since is then walked again by the trapezoidal rule over the stored guesses, which asks for no network. Without the paper's
multi-resolution part. Its text could not be had: the corrector is ours, the rest after a description. The command line and the files of dmilo.py.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch

from guided_diffusion.ddim import Level, predict_x0
from solvers.annealing import noised_on
from solvers.least_squares import LinearTask
from solvers.method import Iterate, Method, Row


@dataclass(frozen=True, kw_only=True)
class SubDAPSHyperparameters(Row):
    """One row of configs/subdaps.yaml. tau: of a picture in [-1, 1], the mean square below which the measurement has to move a guess for the
    deterministic part to begin."""

    tau: float = field(metadata={"low": 0.0})


class Passed(NamedTuple):
    """What is stored of a level: z and the guess drawn to the measurement, each (B, 3, H, W), and which images have settled, (B, 1, 1, 1)."""

    level: Level
    z: torch.Tensor
    guess: torch.Tensor
    settled: torch.Tensor


def corrected(path, rng):
    """The z at the last level of a path of Passed, (B, 3, H, W), walked with the mean of each level's guess and the next one's."""
    z = path[0].z
    for now, after in pairwise(path):
        z = torch.where(
            now.settled, noised_on((now.guess + after.guess) / 2, z, now.level, 0.0, rng), after.z
        )
    return z


@torch.no_grad()
def subdaps(g, operator, y, z_0, h, on_step, state=None):
    """Yields the Iterate of the corrected picture, (B, 3, H, W) in [-1, 1]. Raises UserError for an operator that is not linear."""
    task = LinearTask(operator, y, z_0)
    z, path = z_0, []
    settled = torch.zeros_like(z_0[:, :1, :1, :1], dtype=torch.bool)
    for step, level in enumerate(g.levels):
        eps = g.eps(z, level)
        x0 = predict_x0(z, eps, level.abar)
        damping = h.sigma**2 * level.abar / (1 - level.abar)
        guess = task.drawn_to(x0, damping).clamp(-1, 1)
        settled = settled | ((guess - x0).square().mean((1, 2, 3), keepdim=True) < h.tau)
        path.append(Passed(level, z, guess, settled))
        z = noised_on(guess, z, level, 1 - settled.float(), g.rng)
        on_step(step + 1, len(g), (operator(guess) - y).square().sum())
    x0 = predict_x0(corrected(path, g.rng), eps, level.abar)
    yield Iterate("0_after", task.drawn_to(x0, damping).clamp(-1, 1), ends_outer=True)


METHOD = Method("subdaps", subdaps, SubDAPSHyperparameters)

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
