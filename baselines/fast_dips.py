"""FAST-DIPS: diffusion sampling with a bound on the residual (Kim, Shin & Lim, ICLR 2026;
arXiv 2603.01591).

    python -m baselines.fast_dips --task inpainting --data faces/ -n 4 --cuda -1

At falling noise levels: the network estimates the image, a few ADMM steps move the estimate to
images whose residual is no larger than the noise, and fresh noise leads to the next one. Without
a gradient of the network. Their operators may be nonlinear; here they are linear, for which the
length of their gradient step is exact. The command line and the files of dmilo.py.
"""

from dataclasses import dataclass, field

import torch

from solvers.least_squares import LinearTask, floor_sigma
from solvers.method import Iterate, IteratedRow, Method


@dataclass(frozen=True, kw_only=True)
class FastDIPSRow(IteratedRow):
    """One row of configs/fast_dips.yaml.

    outer: samples, one after the other; steps: noise levels of each, which fall geometrically from
    `top` to `last`, in units of [-1, 1]; corrections: ADMM steps at each; rho: their penalty, in
    units of 1 / sigma^2.
    """

    steps: int
    top: float = field(metadata={"low": 1e-9})  # it divides, as `last` does
    last: float = field(metadata={"low": 1e-9})
    corrections: int
    rho: float


def over_images(values, like):
    """One value per image, (B,), in a shape that broadcasts with `like`, (B, …)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def squared_norm(x):
    """||x||^2 of each image of x, (B, …): (B,)."""
    return x.flatten(1).square().sum(1)


def project(v, y, radius):
    """The nearest point to v with ||v - y|| <= radius for each image. v, y: (B, …); radius:
    (B,)."""
    share = (radius / squared_norm(v - y).sqrt().clamp(min=1e-20)).clamp(max=1)
    return y + over_images(share, y) * (v - y)


def corrected(task, x0_hat, variance, y, radius, rho, steps):
    """x0_hat, (B, 3, H, W), after `steps` ADMM steps towards ||A(x) - y|| <= radius.

    Each step is a gradient step on ||x - x0_hat||^2 / 2 variance + rho / 2 ||A(x) - v + u||^2 of
    exact length (one A, one A^T), the projection of v, and the update of the dual variable u.
    """
    x, image = x0_hat, task.operator(x0_hat)
    v, u = project(image, y, radius), torch.zeros_like(y)
    for _ in range(steps):
        gradient = (x - x0_hat) / variance + rho * task.transpose(image - v + u)
        along = task.operator(gradient)
        curvature = squared_norm(gradient) / variance + rho * squared_norm(along)
        rate = squared_norm(gradient) / curvature.clamp(min=1e-20)
        x = x - over_images(rate, x) * gradient
        image = image - over_images(rate, y) * along  # A is linear: this is A(x)
        v = project(image + u, y, radius)
        u = u + image - v
    return x


@torch.no_grad()
def fast_dips(g, operator, y, z_0, h, on_step, state=None):
    """Yields Iterates: the noise, then each sample, (B, 3, H, W) in [-1, 1].

    Raises UserError for an operator that is not linear.
    """
    task, sigma = LinearTask(operator, y, z_0), floor_sigma(h.sigma)
    measured = operator(z_0) != 0  # false where A is 0 for every image, for example in holes
    y = torch.where(measured, y, 0)
    radius = sigma * measured.flatten(1).sum(1) ** 0.5
    ratio = h.last / h.top
    sigmas = [h.top * ratio ** (k / max(1, h.steps - 1)) for k in range(h.steps)]
    if state is None:
        yield Iterate("init", z_0.clamp(-1, 1))
    for t in range(state["t"] if state else 0, h.outer):
        x = torch.zeros_like(z_0)
        for k, sigma_t in enumerate(sigmas):
            noise = g.rng.randn(x.shape[1:], x.device) if k > 0 else z_0
            x0_hat = g.denoised(x + sigma_t * noise, sigma_t)
            x = corrected(task, x0_hat, sigma_t**2, y, radius, h.rho / sigma**2, h.corrections)
            x = x.clamp(-1, 1)
            on_step(k + 1, len(sigmas), squared_norm(operator(x) - y).sum())
        yield Iterate(f"{t}_after", x, {"t": t + 1}, ends_outer=True)


METHOD = Method("fast_dips", fast_dips, FastDIPSRow, "FAST-DIPS")

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
