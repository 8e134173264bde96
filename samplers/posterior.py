"""Posterior sampling (ours, `solvers.posterior.posterior_sample`): images consistent with y.

    python -m samplers.posterior --task inpainting --samples 8 --cuda -1

With --samples K, K independent samples are computed, whose spread shows how uncertain each pixel
is. No layer is searched. Options and output files are those of dmilo.py.
"""

from dataclasses import dataclass, field

from experiment.runner import main
from guided_diffusion.ddim import even_sigmas
from solvers.init import SHARE
from solvers.least_squares import floor_sigma
from solvers.method import Method, Row, single
from solvers.posterior import posterior_sample
from solvers.search import task_of

DENSER = (
    1.5  # > 1: noise levels denser towards the end, closer to the exact posterior (docs/LOG.md)
)


@dataclass(frozen=True, kw_only=True)
class PosteriorRow(Row):
    """One row of configs/posterior.yaml. steps: number of noise levels; last: the last one, in
    units of [-1, 1], at which the result is sampled; zeta: the share of fresh noise at each
    of them; data_steps: conjugate gradient steps at each of them."""

    steps: int
    last: float = field(metadata={"low": 1e-9})
    zeta: float = field(metadata=SHARE)
    data_steps: int

    is_sample = True


def posterior(g, operator, y, z_0, h, on_step, state=None):
    """Yields one Iterate, a posterior sample, (B, 3, H, W) in [-1, 1]."""
    sigmas = even_sigmas(h.steps, h.last, denser=DENSER)

    def sample():
        task, sigma = task_of(operator, y, z_0), floor_sigma(h.sigma)
        return posterior_sample(g, task, sigma, sigmas, h.zeta, h.data_steps, on_step)

    return single(sample, state)


METHOD = Method("posterior", posterior, PosteriorRow, "posterior sampling")

if __name__ == "__main__":
    main(__doc__, METHOD)
