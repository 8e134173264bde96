"""The interface of a method: a generator of Iterates, and a row of configs/<method>.yaml."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from guided_diffusion.ddim import TRAINING_STEPS


class Iterate(NamedTuple):
    """One iterate of a method.

    name: the file name of its picture; "init" is the initial point, saved but not scored.
    x: the images, (B, 3, H, W) in [-1, 1].
    state: a dict for torch.save from which the method can resume; None if it cannot.
    ends_outer: whether an outer iteration ends here; --stop selects only among these.
    """

    name: str
    x: torch.Tensor
    state: dict | None = None
    ends_outer: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """The base class of the rows of all methods but the paper's two, whose rows are
    `solvers.preset.Preset`.

    chain_steps: DDIM steps of the chain. sigma: the standard deviation of the measurement noise in
    units of [-1, 1]; set by the problem, not a key. The class attributes describe the method to a
    run: how many layers of the chain it uses (all), how many latents it needs, whether its result
    is a mean of several searches, whether it estimates a blind operator itself, and whether it is a
    posterior sample, of which a mean would hide the spread.
    """

    sigma: float = field(default=0.0, metadata={"of_the_problem": True})
    chain_steps: int = 3

    layers, latents, averages, fits_operator = TRAINING_STEPS, 1, False, False
    is_sample = False

    @property
    def iterations(self):
        """The cost of each outer iteration, in any unit: here one iteration."""
        return [1]


@dataclass(frozen=True, kw_only=True)
class IteratedRow(Row):
    """A Row with `outer` outer iterations or, for samplers, samples."""

    outer: int

    @property
    def iterations(self):
        return [1] * self.outer


class Method(NamedTuple):
    """A method; `name` is also that of configs/<name>.yaml.

    solver(g, operator, y, z_0, h, on_step, state=None): a generator of Iterates. g: the chain;
    operator: A, as a function; y: the measurements, (B, …); z_0: standard normal, (B, 3, H, W); h:
    a `row`; on_step(step, steps, loss): called after every step; state: that of the Iterate from
    which to resume.
    row: the dataclass of its row, a Row or the paper's `solvers.ilo.Hyperparameters`.
    about: a short description for tables.
    uses_prior: False for a method that needs no network.
    """

    name: str
    solver: Callable
    row: type
    about: str
    uses_prior: bool = True


def single(restore, state):
    """Yields the only Iterate of a method without iterations, or none if the run that is resumed
    already had it. restore(): returns the images, (B, 3, H, W)."""
    if state is None:
        yield Iterate("0_after", restore().clamp(-1, 1), {}, ends_outer=True)
