"""The initial point of a search: an estimate of the image made without a layer search.

An init is a dataclass: its field `kind` is its name in a row, and its other fields are the other
keys under `init`. init(g, task, sigma, on_step) returns the estimate, (B, 3, H, W) in [-1, 1]. g:
the chain, whose steps it may change; task: see `solvers.search.task_of`; sigma: the measurement
noise. Without an init, the initial point is standard normal noise.
"""

from dataclasses import dataclass, field

from guided_diffusion.ddim import TRAINING_STEPS, even_sigmas
from solvers.annealing import annealed, best_of
from solvers.ilo import run_chain
from solvers.least_squares import DAMPED_STEPS, floor_sigma
from solvers.plug_and_play import plug_and_play
from solvers.posterior import antithetic_samples, channel_noise
from solvers.unknown import UnknownTask, annealed_together

CONTRAST = 0.1  # default variance of the differences between neighbouring pixel values
SHARE = {"valid": lambda value: 0 <= value <= 1, "hint": "a number from 0 to 1"}


def named(kind):
    """The field `kind`: the name of an init in a row."""
    return field(default=kind, init=False)


@dataclass(frozen=True, kw_only=True)
class Smooth:
    """Tikhonov's estimate, for linear operators. contrast: the variance of the differences between
    neighbouring pixel values; the smoothness weight is sigma^2 / contrast."""

    kind: str = named("smooth")
    contrast: float = field(default=CONTRAST, metadata={"low": 1e-9})
    fits_operator = False

    def __call__(self, g, task, sigma, on_step):
        return task.smooth(floor_sigma(sigma) ** 2 / self.contrast)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample of the prior: the output of a chain of `steps` DDIM steps for standard normal noise,
    as Algorithm 1 begins with it."""

    kind: str = named("sample")
    steps: int = 3
    fits_operator = False

    def __call__(self, g, task, sigma, on_step):
        g.restep(self.steps)
        z_0 = g.rng.randn(task.like.shape[1:], task.like.device)
        return run_chain(g, z_0, [0] * len(g))[-1].clamp(-1, 1)


@dataclass(frozen=True, kw_only=True)
class Annealed:
    """For each image, the one of `samples` annealed samples (`solvers.annealing.annealed`) with the
    smallest residual; for a blind operator, which is fitted to all of them, their mean.

    steps: noise levels; zeta: the share of fresh noise at each; guided: whether the data step uses
    the network's gradient.
    """

    kind: str = named("annealed")
    steps: int = field(
        metadata={
            "valid": lambda value: 1 <= value <= TRAINING_STEPS,
            "hint": f"a whole number from 1 to {TRAINING_STEPS}",
        }
    )
    zeta: float = field(default=1.0, metadata=SHARE)
    guided: bool = False
    samples: int = 1
    fits_operator = True

    def __call__(self, g, task, sigma, on_step):
        if isinstance(task, UnknownTask):
            return annealed_together(g, task, sigma, self.steps, self.samples, self.zeta, on_step)
        g.restep(self.steps)
        noise = (g.rng.randn(task.like.shape[1:], task.like.device) for _ in range(self.samples))
        samples = (annealed(g, task, [z], sigma, self.zeta, on_step, self.guided)[0] for z in noise)
        return best_of(samples, task)


@dataclass(frozen=True, kw_only=True)
class PlugAndPlay:
    """Plug and play (DPIR: Zhang et al., TPAMI 2021): alternating denoising and proximal steps at
    falling noise levels, without the network's gradient. For linear operators.

    steps: number of noise levels, which fall geometrically; top: the first one, in units of
    [-1, 1]; last: the last one, in units of sigma; damping: of the proximal step, in units of
    (sigma / sigma_t)^2; contrast: see Smooth, whose estimate is denoised first.
    """

    kind: str = named("pnp")
    steps: int = 16
    top: float = field(default=0.4, metadata={"low": 1e-9})
    last: float = field(default=0.5, metadata={"low": 1e-9})
    damping: float = field(default=0.3, metadata={"low": 1e-9})
    contrast: float = field(default=CONTRAST, metadata={"low": 1e-9})
    fits_operator = False

    def data_step(self, g, task, x0_hat, sigma, sigma_t):
        return task.prox(x0_hat, self.damping * (sigma / sigma_t) ** 2)

    def __call__(self, g, task, sigma, on_step):
        sigma = floor_sigma(sigma)

        def data_step(x0_hat, sigma_t):
            return self.data_step(g, task, x0_hat, sigma, sigma_t)

        smooth = task.smooth(sigma**2 / self.contrast)
        return plug_and_play(g, task, smooth, self.sigmas(sigma), data_step, on_step)

    def sigmas(self, sigma):
        """The falling noise levels."""
        last = self.last * sigma
        top = max(self.top, last)
        return [top * (last / top) ** (k / max(1, self.steps - 1)) for k in range(self.steps)]


@dataclass(frozen=True, kw_only=True)
class PlugAndPlayByErrors(PlugAndPlay):
    """Plug and play whose data step is weighted by the network's error at each frequency
    (`guided_diffusion.errors`). damping: of the step, in units of that error's variance."""

    kind: str = named("pnp_by_errors")
    steps: int = 12
    top: float = field(default=1.0, metadata={"low": 1e-9})
    damping: float = field(default=0.1, metadata={"low": 1e-9})

    def data_step(self, g, task, x0_hat, sigma, sigma_t):
        root, transposed, _ = g.errors.around(x0_hat, sigma_t)
        damped = self.damping**0.5 * channel_noise(task.y, sigma).view(-1, 1, 1, 1)
        return x0_hat + root(
            task.whitened_update(x0_hat, root, transposed, damped, task.y, DAMPED_STEPS)
        )


@dataclass(frozen=True, kw_only=True)
class Antithetic:
    """The mean of two posterior samples with antithetic noise
    (`solvers.posterior.antithetic_samples`), whose squared error is lower than that of one sample.

    steps: number of noise levels, evenly spaced in the network's timesteps; last: the last one, in
    units of [-1, 1]; top: the first one, to which Tikhonov's estimate is noised, or 0 to start at
    pure noise; data_steps: conjugate gradient steps at each of them.
    """

    kind: str = named("antithetic")
    steps: int = 10
    last: float = field(default=0.1, metadata={"low": 1e-9})
    top: float = 0.0
    data_steps: int = 10
    fits_operator = False
    by_gradient = False

    def samples(self, g, task, sigma, on_step):
        """Both samples, (B, 3, H, W) each."""
        sigma = floor_sigma(sigma)
        init = task.smooth(sigma**2 / CONTRAST) if self.top else 0 * task.like
        sigmas = even_sigmas(self.steps, self.last, self.top)
        return antithetic_samples(
            g, task, init, sigma, sigmas, self.by_gradient, self.data_steps, on_step
        )

    def __call__(self, g, task, sigma, on_step):
        return sum(self.samples(g, task, sigma, on_step)) / 2


@dataclass(frozen=True, kw_only=True)
class AntitheticByGradient(Antithetic):
    """Antithetic, but each estimate first moves along the network's gradient of the residual."""

    kind: str = named("antithetic_by_gradient")
    steps: int = 20
    top: float = 1.0
    data_steps: int = 15
    by_gradient = True


INITS = {
    "sample": Sample,
    "smooth": Smooth,
    "annealed": Annealed,
    "pnp": PlugAndPlay,
    "pnp_by_errors": PlugAndPlayByErrors,
    "antithetic": Antithetic,
    "antithetic_by_gradient": AntitheticByGradient,
}
