"""DMILO-PGD: DMILO alternating with gradient steps on the measurement (Zheng, Li, Liu; ICML 2025).

    python dmilo-pgd.py --task inpainting                                     # our prior, data/demo
    python dmilo-pgd.py --dataset celeba --task gaussian_deblur -n 5 --cuda 0 # as published
    python dmilo-pgd.py --task super_resolution --data faces/ --resize --name mine --preset fast

To restore photographs, use restore.py.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from experiment.runner import main
from solvers.ilo import Hyperparameters, identity, optimise_layer, run_chain
from solvers.method import Iterate, Method


@dataclass(frozen=True, kw_only=True)
class PGDHyperparameters(Hyperparameters):
    """The hyperparameters of DMILO, and those of the gradient steps on X.

    lr_x: step size; gradient_steps: steps per outer iteration; norm_power: the steps minimise
    ||A(X) - y|| to this power; hold_saturated: whether values of -1 and 1 stay unchanged (A is
    applied to clamp(X), whose gradient is 0 there); x_from_chain: whether the initial X is the
    chain's output for z_0 (ours) instead of 0 (published).
    """

    lr_x: float
    gradient_steps: int
    norm_power: int
    hold_saturated: bool
    x_from_chain: bool = False


def measurement_gradient(operator, X, y, h):
    """(gradient, loss) of ||operator(X) - y||_2^norm_power with respect to X: the gradient of each
    image, (B, 3, H, W), and the loss summed over the batch."""
    X = X.detach().requires_grad_()
    # hardtanh is clamp(-1, 1) with gradient 0 at -1 and 1; clamp's depends on the torch version.
    residual = operator(F.hardtanh(X) if h.hold_saturated else X) - y
    norm = torch.linalg.vector_norm(residual.flatten(1), dim=1)
    loss = norm.pow(h.norm_power).sum()
    return torch.autograd.grad(loss, X)[0], loss.detach()


def dmilo_pgd(g, operator, y, z_0, h, on_step, state=None):
    """Algorithm 2 of the paper (arXiv 2505.20789). Yields Iterates: the init, then X before and
    after each projection onto the range of the chain.

    g: the N layers of the chain; operator: A, as a function; y: the measurements, (B, …); z_0: the
    chain's input, (B, 3, H, W); h: PGDHyperparameters; on_step: see `optimise_layer`; state: that
    of the Iterate from which to resume.
    """
    N = len(g)
    if state is None:  # otherwise resume an interrupted run (not in the paper)
        nu = [torch.zeros_like(z_0) for _ in range(N)]
        z = run_chain(g, z_0, nu)
        X = z[N].clamp(-1, 1) if h.x_from_chain else torch.zeros_like(z_0)
        yield Iterate("init", X)
        state = {"t": 0, "z": z, "nu": nu, "X": X}
    z, nu, X = state["z"], state["nu"], state["X"]
    for t in range(state["t"], h.outer):
        z, nu = list(z), list(nu)  # copies: the yielded lists must not change
        # Gradient step: X towards the measurement.
        for step in range(h.gradient_steps):
            gradient, loss = measurement_gradient(operator, X, y, h)
            X = (X - h.lr_x * gradient).clamp(-1, 1)
            on_step(step + 1, h.gradient_steps, loss)
        yield Iterate(f"{t}_before", X)
        # Projection: as in DMILO, but the last layer fits A(X) instead of y.
        A, target = operator, operator(X)
        for i in reversed(range(N)):
            z[i], nu[i] = optimise_layer(g[i], A, target, z[i], nu[i], h, on_step)
            A, target = identity, z[i]
        z = run_chain(g, z[0], nu)
        X = z[N].clamp(-1, 1)
        yield Iterate(f"{t}_after", X, {"t": t + 1, "z": z, "nu": nu, "X": X}, ends_outer=True)


METHOD = Method("dmilo-pgd", dmilo_pgd, PGDHyperparameters, "DMILO-PGD")

if __name__ == "__main__":
    main(__doc__, METHOD)
