"""The mean of two posterior samples with antithetic noise (ours).

    python -m samplers.antithetic --task super_resolution --data faces/ -n 4 --cuda -1

The noise of the two samples, of ten noise levels each, differs in sign, so that errors that are
odd in the noise cancel in their mean. This needs no gradient of the network and about a second per
64 px image. No layer is searched. Options and output files are those of dmilo.py.
"""

from dataclasses import dataclass

from experiment.runner import main
from solvers.init import Antithetic
from solvers.method import Method, Row, single
from solvers.search import task_of


@dataclass(frozen=True, kw_only=True)
class AntitheticRow(Row):
    """One row of configs/antithetic.yaml; for its keys see `solvers.init.Antithetic`."""

    steps: int
    last: float
    data_steps: int


def antithetic(g, operator, y, z_0, h, on_step, state=None):
    """Yields one Iterate, the mean, (B, 3, H, W) in [-1, 1]."""
    init = Antithetic(steps=h.steps, last=h.last, data_steps=h.data_steps)
    return single(lambda: init(g, task_of(operator, y, z_0), h.sigma, on_step), state)


METHOD = Method("antithetic", antithetic, AntitheticRow, "mean of two antithetic samples")

if __name__ == "__main__":
    main(__doc__, METHOD)
