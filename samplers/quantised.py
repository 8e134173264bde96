"""Undo the quantisation of a JPEG (ours): posterior samples within its coefficients' intervals.

    python -m samplers.quantised --task jpeg --data faces/ -n 4 --cuda -1

The mean of two samples with antithetic noise. At falling noise levels, which follow from the JPEG's
tables, the network's estimate is conditioned on each coefficient's interval, given the network's
error at its frequency. This needs no gradient of the network. No layer is searched. Options and
output files are those of dmilo.py.
"""

from dataclasses import dataclass, field

from experiment.runner import main
from guided_diffusion.jpeg import QuantisedOperator
from solvers.init import SHARE
from solvers.method import Method, Row, single
from solvers.quantised import QuantisedTask, noise_levels, quantised_mean
from util.files import UserError


@dataclass(frozen=True, kw_only=True)
class QuantisedRow(Row):
    """One row of configs/quantised.yaml. steps: number of noise levels; first, last: the shares of
    the network's error that the measurement explains at the first and at the last of them
    (`solvers.quantised.explained_share`); data_steps: conjugate gradient steps at each of them."""

    steps: int
    first: float = field(metadata=SHARE)
    last: float = field(metadata=SHARE)
    data_steps: int


def quantised(g, operator, y, z_0, h, on_step, state=None):
    """Yields one Iterate, the mean. Raises UserError for measurements that are not quantised."""
    if not isinstance(operator, QuantisedOperator):
        raise UserError(
            "this method restores quantised measurements, JPEGs, only; choose another method for "
            "this task"
        )

    def restored():
        sigmas = noise_levels(operator, g.errors, h.steps, h.first, h.last)
        return quantised_mean(g, QuantisedTask(operator, y, z_0), sigmas, h.data_steps, on_step)

    return single(restored, state)


METHOD = Method("quantised", quantised, QuantisedRow, "posterior within the intervals of a JPEG")

if __name__ == "__main__":
    main(__doc__, METHOD)
