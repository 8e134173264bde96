"""Plug and play (ours, after DPIR: Zhang et al., TPAMI 2021): the prior's network as a denoiser.

    python -m samplers.pnp --task inpainting --data faces/ -n 4 --cuda -1

Denoising and data steps alternate at falling noise levels. In inpainting the data steps are
weighted by the network's error at each frequency (`guided_diffusion.errors`). This needs no
gradient of the network and about a second per 64 px image. No layer is searched. Options and output
files are those of dmilo.py.
"""

from dataclasses import dataclass

from experiment.runner import main
from solvers.init import PlugAndPlay, PlugAndPlayByErrors
from solvers.least_squares import LinearTask
from solvers.method import Method, Row, single


@dataclass(frozen=True, kw_only=True)
class PlugAndPlayRow(Row):
    """One row of configs/pnp.yaml. steps, top, last, damping: see `solvers.init.PlugAndPlay`;
    by_errors: whether to use `solvers.init.PlugAndPlayByErrors`."""

    steps: int
    top: float
    last: float
    damping: float
    by_errors: bool = False


def pnp(g, operator, y, z_0, h, on_step, state=None):
    """Yields one Iterate, the last estimate. Raises UserError for a nonlinear operator."""
    kind = PlugAndPlayByErrors if h.by_errors else PlugAndPlay
    init = kind(steps=h.steps, top=h.top, last=h.last, damping=h.damping)
    return single(lambda: init(g, LinearTask(operator, y, z_0), h.sigma, on_step), state)


METHOD = Method("pnp", pnp, PlugAndPlayRow, "plug and play")

if __name__ == "__main__":
    main(__doc__, METHOD)
