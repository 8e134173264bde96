"""RED-diff: regularisation by denoising diffusion (Mardani et al., ICLR 2024; github.com/NVlabs/RED-diff).

    python -m baselines.reddiff --task inpainting --data faces/ -n 4 --cuda -1

Adam on the picture itself: the measurement's misfit, and the network's opinion of the picture at falling noise levels. The
network is never differentiated. It starts at grey, theirs at the pseudo-inverse. The command line and the files of dmilo.py.
"""

from dataclasses import dataclass

import torch

from solvers.ilo import mean_per_image
from solvers.least_squares import noise_level
from solvers.method import Iterate, Method, Row


@dataclass(frozen=True, kw_only=True)
class REDDiffHyperparameters(Row):
    """One row of configs/reddiff.yaml. outer: sweeps through the chain_steps noise levels; lr_x: Adam's learning rate;
    weight: lambda / sigma, of the denoiser's term (their eq. 9, weighted by the inverse root of the signal-to-noise ratio): the
    noisier the measurement, the more the network is believed."""

    outer: int
    lr_x: float
    weight: float


def reddiff(g, operator, y, z_0, h, on_step, state=None):
    """Yields Iterates: grey, then the picture after each sweep, (B, 3, H, W) in [-1, 1], and what it needs to go on."""
    X = (torch.zeros_like(z_0) if state is None else state["X"]).clone().requires_grad_()
    adam = torch.optim.Adam([X], lr=h.lr_x, betas=(0.9, 0.99))
    if state is None:
        yield Iterate("init", X.detach())
    else:
        adam.load_state_dict(state["adam"])
    for t in range(state["t"] if state else 0, h.outer):
        for step, level in enumerate(g.levels):
            noise = g.rng.randn(X.shape[1:], X.device)
            with torch.no_grad():
                eps = g.eps(level.abar**0.5 * X + (1 - level.abar) ** 0.5 * noise, level)
            weight = h.weight * noise_level(h.sigma) * ((1 - level.abar) / level.abar) ** 0.5
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


METHOD = Method("reddiff", reddiff, REDDiffHyperparameters)

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
