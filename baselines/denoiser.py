"""The prior's network as a denoiser: the mean of the pictures behind a noisy one, by one evaluation (Vincent 2011, Tweedie's formula).

    python -m baselines.denoiser --task denoising --data faces/ -n 4 --cuda -1

What one would try first with a diffusion model for denoising, the one task that it is for. The command line and the files of dmilo.py.
"""

from dataclasses import dataclass

from solvers.method import Iterate, Method, Row
from solvers.search import as_task
from solvers.starts import Denoised


@dataclass(frozen=True, kw_only=True)
class DenoiserHyperparameters(Row):
    """One row of configs/denoiser.yaml. runs: evaluations for a grey picture, whose noise is the same in all channels."""

    runs: int


def denoiser(g, operator, y, z_0, h, on_step, state=None):
    """Yields the Iterate of the one evaluation, (B, 3, H, W) in [-1, 1]. Raises UserError for a task other than denoising."""
    yield Iterate(
        "0_after",
        Denoised(runs=h.runs)(g, as_task(operator, y, z_0), h.sigma, on_step),
        ends_outer=True,
    )


METHOD = Method("denoiser", denoiser, DenoiserHyperparameters)

if __name__ == "__main__":
    from experiment.runner import main

    main(__doc__, METHOD)
