"""RED-diff: regularisation by denoising diffusion (Mardani et al., ICLR 2024;
github.com/NVlabs/RED-diff).

    python -m baselines.reddiff --task inpainting --data faces/ -n 4 --cuda -1

Adam on the image itself: the data term, and the network's denoising residual at falling noise
levels, without a gradient of the network. The init is grey, theirs the pseudo-inverse. The
command line and the files of dmilo.py.
"""

from dataclasses import dataclass

import torch

from solvers.ilo import mean_per_image
from solvers.least_squares import floor_sigma
from solvers.method import Iterate, IteratedRow, Method


@dataclass(frozen=True, kw_only=True)
class REDDiffRow(IteratedRow):
    """One row of configs/reddiff.yaml. outer: sweeps through the chain_steps noise levels; lr_x:
    Adam's learning rate; weight: lambda / sigma, of the denoiser's term (their eq. 9, weighted by
    the inverse root of the signal-to-noise ratio), which thus counts more under more noise."""

    lr_x: float
    weight: float


def reddiff(g, operator, y, z_0, h, on_step, state=None):
    """Yields Iterates: grey, then the image after each sweep, (B, 3, H, W) in [-1, 1], with the
    state to resume from."""
    X = (torch.zeros_like(z_0) if state is None else state["X"]).clone().requires_grad_()
    adam = torch.optim.Adam([X], lr=h.lr_x, betas=(0.9, 0.99))
    if state is None:
        yield Iterate("init", X.detach())
    else:
        adam.load_state_dict(state["adam"])
    for t in range(state["t"] if state else 0, h.outer):
        for step, timestep in enumerate(g.timesteps):
            noise = g.rng.randn(X.shape[1:], X.device)
            with torch.no_grad():
                eps = g.eps(timestep.abar**0.5 * X + (1 - timestep.abar) ** 0.5 * noise, timestep)
            weight = h.weight * floor_sigma(h.sigma) * ((1 - timestep.abar) / timestep.abar) ** 0.5
            loss = 0.5 * mean_per_image((operator(X) - y).square()) + weight * mean_per_image(
                (eps - noise) * X
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
            on_step(step + 1, len(g), loss.detach())
        yield Iterate(
            f"{t}_after",
            X.detach().clamp(-1, 1),
            {"t": t + 1, "X": X.detach(), "adam": adam.state_dict()},
            ends_outer=True,
        )


METHOD = Method("reddiff", reddiff, REDDiffRow, "RED-diff")

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
