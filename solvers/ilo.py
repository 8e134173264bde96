"""Intermediate layer optimisation: the equation that DMILO and DMILO-PGD share, and the chain they run it on."""

from dataclasses import dataclass

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from solvers.search import Staged


@dataclass(frozen=True, kw_only=True)
class Hyperparameters(Staged):
    """One row of configs/dmilo.yaml.

    outer, inner: iterations (T and T_in); lr_z, lr_nu: Adam's learning rates for a layer's input and its deviation;
    weight_nu, weight_z: of the deviation's L1 norm and of the input's energy in the loss; decay: whether the learning rates
    fall to zero over a layer's steps, along half a cosine.
    """

    outer: int
    inner: int
    lr_z: float
    lr_nu: float
    weight_nu: float
    weight_z: float
    decay: bool = False


def identity(x):
    """The operator of every layer but the last: such a layer has to produce the input found for the layer after it."""
    return x


def mean_per_image(x):
    """Each image's own mean, summed over the batch: no image's gradient then depends on what it is batched with."""
    return x.flatten(1).mean(1).sum()


def optimise_layer(g, operator, target, z, nu, h, on_step):
    """Find the input z and the sparse deviation nu with which one layer explains `target` (paper, eq. 8 and Algorithm 1).

        argmin_{z, nu}  mean (operator(g(z) + nu) - target)^2 + weight_nu mean |nu| + weight_z mean z^2

    by h.inner steps of a fresh Adam. g: the layer; z, nu: (B, 3, H, W), where they start; target: what operator gives.
    on_step(step, steps, loss) hears of every step; loss is a tensor, summed over the batch, so that nobody waits for it.
    Returns (z, nu), detached.
    """
    z, nu = z.detach().clone().requires_grad_(), nu.detach().clone().requires_grad_()
    parameters = [{"params": nu, "lr": h.lr_nu}, {"params": z, "lr": h.lr_z}]
    adam = torch.optim.Adam(
        parameters, fused=True, capturable=z.is_cuda
    )  # one kernel, no word from the host
    learning_rate = CosineAnnealingLR(adam, h.inner) if h.decay else None
    for step in range(h.inner):
        loss = (
            mean_per_image((operator(g(z) + nu) - target).square())
            + h.weight_nu * mean_per_image(nu.abs())
            + h.weight_z * mean_per_image(z.square())
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
        if h.decay:
            learning_rate.step()
        on_step(step + 1, h.inner, loss.detach())
    return z.detach(), nu.detach()


@torch.no_grad()
def run_chain(g, z_0, nu):
    """[z_0, z_1, …, z_N] with z_{i+1} = g_i(z_i) + nu_i."""
    z = [z_0]
    for i in range(len(g)):
        z.append(g[i](z[i]) + nu[i])
    return z
