"""Where a search begins: at a picture that is found without one.

A start is a dataclass: its `kind` is the word that names it in a row, its other fields are the keys beside that word. Called as
start(g, task, sigma, on_step), it gives the picture, (B, 3, H, W) in [-1, 1]. g: the chain, whose steps it may change; task: what
`solvers.search.as_task` makes of operator and measurement; sigma: the measurement's noise. A row without a start begins at noise.
"""
from dataclasses import dataclass, field

from solvers.annealing import annealed, explaining_best
from solvers.least_squares import noise_level
from solvers.unknown import UnknownTask, annealed_together


def word(kind):
    """The field that names a start in a row."""
    return field(default=kind, init=False)


@dataclass(frozen=True, kw_only=True)
class Smooth:
    """The smooth least squares picture, of linear tasks only. contrast: the variance of the differences between neighbouring pixels;
    the smoothness is sigma^2 / contrast."""

    kind: str = word("smooth")
    contrast: float = field(metadata={"low": 1e-9})

    def __call__(self, g, task, sigma, on_step):
        return task.smooth(noise_level(sigma) ** 2 / self.contrast)


@dataclass(frozen=True, kw_only=True)
class Annealed:
    """A sample (`solvers.annealing.annealed`) of `runs`, each image's with the smallest residual; where the operator has to find a
    part of itself, their mean.

    steps: noise levels of each; zeta: the share of fresh noise in each level, 0 … 1; guided: whether guesses are drawn to the
    measurement by the network's gradient.
    """

    kind: str = word("annealed")
    steps: int
    zeta: float = field(default=1.0, metadata={"valid": lambda value: 0 <= value <= 1, "hint": "a number, 0 … 1"})
    guided: bool = False
    runs: int = 1

    def __call__(self, g, task, sigma, on_step):
        if isinstance(task, UnknownTask):
            return annealed_together(g, task, sigma, self.steps, self.runs, self.zeta, on_step)
        g.restep(self.steps)
        noises = (g.rng.randn(task.like.shape[1:], task.like.device) for _ in range(self.runs))
        return explaining_best((annealed(g, task, [z], sigma, self.zeta, on_step, self.guided)[0] for z in noises), task)


STARTS = {kind.kind: kind for kind in (Smooth, Annealed)}
