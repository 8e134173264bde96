"""DMPlug: optimises the noise alone, through the whole chain (Wang et al., NeurIPS 2024;
github.com/sun-umn/DMPlug).

    python -m baselines.dmplug --task inpainting --data faces/ -n 4 --cuda -1

DMILO's parent. Each step evaluates the network once a layer and keeps them all in memory for
the gradient. A blind kernel is the softmax of logits in the same Adam. The command line and the
files of dmilo.py.
"""

from dataclasses import dataclass

import torch

from guided_diffusion.blind import UnknownOperator
from solvers.ilo import mean_per_image, run_chain
from solvers.method import Iterate, IteratedRow, Method


@dataclass(frozen=True, kw_only=True)
class DMPlugRow(IteratedRow):
    """One row of configs/dmplug.yaml. outer x inner: steps of one Adam, the image recorded after
    every `inner` of them; lr_z: its learning rate; lr_unknown: that of a blind kernel's logits."""

    inner: int
    lr_z: float
    lr_unknown: float = 0.0
    fits_operator = True


def dmplug(g, operator, y, z_0, h, on_step, state=None):
    """argmin_{z_0} mean (operator(g(z_0)) - y)^2. Yields Iterates: the init, then X every h.inner
    steps, (B, 3, H, W) in [-1, 1], with the state to resume from."""
    nu = [0] * len(g)  # no deviations
    z = (z_0 if state is None else state["z"]).clone().requires_grad_()
    searched = [{"params": z, "lr": h.lr_z}]
    blind = isinstance(operator, UnknownOperator)
    if blind:
        logits = g.rng.randn((operator.logits,), z.device) if state is None else state["logits"]
        logits = logits.clone().requires_grad_()
        searched.append({"params": logits, "lr": h.lr_unknown})
    adam = torch.optim.Adam(searched, fused=True)
    if state is None:
        yield Iterate("init", run_chain(g, z.detach(), nu)[-1].clamp(-1, 1))
    else:
        adam.load_state_dict(state["adam"])
    for t in range(state["t"] if state else 0, h.outer):
        for step in range(h.inner):
            if blind:
                operator.unknown = operator.softmax(logits)
            x = z
            for layer in g:
                x = layer(x)
            loss = mean_per_image((operator(x) - y).square())
            adam.zero_grad()
            loss.backward()
            adam.step()
            on_step(step + 1, h.inner, loss.detach())
        X = run_chain(g, z.detach(), nu)[-1].clamp(-1, 1)
        resume = {"t": t + 1, "z": z.detach(), "adam": adam.state_dict()}
        if blind:
            operator.unknown = operator.softmax(logits.detach())
            resume.update(logits=logits.detach())
        yield Iterate(f"{t}_after", X, resume, ends_outer=True)


METHOD = Method("dmplug", dmplug, DMPlugRow, "DMPlug")

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
