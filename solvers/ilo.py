"""Intermediate layer optimisation: the layer problem and the chain of DMILO and DMILO-PGD."""

from dataclasses import dataclass

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The paper's hyperparameters; defaults are the published values.

    outer, inner: iterations (T and T_in); lr_z, lr_nu: Adam's learning rates for a layer's input
    and its deviation; weight_nu, weight_z: weights of the deviation's L1 norm and of the input's
    energy in the loss; chain_steps: DDIM steps (N layers); decay: whether both learning rates fall
    to zero along half a cosine over a layer's steps (the paper: constant).
    """

    outer: int
    inner: int
    lr_z: float
    lr_nu: float = 1e-3
    weight_nu: float = 0.1
    weight_z: float = 1e-4
    chain_steps: int = 3
    decay: bool = False


def identity(x):
    """The operator of every layer but the last: its output must match the next layer's input."""
    return x


def mean_per_image(x):
    """The sum over the batch of each image's mean, so that gradients do not depend on the batch."""
    return x.flatten(1).mean(1).sum()


def optimise_layer(g, operator, target, z, nu, h, on_step):
    """Optimise the input z and the sparse deviation nu of one layer (paper, eq. 8, Algorithm 1).

    argmin_{z, nu} mean (operator(g(z) + nu) - target)^2 + weight_nu mean |nu| + weight_z mean z^2

    by h.inner steps of a fresh Adam. g: the layer; z, nu: (B, 3, H, W), initial values; target:
    (B, …), an output of operator. on_step(step, steps, loss) is called after each step; loss is a
    tensor, summed over the batch, so that the host need not wait. Returns (z, nu), detached.
    """
    z, nu = z.detach().clone().requires_grad_(), nu.detach().clone().requires_grad_()
    parameters = [{"params": nu, "lr": h.lr_nu}, {"params": z, "lr": h.lr_z}]
    # One kernel, and no synchronisation with the host.
    adam = torch.optim.Adam(parameters, fused=True, capturable=z.is_cuda)
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
