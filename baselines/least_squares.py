"""Least squares with a quadratic smoothness term: what a linear task allows without any prior.

    python -m baselines.least_squares --task inpainting --data faces/ -n 4

A textbook method (Tikhonov regularisation of the gradient), with the command line and the files of dmilo.py.
"""
from dataclasses import dataclass

import torch

from util.files import UserError
from util.runner import main


@dataclass(frozen=True)
class LeastSquaresHyperparameters:
    """One row of configs/least_squares.yaml. outer, inner: rounds, and conjugate gradient steps in each; smoothness:
    the weight of the squared differences between neighbouring pixels."""

    outer: int
    inner: int
    smoothness: float


def objective(operator, x, y, smoothness):
    """1/2 ||operator(x) - y||^2 + smoothness / 2 (||d_vertical x||^2 + ||d_horizontal x||^2), summed over the batch."""
    roughness = x.diff(dim=-2).square().sum() + x.diff(dim=-1).square().sum()
    return 0.5 * (operator(x) - y).square().sum() + 0.5 * smoothness * roughness


def least_squares(g, operator, y, z_0, h, on_step):
    """Minimise `objective` by conjugate gradients from grey. Yields (name, X), X (B, 3, H, W) in [-1, 1].

    The chain g is not used. Raises UserError for an operator that is not linear.
    """
    if not torch.allclose(operator(-2 * z_0), -2 * operator(z_0), atol=1e-4):
        raise UserError("least squares needs a linear task: this one's operator is not; choose another --task")

    def gradient(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(objective(operator, x, y, h.smoothness), x)[0]

    def dot(a, b):  # every image by itself
        return (a * b).flatten(1).sum(1)[:, None, None, None]

    X = torch.zeros_like(z_0)
    yield "init", X
    at_zero = gradient(X)
    residual = direction = -at_zero
    for t in range(h.outer):
        for step in range(h.inner):
            curvature = gradient(direction) - at_zero  # the Hessian times the direction: the objective is quadratic
            norm = dot(residual, residual)
            rate = norm / dot(direction, curvature).clamp(min=1e-20)
            X = X + rate * direction
            residual = residual - rate * curvature
            direction = residual + dot(residual, residual) / norm.clamp(min=1e-20) * direction
            on_step(step + 1, h.inner, norm.sum())
        yield f"{t}_after", X.clamp(-1, 1)


if __name__ == "__main__":
    main(__doc__, "least_squares", least_squares, LeastSquaresHyperparameters, uses_prior=False)
