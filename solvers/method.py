"""What every method is: a generator of iterates, and the settings that it reads from a row of configs/<method>.yaml."""

from dataclasses import dataclass, field, replace
from typing import Callable, NamedTuple

import torch

from guided_diffusion.ddim import TRAINING_STEPS
from solvers.aims import Aim


class Iterate(NamedTuple):
    """What a method yields.

    name: of its picture's file; the first one, "init", is where the method starts, and is shown but not measured.
    x: the pictures, (B, 3, H, W) in [-1, 1].
    state: what the method needs to go on from here, a dict for torch.save; None where it cannot.
    ends_outer: does an outer iteration end here? Only there may a run stop (`experiment.stop`).
    """

    name: str
    x: torch.Tensor
    state: dict | None = None
    ends_outer: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """The keys that a row of any configs/<method>.yaml may have.

    chain_steps: DDIM steps of the chain. sigma is no key: the noise's standard deviation in units of [-1, 1], which the problem
    says and every method is told.
    """

    sigma: float = field(default=0.0, metadata={"of_the_problem": True})
    chain_steps: int = 3

    # Fields of the methods that are searched in stages (`solvers.search.Staged`); the others' rows have no such keys.
    layers = TRAINING_STEPS
    start, aim, before, starts = None, Aim(), (), 1
    finds_unknown = False  # does the method itself find what an operator does not know of itself?

    @property
    def passes(self):
        """The row of every pass: those `before` and, last, this one."""
        return [
            *(replace(self, before=(), **vars(one)) for one in self.before),
            replace(self, before=()) if self.before else self,
        ]

    @property
    def searches(self):
        return sum(row.starts for row in self.passes)

    @property
    def averages(self):
        """Is the result a mean: of several searches, or of one and the picture where it began?"""
        return self.searches != 1 or self.aim.start_share > 0

    @property
    def parts(self):
        """What each outer iteration has to do, in inner steps: of several searches, which the passes make of different length, or of the
        one, whose iterations are alike."""
        if not self.averages:
            return [1] * getattr(self, "outer", 1)
        return [row.inner for row in self.passes for _ in range(row.starts)] or [1]


class Method(NamedTuple):
    """A method by its name, that of its module's generator and of configs/<name>.yaml.

    solver(g, operator, y, z_0, h, on_step, state=None): a generator of Iterates. g: the chain; operator: A, as a function; y: the
    measurements; z_0: noise, (B, 3, H, W); h: a `row`; on_step(step, steps, loss): hears of every step; state: an Iterate's, to go on
    from there. uses_prior: False for a method that works without the chain.
    """

    name: str
    solver: Callable
    row: type
    uses_prior: bool = True
