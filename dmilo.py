"""DMILO: intermediate layer optimisation for inverse problems with diffusion models (Zheng, Li, Liu; ICML 2025).

    python dmilo.py --task inpainting                                     # the built-in prior on data/demo
    python dmilo.py --dataset celeba --task gaussian_deblur -n 5 --cuda 0 # as published
    python dmilo.py --task super_resolution --data photos/ --resize --name mine --preset fast --cuda -1
    python dmilo.py --measured photo.jpg --mask holes.png --cuda -1       # your own: --mask, --kernel, --blind, --scale or none

From Python: `from dmilo import restore`.
"""
import importlib

import torch

from solvers.ilo import Hyperparameters, identity, optimise_layer, run_chain
from experiment.library import restored
from experiment.runner import main
from util.files import UserError


def dmilo(g, operator, y, z_0, h, on_step, state=None):
    """Algorithm 1 of the paper (arXiv 2505.20789). Yields (name, X, state): where it starts, then the reconstruction after
    each outer iteration, (B, 3, H, W) in [-1, 1], and what it needs to go on from there.

    g: the N layers of the chain; operator: A, as a function; y: the measurements; z_0: where the chain starts, (B, 3, H, W);
    h: a row of configs/dmilo.yaml; on_step: see `optimise_layer`; state: a yielded one to go on from.
    """
    N = len(g)
    if state is None:  # else: a run that was stopped goes on, which is no part of the algorithm
        nu = [torch.zeros_like(z_0) for _ in range(N)]
        z = run_chain(g, z_0, nu)
        yield "init", z[N].clamp(-1, 1), None
        state = {"t": 0, "z": z, "nu": nu}
    z, nu = state["z"], state["nu"]
    for t in range(state["t"], h.outer):
        z, nu = list(z), list(nu)  # what was yielded stays as it was
        # From the image to the noise: the last layer explains the measurement, the others their successor's input.
        A, target = operator, y
        for i in reversed(range(N)):
            z[i], nu[i] = optimise_layer(g[i], A, target, z[i], nu[i], h, on_step)
            A, target = identity, z[i]
        # From the noise to the image: z_{i+1} = g_i(z_i) + nu_i.
        z = run_chain(g, z[0], nu)
        yield f"{t}_after", z[N].clamp(-1, 1), {"t": t + 1, "z": z, "nu": nu}


def restore(y, operator, sigma=0.01, prior="demo", method="dmilo", preset="fast", size=None, seed=123, samples=1, device=None,
            on_iterate=None, task=None):
    """The pictures behind y = operator(x) + noise, (B, 3, H, W) in [-1, 1]; with samples > 1 (samples, B, 3, H, W), sample k from the
    draws of seed + k.

    y: (B, …); operator: any differentiable function of (B, 3, H, W) in [-1, 1], or a physics of deepinv, whose y belongs to pictures in
    [0, 1], and sigma to y; sigma: the noise's standard deviation in units of [-1, 1]; prior: configs/model_config_<prior>.yaml; method: "dmilo" or
    "dmilo-pgd"; preset, task: the table in configs/<method>.yaml and its row, by default `default` or, for an operator that is not linear,
    `nonlinear`; size: (H, W), by default the prior's; seed: a number or a BatchRandom to go on with; device: by default y's;
    on_iterate(name, X): hears of every iterate. Raises UserError, one line, for what cannot be restored.
    """
    pgd = importlib.import_module("dmilo-pgd")
    methods = {"dmilo": (dmilo, Hyperparameters), "dmilo-pgd": (pgd.dmilo_pgd, pgd.PGDHyperparameters)}
    if method not in methods:
        raise UserError(f"method: is {method!r}, must be one of {', '.join(methods)}")
    return restored(method, *methods[method], y, operator, sigma, prior, preset, task, size, seed, samples, device, on_iterate)


if __name__ == "__main__":
    main(__doc__, "dmilo", dmilo, Hyperparameters)
