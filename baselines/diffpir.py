"""DiffPIR: denoising diffusion as a plug-and-play prior (Zhu et al., CVPR workshops 2023;
github.com/yuanzhi-zhu/DiffPIR).

    python -m baselines.diffpir --task inpainting --data faces/ -n 4 --cuda -1

At each timestep of the chain: the network's estimate, a proximal step towards the measurement, and
noise, partly fresh, for the next timestep. Without a gradient. The command line and the files of
dmilo.py.
"""

from dataclasses import dataclass, field

from solvers.annealing import annealed
from solvers.least_squares import LinearTask
from solvers.method import Iterate, IteratedRow, Method


@dataclass(frozen=True, kw_only=True)
class DiffPIRRow(IteratedRow):
    """One row of configs/diffpir.yaml. outer: samples, one after the other; chain_steps: of each;
    zeta: the share of fresh noise."""

    zeta: float = field(
        default=1.0, metadata={"valid": lambda value: 0 <= value <= 1, "hint": "a number, 0 … 1"}
    )


def diffpir(g, operator, y, z_0, h, on_step, state=None):
    """Yields Iterates: the noise, then each sample, (B, 3, H, W) in [-1, 1].

    Raises UserError for an operator that is not linear.
    """
    task = LinearTask(operator, y, z_0)
    if state is None:
        yield Iterate("init", z_0.clamp(-1, 1))
    for t in range(state["t"] if state else 0, h.outer):
        yield Iterate(
            f"{t}_after",
            annealed(g, task, [z_0], h.sigma, h.zeta, on_step)[0],
            {"t": t + 1},
            ends_outer=True,
        )


METHOD = Method("diffpir", diffpir, DiffPIRRow, "DiffPIR")

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
