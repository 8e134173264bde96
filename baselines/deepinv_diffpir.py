"""DiffPIR as deepinv has it (deepinv.sampling.DiffPIR, github.com/deepinv/deepinv), with our prior as its denoiser. deepinv is optional.

    python -m baselines.deepinv_diffpir --task demosaicing --cuda -1

The method of baselines/diffpir.py by other hands: to see what of a difference is the method's. The command line and the files of dmilo.py.
"""

from dataclasses import dataclass

import torch

from solvers.least_squares import adjoint, noise_level
from solvers.method import Iterate, Method, Row
from util.files import UserError


@dataclass(frozen=True, kw_only=True)
class DeepinvDiffPIRHyperparameters(Row):
    """One row of configs/deepinv_diffpir.yaml. outer: samples, drawn one after the other; chain_steps: of each (theirs: max_iter); zeta: the
    share of fresh noise; lambda_: of the noise's variance in the data step."""

    outer: int
    zeta: float
    lambda_: float


def denoiser(g):
    """The chain's network as deepinv's denoisers are called: f(x, sigma), x (B, 3, H, W) in [0, 1] with noise of sigma."""
    return lambda x, sigma: (g.denoised(2 * x - 1, 2 * float(sigma)) + 1) / 2


def deepinv_diffpir(g, operator, y, z_0, h, on_step, state=None):
    """Yields Iterates: the noise, then each sample, (B, 3, H, W) in [-1, 1]. Their noise is the global generator's, so that a
    picture's depends on those that share its batch.

    Raises UserError for an operator that is not linear and where deepinv is missing.
    """
    try:
        from deepinv import optim, physics, sampling
    except ImportError as error:
        raise UserError(
            f"deepinv cannot be imported here ({error}); pip install deepinv"
        ) from error
    task = physics.LinearPhysics(
        A=lambda u, **kwargs: operator(u),
        A_adjoint=lambda v, transpose=adjoint(operator, z_0), **kwargs: transpose(v),
    )
    with torch.no_grad():
        measured = (y + operator(torch.ones_like(z_0))) / 2  # physics.A of pictures in [0, 1]
    sampler = sampling.DiffPIR(
        denoiser(g),
        optim.L2(),
        noise_level(h.sigma) / 2,
        h.chain_steps,
        h.zeta,
        h.lambda_,
        device=z_0.device,
    )
    if state is None:
        yield Iterate("init", z_0.clamp(-1, 1))
    for t in range(state["t"] if state else 0, h.outer):
        with torch.random.fork_rng():
            X = sampler(measured, task, seed=g.rng.seeds[0] + t, x_init=(z_0.clamp(-1, 1) + 1) / 2)
        on_step(1, 1, (operator(2 * X - 1) - y).square().sum())
        yield Iterate(f"{t}_after", (2 * X - 1).clamp(-1, 1), {"t": t + 1}, ends_outer=True)


METHOD = Method("deepinv_diffpir", deepinv_diffpir, DeepinvDiffPIRHyperparameters)

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
