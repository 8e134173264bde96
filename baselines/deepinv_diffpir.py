"""DiffPIR as deepinv implements it (deepinv.sampling.DiffPIR, github.com/deepinv/deepinv), with our
prior as its denoiser. deepinv is optional.

    python -m baselines.deepinv_diffpir --task demosaicing --cuda -1

The method of baselines/diffpir.py in another implementation, to check ours. The command line and
the files of dmilo.py.
"""

from dataclasses import dataclass

import torch

from solvers.least_squares import adjoint, floor_sigma
from solvers.method import Iterate, IteratedRow, Method
from util.files import UserError


@dataclass(frozen=True, kw_only=True)
class DeepinvDiffPIRRow(IteratedRow):
    """One row of configs/deepinv_diffpir.yaml. outer: samples, one after the other; chain_steps: of
    each (theirs: max_iter); zeta: the share of fresh noise; lambda_: weight of the noise variance
    in the data step."""

    zeta: float
    lambda_: float


def denoiser(g):
    """The chain's network in the form of deepinv's denoisers: f(x, sigma), x (B, 3, H, W) in [0, 1]
    with noise sigma."""
    return lambda x, sigma: (g.denoised(2 * x - 1, 2 * float(sigma)) + 1) / 2


def deepinv_diffpir(g, operator, y, z_0, h, on_step, state=None):
    """Yields Iterates: the noise, then each sample, (B, 3, H, W) in [-1, 1]. Their noise comes from
    the global generator, so that a result depends on its batch.

    Raises UserError for an operator that is not linear and where deepinv is missing.
    """
    try:
        from deepinv import optim, physics, sampling
    except ImportError as error:
        raise UserError(
            f"deepinv cannot be imported here ({error}); pip install deepinv"
        ) from error
    transpose = adjoint(operator, z_0)
    task = physics.LinearPhysics(
        A=lambda u, **kwargs: operator(u), A_adjoint=lambda v, **kwargs: transpose(v)
    )
    with torch.no_grad():
        measured = (y + operator(torch.ones_like(z_0))) / 2  # physics.A of images in [0, 1]
    sigma = floor_sigma(h.sigma) / 2
    options = h.chain_steps, h.zeta, h.lambda_
    sampler = sampling.DiffPIR(denoiser(g), optim.L2(), sigma, *options, device=z_0.device)
    init = z_0.clamp(-1, 1)
    if state is None:
        yield Iterate("init", init)
    for t in range(state["t"] if state else 0, h.outer):
        with torch.random.fork_rng():
            X = sampler(measured, task, seed=g.rng.seeds[0] + t, x_init=(init + 1) / 2)
        on_step(1, 1, (operator(2 * X - 1) - y).square().sum())
        yield Iterate(f"{t}_after", (2 * X - 1).clamp(-1, 1), {"t": t + 1}, ends_outer=True)


METHOD = Method("deepinv_diffpir", deepinv_diffpir, DeepinvDiffPIRRow, "DiffPIR of deepinv")

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
