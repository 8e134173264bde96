"""Where a search begins: at a picture that is found without one.

A start is a dataclass: its `kind` is the word that names it in a row, its other fields are the keys beside that word. Called as
start(g, task, sigma, on_step), it gives the picture, (B, 3, H, W) in [-1, 1]. g: the chain, whose steps it may change; task: what
`solvers.search.as_task` makes of operator and measurement; sigma: the measurement's noise. A row without a start begins at noise.
"""

from dataclasses import dataclass, field

import torch

from guided_diffusion.ddim import TRAINING_STEPS, even_levels
from solvers.annealing import (
    annealed,
    denoised,
    drawn,
    explaining_best,
    opposite_draws,
    plug_and_play,
)
from solvers.least_squares import DAMPED_STEPS, DATA_STEPS, noise_level
from solvers.unknown import UnknownTask, annealed_together
from util.files import UserError

CONTRAST = 0.1  # the variance of the differences between neighbouring pixels that is taken where a row says none
DENSER = 1.5  # the power by which a draw's levels lie closer to its end: nearer to the exact distribution than 1 (docs/LOG.md)


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
    steps: int = field(
        metadata={
            "valid": lambda value: 1 <= value <= TRAINING_STEPS,
            "hint": f"a whole number, 1 … {TRAINING_STEPS}",
        }
    )
    zeta: float = field(
        default=1.0, metadata={"valid": lambda value: 0 <= value <= 1, "hint": "a number, 0 … 1"}
    )
    guided: bool = False
    runs: int = 1
    finds_unknown = True  # also what an operator does not know of itself

    def __call__(self, g, task, sigma, on_step):
        if isinstance(task, UnknownTask):
            return annealed_together(g, task, sigma, self.steps, self.runs, self.zeta, on_step)
        g.restep(self.steps)
        noises = (g.rng.randn(task.like.shape[1:], task.like.device) for _ in range(self.runs))
        return explaining_best(
            (annealed(g, task, [z], sigma, self.zeta, on_step, self.guided)[0] for z in noises),
            task,
        )


@dataclass(frozen=True, kw_only=True)
class PlugAndPlay:
    """Plug and play (DPIR: Zhang et al., TPAMI 2021): denoise and draw to the measurement in turns, at falling noise levels, without a gradient.

    steps: evaluations of the network; top: the first level, in units of [-1, 1]; last: the last one in units of sigma; damping: of the steps
    to the measurement, in units of (sigma / level)^2; by_errors: those steps weigh each frequency by what the network errs there
    (`guided_diffusion.errors`), and damping is in units of sigma^2; contrast: see `Smooth`, whose picture is denoised first.
    """

    kind: str = word("plug_and_play")
    steps: int
    top: float = field(metadata={"low": 1e-9})
    last: float = field(metadata={"low": 1e-9})
    damping: float = 1.0
    by_errors: bool = False
    contrast: float = field(default=CONTRAST, metadata={"low": 1e-9})

    def __call__(self, g, task, sigma, on_step):
        sigma = noise_level(sigma)

        def to_measurement(x, level):
            if self.by_errors:
                root, transposed, _ = g.errors.around(x, level)
                return x + root(
                    task.innovation(
                        x, root, transposed, self.damping**0.5 * sigma, task.y, DAMPED_STEPS
                    )
                )
            return task.drawn_to(x, self.damping * (sigma / level) ** 2)

        return plug_and_play(
            g,
            task,
            task.smooth(sigma**2 / self.contrast),
            self.levels(sigma),
            to_measurement,
            on_step,
        )

    def levels(self, sigma):
        """The noise levels, `steps` of them, falling geometrically."""
        last = self.last * sigma
        top = max(self.top, last)
        return [top * (last / top) ** (k / max(1, self.steps - 1)) for k in range(self.steps)]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The mean of two draws whose noise is opposite (`solvers.annealing.opposite_draws`), which lies nearer to the truth than a draw.

    steps: noise levels of each, evenly spaced in the network's timesteps; last: the last one, in units of [-1, 1]; top: the first one, where the
    smooth least squares picture (see `Smooth`) is noised, or 0 to begin at noise alone; by_gradient: each guess first moves by what the
    network's gradient makes of the measurement; data_steps: conjugate gradient steps of each.
    """

    kind: str = word("pair")
    steps: int
    last: float = field(metadata={"low": 1e-9})
    top: float = 0.0
    by_gradient: bool = False
    data_steps: int = DATA_STEPS

    def draws(self, g, task, sigma, on_step):
        """Both of them, (B, 3, H, W) each."""
        sigma = noise_level(sigma)
        begun = task.smooth(sigma**2 / CONTRAST) if self.top else torch.zeros_like(task.like)
        levels = even_levels(self.steps, self.last, self.top)
        return opposite_draws(
            g, task, begun, sigma, levels, self.by_gradient, self.data_steps, on_step
        )

    def __call__(self, *seen):
        return sum(self.draws(*seen)) / 2


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A draw from the pictures that the measurement and the network leave open (`solvers.annealing.drawn`).

    steps: noise levels; last: the last one, in units of [-1, 1], where the draw is taken; zeta: the share of fresh noise in each level, 0 … 1;
    data_steps: conjugate gradient steps of each.
    """

    kind: str = word("drawn")
    steps: int
    last: float = field(metadata={"low": 1e-9})
    zeta: float = field(
        metadata={"valid": lambda value: 0 <= value <= 1, "hint": "a number, 0 … 1"}
    )
    data_steps: int = DATA_STEPS

    def __call__(self, g, task, sigma, on_step):
        levels = even_levels(self.steps, self.last, denser=DENSER)
        return drawn(g, task, noise_level(sigma), levels, self.zeta, self.data_steps, on_step)


@dataclass(frozen=True, kw_only=True)
class Denoised:
    """The mean of the pictures that may lie behind a noisy one, by one evaluation of the network at the noise's own level: the posterior
    mean, whose PSNR no search can pass if the network is right. Of denoising alone. runs: evaluations of a grey picture, see `denoised`."""

    kind: str = word("denoised")
    runs: int = 4

    def __call__(self, g, task, sigma, on_step):
        if task.y.shape != task.like.shape or not torch.equal(task.operator(task.like), task.like):
            raise UserError(
                "one evaluation of the network is for denoising alone; choose another row or method for this task"
            )
        return denoised(g, task.y, noise_level(sigma), self.runs)


STARTS = {kind.kind: kind for kind in (Smooth, Annealed, PlugAndPlay, Pair, Drawn, Denoised)}
