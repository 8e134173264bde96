"""Least squares with a quadratic smoothness term: what a linear task allows without any prior.

    python -m baselines.least_squares --task inpainting --data faces/ -n 4

A textbook method (Tikhonov regularisation of the gradient), with the command line and the files of dmilo.py.
"""
from dataclasses import dataclass

import torch

from solvers.least_squares import smooth_least_squares
from solvers.search import Start


@dataclass(frozen=True, kw_only=True)
class LeastSquaresHyperparameters(Start):
    """One row of configs/least_squares.yaml. outer, inner: rounds, and conjugate gradient steps in each; smoothness:
    the weight of the squared differences between neighbouring pixels."""

    outer: int
    inner: int
    smoothness: float


def least_squares(g, operator, y, z_0, h, on_step, state=None):
    """Yields (name, X, None): grey, then the result, (B, 3, H, W) in [-1, 1]. The chain g is not used, nor is a state.

    Raises UserError for an operator that is not linear.
    """
    yield "init", torch.zeros_like(z_0), None
    for t in range(h.outer):
        X = smooth_least_squares(operator, y, z_0, h.smoothness, (t + 1) * h.inner, on_step)
        yield f"{t}_after", X.clamp(-1, 1), None


if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, "least_squares", least_squares, LeastSquaresHyperparameters, uses_prior=False)
