"""DPIR: plug-and-play restoration with a denoising network (Zhang et al., TPAMI 2021;
github.com/cszn/DPIR).

    python -m baselines.dpir --task inpainting --data faces/ -n 4 --cuda -1

Half-quadratic splitting: denoising and proximal steps in turns, at falling noise levels. Neither
random nor differentiated. Their network is a denoiser of its own, here it is the prior's. The
command line and the files of dmilo.py.
"""

from dataclasses import dataclass

from solvers.init import PlugAndPlay
from solvers.least_squares import LinearTask
from solvers.method import Iterate, Method, Row


@dataclass(frozen=True, kw_only=True)
class DPIRRow(Row):
    """One row of configs/dpir.yaml. steps, top, last, damping, contrast: see
    `solvers.init.PlugAndPlay`."""

    steps: int
    top: float
    last: float
    damping: float
    contrast: float


def dpir(g, operator, y, z_0, h, on_step, state=None):
    """Yields the Iterate of the last denoising, (B, 3, H, W) in [-1, 1].

    Raises UserError for an operator that is not linear.
    """
    init = PlugAndPlay(
        steps=h.steps, top=h.top, last=h.last, damping=h.damping, contrast=h.contrast
    )
    yield Iterate(
        "0_after", init(g, LinearTask(operator, y, z_0), h.sigma, on_step), ends_outer=True
    )


METHOD = Method("dpir", dpir, DPIRRow, "DPIR")

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
