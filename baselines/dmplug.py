"""DMPlug: search the noise alone, through the whole chain (Wang et al., NeurIPS 2024; github.com/sun-umn/DMPlug).

    python -m baselines.dmplug --task inpainting --data faces/ -n 4 --cuda -1

The parent of DMILO, with the command line and the files of dmilo.py. Each step evaluates the network once a layer and keeps
all of them in memory for the gradient.
"""
from dataclasses import dataclass

import torch

from solvers.ilo import mean_per_image, run_chain
from solvers.search import Start


@dataclass(frozen=True, kw_only=True)
class DMPlugHyperparameters(Start):
    """One row of configs/dmplug.yaml. outer x inner: steps of one Adam, the picture recorded after every `inner` of
    them; lr_z: its learning rate."""

    outer: int
    inner: int
    lr_z: float


def dmplug(g, operator, y, z_0, h, on_step, state=None):
    """argmin_{z_0} mean (operator(g(z_0)) - y)^2. Yields (name, X, state): where it starts, then X every h.inner steps,
    (B, 3, H, W) in [-1, 1], and what it needs to go on from there."""
    nu = [0] * len(g)  # no deviations
    z = (z_0 if state is None else state["z"]).clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=h.lr_z, fused=True)
    if state is None:
        yield "init", run_chain(g, z.detach(), nu)[-1].clamp(-1, 1), None
    else:
        adam.load_state_dict(state["adam"])
    for t in range(state["t"] if state else 0, h.outer):
        for step in range(h.inner):
            x = z
            for layer in g:
                x = layer(x)
            loss = mean_per_image((operator(x) - y).square())
            adam.zero_grad()
            loss.backward()
            adam.step()
            on_step(step + 1, h.inner, loss.detach())
        X = run_chain(g, z.detach(), nu)[-1].clamp(-1, 1)
        yield f"{t}_after", X, {"t": t + 1, "z": z.detach(), "adam": adam.state_dict()}


if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, "dmplug", dmplug, DMPlugHyperparameters)
