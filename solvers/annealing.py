"""Annealed sampling: the network's estimate and a data step alternate at falling noise levels."""

import torch

from guided_diffusion.ddim import predict_x0

PIXEL_VARIANCE = 0.25  # of an image in [-1, 1]


def guided(task, z, x0_hat, timestep, sigma):
    """The estimate x0_hat of the image behind z, (B, 3, H, W), after a data step along the
    network's gradient, which also updates values that are correlated with measured ones.

    Source: PiGDM (Song et al. 2023), x0_hat + C A^T (r A A^T + sigma^2)^-1 (y - A x0_hat). C, the
    covariance given z, is sigma_t^2 times the network's Jacobian; inside the inverse it is replaced
    by r, the variance given z of a white image of variance PIXEL_VARIANCE.
    """
    variance = (1 - timestep.abar) / timestep.abar
    r = 1 / (1 / variance + 1 / PIXEL_VARIANCE)
    x = x0_hat.detach()
    gradient = torch.autograd.grad(x0_hat, z, task.prox(x, sigma**2 / r) - x)[0]
    return x + timestep.abar**0.5 * variance / r * gradient


def unchanged(x0_hats, timestep):
    """The default `before_data` of `annealed`: unchanged estimates, operator variance 0."""
    return x0_hats, 0.0


@torch.no_grad()
def annealed(g, task, zs, sigma, zeta, on_step, by_gradient=False, before_data=unchanged):
    """Returns samples, a list of (B, 3, H, W) in [-1, 1], one for each of zs.

    At each timestep of the chain, the network estimates the image, a proximal step damped by the
    variance of its error follows, and noise, partly fresh, leads to the next timestep.

    zs: (B, 3, H, W) each, at the chain's highest sigma_t; sigma: the measurement noise; zeta: the
    share of fresh noise, 0 … 1; by_gradient: use `guided`; before_data(x0_hats, timestep): returns
    the estimates before the data step, and the variance due to the error of the operator.
    Source: DiffPIR (Zhu et al. 2023, Algorithm 1) with lambda = 1.
    """
    for step, timestep in enumerate(g.timesteps):
        with torch.set_grad_enabled(by_gradient):
            zs = [z.detach().requires_grad_(by_gradient) for z in zs]
            x0_hats = [predict_x0(z, g.eps(z, timestep), timestep.abar) for z in zs]
        x0_hats, variance = before_data(x0_hats, timestep)
        if by_gradient:
            xs = [guided(task, z, x0_hat, timestep, sigma) for x0_hat, z in zip(x0_hats, zs)]
        else:  # at sigma 0 the small number of conjugate gradient steps avoids a zero divisor
            damping = (sigma**2 + variance) * timestep.abar / (1 - timestep.abar)
            xs = [task.prox(x0_hat, damping) for x0_hat in x0_hats]
        xs = [x.clamp(-1, 1) for x in xs]
        zs = [renoised(x, z.detach(), timestep, zeta, g.rng) for x, z in zip(xs, zs)]
        on_step(step + 1, len(g), sum((task.operator(x) - task.y).square().sum() for x in xs))
    return xs


def renoised(x, z, timestep, zeta, rng):
    """z of the next timestep, (B, 3, H, W): x with the noise of z, a share zeta of it fresh."""
    eps = (z - timestep.abar**0.5 * x) / (1 - timestep.abar) ** 0.5
    noise = (1 - zeta) ** 0.5 * eps + zeta**0.5 * rng.randn(x.shape[1:], x.device)
    return timestep.abar_prev**0.5 * x + (1 - timestep.abar_prev) ** 0.5 * noise


@torch.no_grad()
def best_of(samples, task):
    """Select, for each image, the one of `samples`, (B, 3, H, W) each, with the smallest residual;
    a residual that is not finite counts as the largest."""
    best = least = None
    for x in samples:
        residual = (task.operator(x) - task.y).flatten(1).square().sum(1)[:, None, None, None]
        residual = residual.nan_to_num(nan=torch.inf)
        best = x if best is None else torch.where(residual < least, x, best)
        least = residual if least is None else torch.minimum(residual, least)
    return best
