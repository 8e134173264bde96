"""The rows of configs/dmilo.yaml: the paper's hyperparameters and our init, restarts and data term.
A row without these three runs Algorithm 1 or 2 as published."""

from dataclasses import dataclass, field
from itertools import repeat

from guided_diffusion.ddim import TRAINING_STEPS
from solvers.data_term import DataTerm
from solvers.ilo import Hyperparameters
from solvers.init import INITS
from util.files import UserError


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """The keys under `restarts`.

    count: searches per stage, with different noise in antithetic pairs; their results are averaged.
    stages: chain steps of earlier stages, each initialised with the noised result of the previous
    one. inner: steps of each search in these stages.
    """

    count: int = 1
    stages: tuple = field(
        default=(),
        metadata={
            "valid": lambda v: all(isinstance(n, int) and 0 < n <= TRAINING_STEPS for n in v),
            "hint": "a list of numbers of chain steps",
        },
    )
    inner: int = 1


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One row of configs/dmilo.yaml or configs/dmilo-pgd.yaml.

    hyperparameters: the paper's; their keys are those of the row itself. init: the initial
    point, one of `solvers.init.INITS`; None: standard normal noise. With an init, only the last
    layer is searched, from the noised init. restarts: see Restarts; data_term: see
    `solvers.data_term`; None: the paper's.
    sigma: the standard deviation of the measurement noise, set by the problem.
    """

    hyperparameters: Hyperparameters
    init: object = field(default=None, metadata={"kinds": INITS})
    restarts: Restarts = field(default=Restarts(), metadata={"part": Restarts})
    data_term: DataTerm | None = field(default=None, metadata={"part": DataTerm})
    sigma: float = field(default=0.0, metadata={"of_the_problem": True})

    is_sample = False

    def __post_init__(self):
        if self.data_term and not self.init:
            raise UserError("data_term: needs an init; add one to the row, or remove data_term")

    @property
    def is_published(self):
        """Whether Algorithm 1 or 2 runs without init, restarts or data term of ours."""
        return not self.init and not self.data_term and self.restarts == Restarts()

    @property
    def chain_steps(self):
        return self.hyperparameters.chain_steps

    @property
    def layers(self):
        """How many of the chain's last layers are searched."""
        return 1 if self.init else TRAINING_STEPS

    @property
    def searches(self):
        """(chain_steps, inner, index within its stage) of every search."""
        stages = [*zip(self.restarts.stages, repeat(self.restarts.inner))]
        stages.append((self.chain_steps, self.hyperparameters.inner))
        return [(*stage, n) for stage in stages for n in range(self.restarts.count)]

    @property
    def latents(self):
        """How many standard normal latents the searches need: one for each antithetic pair."""
        return -(-len(self.searches) // 2)

    @property
    def averages(self):
        """Whether the result is a mean: of several searches, or of one and the init."""
        return len(self.searches) > 1 or bool(self.data_term and self.data_term.init_share)

    @property
    def iterations(self):
        """The relative cost of each outer iteration: the inner steps of each search, or 1."""
        if self.averages:
            return [inner for _, inner, _ in self.searches]
        return [1] * self.hyperparameters.outer

    @property
    def fits_operator(self):
        """Whether the init or the outer iterations estimate a blind operator."""
        by_init = self.init is not None and self.init.fits_operator
        return by_init or (not self.averages and self.hyperparameters.outer > 1)
