"""Least squares with a quadratic smoothness term: what a linear task allows without any prior.

    python -m baselines.least_squares --task inpainting --data faces/ -n 4

A textbook method (Tikhonov regularisation of the gradient), with the command line and the files of dmilo.py.
"""

from dataclasses import dataclass, field

import torch

from solvers.least_squares import LinearTask, noise_level
from solvers.method import Iterate, Method, Row


@dataclass(frozen=True, kw_only=True)
class LeastSquaresHyperparameters(Row):
    """One row of configs/least_squares.yaml. outer, inner: rounds, and conjugate gradient steps in each; contrast, which
    the smoothness sigma^2 / contrast follows from, is here never 0."""

    outer: int
    inner: int
    contrast: float = field(metadata={"low": 1e-9})


def least_squares(g, operator, y, z_0, h, on_step, state=None):
    """argmin_X ||operator(X) - y||^2 / sigma^2 + ||differences of X||^2 / contrast, the most probable picture if noise and
    differences are Gaussian. Yields Iterates: grey, then the result, (B, 3, H, W) in [-1, 1]. The chain g is not used, nor
    is a state.

    Raises UserError for an operator that is not linear.
    """
    task, smoothness = LinearTask(operator, y, z_0), noise_level(h.sigma) ** 2 / h.contrast
    yield Iterate("init", torch.zeros_like(z_0))
    for t in range(h.outer):
        X = task.smooth(smoothness, (t + 1) * h.inner, on_step)
        yield Iterate(f"{t}_after", X.clamp(-1, 1), ends_outer=True)


METHOD = Method("least_squares", least_squares, LeastSquaresHyperparameters, uses_prior=False)

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
