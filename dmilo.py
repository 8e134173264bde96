"""DMILO: intermediate layer optimisation for inverse problems with diffusion models
(Zheng, Li, Liu; ICML 2025).

    python dmilo.py --task inpainting                                      # our prior, data/demo
    python dmilo.py --dataset celeba --task gaussian_deblur -n 5 --cuda 0  # as published
    python dmilo.py --task super_resolution --data faces/ --resize --name mine --preset fast

To restore photographs, use restore.py. From Python: `from dmilo import restore`.
"""

import torch

from experiment.library import restore  # noqa: F401  `from dmilo import restore`
from experiment.runner import main
from solvers.ilo import Hyperparameters, identity, optimise_layer, run_chain
from solvers.method import Iterate, Method


def dmilo(g, operator, y, z_0, h, on_step, state=None):
    """Algorithm 1 of the paper (arXiv 2505.20789). Yields Iterates: the init, then X after each
    outer iteration.

    g: the N layers of the chain; operator: A, as a function; y: the measurements, (B, …); z_0: the
    chain's input, (B, 3, H, W); h: Hyperparameters; on_step: see `optimise_layer`; state: that of
    the Iterate from which to resume.
    """
    N = len(g)
    if state is None:  # otherwise resume an interrupted run (not in the paper)
        nu = [torch.zeros_like(z_0) for _ in range(N)]
        z = run_chain(g, z_0, nu)
        yield Iterate("init", z[N].clamp(-1, 1))
        state = {"t": 0, "z": z, "nu": nu}
    z, nu = state["z"], state["nu"]
    for t in range(state["t"], h.outer):
        z, nu = list(z), list(nu)  # copies: the yielded lists must not change
        # From image to noise: the last layer fits y, the others the next layer's input.
        A, target = operator, y
        for i in reversed(range(N)):
            z[i], nu[i] = optimise_layer(g[i], A, target, z[i], nu[i], h, on_step)
            A, target = identity, z[i]
        # From noise to image: z_{i+1} = g_i(z_i) + nu_i.
        z = run_chain(g, z[0], nu)
        yield Iterate(
            f"{t}_after", z[N].clamp(-1, 1), {"t": t + 1, "z": z, "nu": nu}, ends_outer=True
        )


METHOD = Method("dmilo", dmilo, Hyperparameters, "DMILO")

if __name__ == "__main__":
    main(__doc__, METHOD)
