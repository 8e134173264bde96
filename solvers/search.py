"""What surrounds a method's search: the part of the chain it searches, where it begins, the form in which it sees the
measurement, and how often it is repeated. Everything here is off in the published settings."""
from dataclasses import dataclass, field, replace

import torch

from guided_diffusion.ddim import TRAINING_STEPS, predict_x0
from solvers.least_squares import LinearTask, is_linear, noise_level
from solvers.nonlinear import NonlinearTask


def are_passes(values):
    """Is it a list of [chain steps, starts, inner steps]?"""
    return all(isinstance(one, (list, tuple)) and len(one) == 3 and all(type(n) is int and n > 0 for n in one) for one in values)


@dataclass(frozen=True, kw_only=True)
class Start:
    """The keys that a row of any configs/<method>.yaml may have; those left out are as published.

    chain_steps: DDIM steps of the chain; layers: how many of its last layers are used; starts: searches from different noise,
    averaged, in pairs of opposite noise; before: passes before the last one, [chain steps, starts, inner steps] of each.
    contrast: variance of the differences between neighbouring pixels; 0 begins at noise, more at the noised smooth least squares
    picture with smoothness sigma^2 / contrast. anneal: 0, or begin at a noised sample that took so many steps (`annealed`), with
    zeta, the share of fresh noise in each, and runs, the number of samples, of which the one with the smallest residual
    is taken. variance: of what the picture still has open when a search begins; 0 leaves the
    measurement as it is, more shows the method a preconditioned one with damping sigma^2 / variance, and draws each pass' result to
    the measurement with the same. Both variances are of pictures in [-1, 1].

    sigma is no key: the noise's standard deviation in units of [-1, 1], which the problem says and every method is told.
    """

    sigma: float = field(default=0.0, metadata={"of_the_problem": True})
    chain_steps: int = 3
    layers: int = TRAINING_STEPS
    starts: int = 1
    before: tuple = field(default=(), metadata={"valid": are_passes, "hint": "a list of [chain steps, starts, inner steps]"})
    contrast: float = 0.0
    anneal: int = field(default=0, metadata={"low": 0})
    zeta: float = field(default=1.0, metadata={"valid": lambda value: 0 <= value <= 1, "hint": "a number, 0 … 1"})
    runs: int = 1
    variance: float = 0.0

    @property
    def passes(self):
        """The row of every pass, the last one's being this one's without `before`."""
        rows = [replace(self, before=(), chain_steps=steps, starts=starts, inner=inner) for steps, starts, inner in self.before]
        return [*rows, replace(self, before=())]

    @property
    def searches(self):
        return sum(row.starts for row in self.passes)


@torch.no_grad()
def annealed(g, task, z, sigma, zeta, on_step):
    """A sample of the pictures behind the measurement of a LinearTask or NonlinearTask, (B, 3, H, W) in [-1, 1]: at each level the
    network guesses the picture, the guess is drawn to the measurement by what it may err, and noise, partly the old one, takes it to the next level.

    z: (B, 3, H, W), noise at the chain's first level; zeta: the share of fresh noise, 0 … 1. Source: DiffPIR (Zhu et al. 2023,
    Algorithm 1) with lambda = 1. The network is not differentiated.
    """
    for step, level in enumerate(g.levels):
        x0 = predict_x0(z, g.eps(z, level), level.abar)
        # Without noise, the number of conjugate gradient steps alone keeps this from dividing by zero.
        X = task.drawn_to(x0, sigma**2 * level.abar / (1 - level.abar)).clamp(-1, 1)
        eps = (z - level.abar**0.5 * X) / (1 - level.abar) ** 0.5
        noise = (1 - zeta) ** 0.5 * eps + zeta**0.5 * g.rng.randn(X.shape[1:], X.device)
        z = level.abar_prev**0.5 * X + (1 - level.abar_prev) ** 0.5 * noise
        on_step(step + 1, len(g), (task.operator(X) - task.y).square().sum())
    return X


@torch.no_grad()
def explaining_best(samples, task):
    """Of the samples, (B, 3, H, W) each, every image's with the smallest residual."""
    best = least = None
    for X in samples:
        residual = (task.operator(X) - task.y).flatten(1).square().sum(1)[:, None, None, None]
        best = X if best is None else torch.where(residual < least, X, best)
        least = residual if least is None else torch.minimum(residual, least)
    return best


def opposite_pairs(latents):
    """n_0, -n_0, n_1, -n_1, … without end of these noises: the mean over a pair has none of what is odd in the noise."""
    for latent in latents:
        yield latent
        yield -latent


def search(solver, g, operator, y, latents, h, on_step, state=None):
    """Run a solver as its row h says. Yields what it yields or, where it searches several times, each pass' mean so far.

    g: the chain; operator, y: the task; latents: standard normal (B, 3, H, W), enough for h.searches; state: a yielded one to go
    on from. Each pass begins at the noised picture that the one before has found. The mean of several restorations lies nearer to
    the truth, in squares, than any one of them.
    """
    z_0s = iter(latents) if h.searches == 1 else opposite_pairs(latents)
    sigma = noise_level(h.sigma)
    task = picture = None
    if h.contrast or h.anneal or h.variance:  # contrast, which has no meaning elsewhere, is refused there
        kind = LinearTask if h.contrast or is_linear(operator, latents[0]) else NonlinearTask
        task = kind(operator, y, latents[0])
    if h.anneal and state is None:
        g.restep(h.anneal)
        noises = (g.rng.randn(latents[0].shape[1:], latents[0].device) for _ in range(h.runs))
        picture = explaining_best((annealed(g, task, noise, h.sigma, h.zeta, on_step) for noise in noises), task)
        g.restep(h.chain_steps, h.layers)
    elif h.contrast and state is None:
        picture = task.smooth(sigma**2 / h.contrast)
    if h.variance:
        operator, y = task.preconditioned(sigma**2 / h.variance)
    begin = lambda z_0: z_0 if picture is None else g.noised(picture, z_0)
    if h.searches == 1:
        yield from solver(g, operator, y, begin(next(z_0s)), h, on_step, state)
        return
    done = state or {"searches": 0, "mean": 0, "picture": picture}
    count, mean, picture = 0, done["mean"], done["picture"]
    for row in h.passes:
        g.restep(row.chain_steps, h.layers)
        for n in range(row.starts):
            z_0, count = begin(next(z_0s)), count + 1
            if count <= done["searches"]:
                continue
            for name, X, _ in solver(g, operator, y, z_0, row, on_step):
                if count == 1 and name == "init":
                    yield name, X, None
            mean = X if n == 0 else mean + (X - mean) / (n + 1)
            found = task.drawn_to(mean, sigma**2 / h.variance).clamp(-1, 1) if h.variance else mean
            if n + 1 == row.starts:
                picture = found
            yield f"{count - 1}_after", found, {"searches": count, "mean": mean, "picture": picture}
