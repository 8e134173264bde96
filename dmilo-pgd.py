"""DMILO-PGD: DMILO between gradient steps on the measurement (Zheng, Li, Liu; ICML 2025).

python dmilo-pgd.py --task inpainting                                     # the built-in prior on data/demo
python dmilo-pgd.py --dataset celeba --task gaussian_deblur -n 5 --cuda 0 # as published
python dmilo-pgd.py --task super_resolution --data photos/ --resize --name mine --preset fast --cuda -1
python dmilo-pgd.py --measured photo.jpg --mask holes.png --cuda -1       # your own: --mask, --kernel, --blind, --scale or none
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from experiment.runner import main
from solvers.ilo import Hyperparameters, identity, optimise_layer, run_chain
from solvers.method import Iterate, Method


@dataclass(frozen=True, kw_only=True)
class PGDHyperparameters(Hyperparameters):
    """One row of configs/dmilo-pgd.yaml: DMILO's, and what the gradient step on X is.

    lr_x: step size; gradient_steps: steps an outer iteration; norm_power: of ||A(X) - y||, which is descended;
    hold_saturated: whether pixels at -1 or 1 stay there (A is given clamp(X), whose gradient vanishes at its ends);
    x_from_chain: whether X begins at what the chain makes of z_0, not at 0 as published.
    """

    lr_x: float
    gradient_steps: int
    norm_power: int
    hold_saturated: bool
    x_from_chain: bool = False


def measurement_gradient(operator, X, y, h):
    """The gradient by X of ||operator(X) - y||_2^norm_power, every image by itself, and that loss summed over them."""
    X = X.detach().requires_grad_()
    # hardtanh is clamp(-1, 1) with no gradient at the ends in any torch; clamp's own differs between versions.
    residual = operator(F.hardtanh(X) if h.hold_saturated else X) - y
    norm = torch.linalg.vector_norm(residual.flatten(1), dim=1)
    loss = norm.pow(h.norm_power).sum()
    return torch.autograd.grad(loss, X)[0], loss.detach()


def dmilo_pgd(g, operator, y, z_0, h, on_step, state=None):
    """Algorithm 2 of the paper (arXiv 2505.20789). Yields Iterates: where it starts, then X before and after each projection onto
    the range of the chain.

    g: the N layers of the chain; operator: A, as a function; y: the measurements; z_0: where the chain starts, (B, 3, H, W);
    h: PGDHyperparameters; on_step: see `optimise_layer`; state: an Iterate's, to go on from there.
    """
    N = len(g)
    if state is None:  # else: a run that was stopped goes on, which is no part of the algorithm
        nu = [torch.zeros_like(z_0) for _ in range(N)]
        z = run_chain(g, z_0, nu)
        X = z[N].clamp(-1, 1) if h.x_from_chain else torch.zeros_like(z_0)
        yield Iterate("init", X)
        state = {"t": 0, "z": z, "nu": nu, "X": X}
    z, nu, X = state["z"], state["nu"], state["X"]
    for t in range(state["t"], h.outer):
        z, nu = list(z), list(nu)  # what was yielded stays as it was
        # Gradient step: X nearer to the measurement.
        for step in range(h.gradient_steps):
            gradient, loss = measurement_gradient(operator, X, y, h)
            X = (X - h.lr_x * gradient).clamp(-1, 1)
            on_step(step + 1, h.gradient_steps, loss)
        yield Iterate(f"{t}_before", X)
        # Projection: as in DMILO, but the last layer explains A(X) instead of y.
        A, target = operator, operator(X)
        for i in reversed(range(N)):
            z[i], nu[i] = optimise_layer(g[i], A, target, z[i], nu[i], h, on_step)
            A, target = identity, z[i]
        z = run_chain(g, z[0], nu)
        X = z[N].clamp(-1, 1)
        yield Iterate(f"{t}_after", X, {"t": t + 1, "z": z, "nu": nu, "X": X}, ends_outer=True)


METHOD = Method("dmilo-pgd", dmilo_pgd, PGDHyperparameters)

if __name__ == "__main__":
    main(__doc__, METHOD)
