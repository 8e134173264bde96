"""One evaluation of the prior's network as a denoiser: the posterior mean (Tweedie's formula,
Vincent 2011).

    python -m samplers.denoiser --task denoising --data faces/ -n 4 --cuda -1

For denoising only, where no search can have a better PSNR if the network is exact. Options and
output files are those of dmilo.py.
"""

from dataclasses import dataclass

import torch

from experiment.runner import main
from solvers.least_squares import floor_sigma
from solvers.method import Method, Row, single
from solvers.plug_and_play import denoised
from util.files import UserError


@dataclass(frozen=True, kw_only=True)
class DenoiserRow(Row):
    """One row of configs/denoiser.yaml. runs: NFE for a grey image, which needs several because
    its noise is equal in all channels (`solvers.plug_and_play.denoised`)."""

    runs: int


def denoiser(g, operator, y, z_0, h, on_step, state=None):
    """Yields one Iterate, the posterior mean. Raises UserError for tasks other than denoising."""
    if y.shape != z_0.shape or not torch.equal(operator(z_0), z_0):
        raise UserError(
            "one network evaluation restores noisy images only; choose another method for this task"
        )
    return single(lambda: denoised(g, y, floor_sigma(h.sigma), h.runs), state)


METHOD = Method("denoiser", denoiser, DenoiserRow, "one network evaluation")

if __name__ == "__main__":
    main(__doc__, METHOD)
