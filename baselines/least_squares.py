"""Least squares with a quadratic smoothness term (Tikhonov regularisation of the gradient).

    python -m baselines.least_squares --task inpainting --data faces/ -n 4

What a linear operator allows without a prior. The command line and the files of dmilo.py.
"""

from dataclasses import dataclass, field

import torch

from solvers.least_squares import LinearTask, floor_sigma
from solvers.method import Iterate, IteratedRow, Method


@dataclass(frozen=True, kw_only=True)
class LeastSquaresRow(IteratedRow):
    """One row of configs/least_squares.yaml. outer, inner: rounds, and conjugate gradient steps in
    each; contrast: the variance of neighbouring differences (the weight is sigma^2 / contrast)."""

    inner: int
    contrast: float = field(metadata={"low": 1e-9})


def least_squares(g, operator, y, z_0, h, on_step, state=None):
    """argmin_X ||operator(X) - y||^2 / sigma^2 + ||differences of X||^2 / contrast, the MAP
    estimate if noise and differences are Gaussian. Yields Iterates: grey, then the result,
    (B, 3, H, W) in [-1, 1]. The chain g and a state are not used.

    Raises UserError for an operator that is not linear.
    """
    task, smoothness = LinearTask(operator, y, z_0), floor_sigma(h.sigma) ** 2 / h.contrast
    yield Iterate("init", torch.zeros_like(z_0))
    for t in range(h.outer):
        X = task.smooth(smoothness, (t + 1) * h.inner, on_step)
        yield Iterate(f"{t}_after", X.clamp(-1, 1), ends_outer=True)


METHOD = Method(
    "least_squares", least_squares, LeastSquaresRow, "Tikhonov regularisation", uses_prior=False
)

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
