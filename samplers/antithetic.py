"""The mean of two posterior samples with antithetic noise (ours).

    python -m samplers.antithetic --task super_resolution --data faces/ -n 4 --cuda -1

Two samples of ten noise levels whose noise differs in sign; errors that are odd in the noise
cancel in their mean. A second, without a gradient. No layer is searched. The command line and the
files of dmilo.py.
"""

from dataclasses import dataclass

from experiment.runner import main
from solvers.init import Antithetic
from solvers.method import Method, Row, single
from solvers.search import task_of


@dataclass(frozen=True, kw_only=True)
class AntitheticRow(Row):
    """One row of configs/antithetic.yaml, whose keys `solvers.init.Antithetic` explains."""

    steps: int
    last: float
    data_steps: int


def antithetic(g, operator, y, z_0, h, on_step, state=None):
    """Yields the Iterate of the mean, (B, 3, H, W) in [-1, 1]."""
    init = Antithetic(steps=h.steps, last=h.last, data_steps=h.data_steps)
    return single(lambda: init(g, task_of(operator, y, z_0), h.sigma, on_step), state)


METHOD = Method("antithetic", antithetic, AntitheticRow, "mean of two antithetic samples")

if __name__ == "__main__":
    main(__doc__, METHOD)
