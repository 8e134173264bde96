"""What surrounds a method's search: the part of the chain it searches, where it begins, the form in which it sees the
measurement, and how often it is repeated. Everything here is off in the published settings."""
from copy import copy
from dataclasses import dataclass, field, replace

import torch

from guided_diffusion.ddim import TRAINING_STEPS, predict_x0
from solvers.least_squares import LinearTask, is_linear, noise_level
from solvers.nonlinear import NonlinearTask

PIXEL_VARIANCE = 0.25  # of a picture in [-1, 1]
LAST_LEVELS = 40  # per cent of an annealing that goes on from a picture of half the size
UNKNOWN_VARIANCE = 0.04  # of what a part of the operator that is still to be found makes of the measurement, while all is noise


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
    zeta, the share of fresh noise in each, guided, whether by the network's gradient, and runs, the number of samples, of which the one
    with the smallest residual is taken, or, where the operator has to find a part of itself, their mean;
    sample_variance (with variance): how far such a sample, or the mean that a pass has found, is mistrusted. The search that begins there
    explains not y, whose noise it would take for detail, but A of that picture drawn to y with damping sigma^2 / sample_variance; 0: y
    itself. variance: of what the picture still has open when a
    search begins; 0 leaves the measurement as it is, more shows the method a preconditioned one with damping sigma^2 / variance, and
    draws each pass' result to the measurement with the same. All variances are of pictures in [-1, 1].

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
    guided: bool = False
    runs: int = 1
    sample_variance: float = 0.0
    variance: float = 0.0

    @property
    def passes(self):
        """The row of every pass, the last one's being this one's without `before`."""
        rows = [replace(self, before=(), chain_steps=steps, starts=starts, inner=inner) for steps, starts, inner in self.before]
        return [*rows, replace(self, before=())]

    @property
    def searches(self):
        return sum(row.starts for row in self.passes)


def guided(task, z, x0, level, sigma):
    """The guess x0 of the picture behind z, (B, 3, H, W), moved by what the measurement says of it: pixels that the network ties to a
    measured one move along.

    Source: PiGDM (Song et al. 2023), x0 + C A^T (r A A^T + sigma^2)^-1 (y - A x0), where C, the covariance of the picture given z, is
    spread times the network's Jacobian, and r stands for it where it would have to be inverted: that of white pixels of PIXEL_VARIANCE.
    """
    spread = (1 - level.abar) / level.abar
    r = 1 / (1 / spread + 1 / PIXEL_VARIANCE)
    step = task.drawn_to(x0.detach(), sigma**2 / r) - x0.detach()
    return x0.detach() + level.abar**0.5 * spread / r * torch.autograd.grad(x0, z, step)[0]


def is_blind(operator):
    """Has the operator to find a part of itself?"""
    return hasattr(operator, "refit")


@torch.no_grad()
def annealed(g, task, zs, h, on_step, refit=True):
    """Samples of the pictures behind the measurement of a LinearTask or NonlinearTask, a list of (B, 3, H, W) in [-1, 1], one for each of
    zs: at each level the network guesses the picture, the guess is drawn to the measurement by what it may err (h.guided: by
    `guided`), and noise, partly the old one, takes it to the next level. What the operator does not know it finds from all the guesses of a
    level together, and the measurement is trusted less by what that still errs.

    zs: of (B, 3, H, W), at the chain's first noise level; h: the row, of which zeta, sigma and guided count; refit: may the operator find
    what it does not know, or keeps it what it has found before? Source: DiffPIR (Zhu et al.
    2023, Algorithm 1) with lambda = 1, which does not differentiate the network.
    """
    blind = is_blind(task.operator)
    for step, level in enumerate(g.levels):
        with torch.set_grad_enabled(h.guided):
            zs = [z.detach().requires_grad_(h.guided) for z in zs]
            x0s = [predict_x0(z, g.eps(z, level), level.abar) for z in zs]
        doubt = 0
        if blind:  # before the measurement has a say, or any kernel would explain it
            x0s = task.refit(x0s, move=True) if refit else x0s
            doubt = UNKNOWN_VARIANCE * min(1, (1 - level.abar) / level.abar)
        samples = []
        for x0, z in zip(x0s, zs):
            if h.guided:
                X = guided(task, z, x0, level, h.sigma).clamp(-1, 1)
            else:  # without noise, the number of conjugate gradient steps alone keeps this from dividing by zero
                X = task.drawn_to(x0, (h.sigma**2 + doubt) * level.abar / (1 - level.abar)).clamp(-1, 1)
            samples.append(X)
        zs = [noised_on(X, z.detach(), level, h.zeta, g.rng) for X, z in zip(samples, zs)]
        on_step(step + 1, len(g), sum((task.operator(X) - task.y).square().sum() for X in samples))
    return samples


def noised_on(X, z, level, zeta, rng):
    """X at the noise level that follows, (B, 3, H, W), with the noise of z, of which zeta is replaced by fresh one."""
    eps = (z - level.abar**0.5 * X) / (1 - level.abar) ** 0.5
    noise = (1 - zeta) ** 0.5 * eps + zeta**0.5 * rng.randn(X.shape[1:], X.device)
    return level.abar_prev**0.5 * X + (1 - level.abar_prev) ** 0.5 * noise


@torch.no_grad()
def explaining_best(samples, task):
    """Of the samples, (B, 3, H, W) each, every image's with the smallest residual."""
    best = least = None
    for X in samples:
        residual = (task.operator(X) - task.y).flatten(1).square().sum(1)[:, None, None, None]
        best = X if best is None else torch.where(residual < least, X, best)
        least = residual if least is None else torch.minimum(residual, least)
    return best


def annealed_blind(g, task, like, h, on_step):
    """The mean of h.runs samples, (B, 3, H, W) like `like`, from all of which the operator finds a part of itself. Of large pictures it finds
    that from ones of half the size, and the last levels alone, begun at these enlarged, restore what those lack: a fit at full size makes a
    spike of the kernel, for a prior of small pictures knows blurred ones of that size as well as sharp ones (docs/LOG.md)."""
    noises = lambda like: [g.rng.randn(like.shape[1:], like.device) for _ in range(h.runs)]
    coarse = task.operator.halved(task.y)
    if coarse is None:
        g.restep(h.anneal)
        return torch.stack(annealed(g, task, noises(like), h, on_step)).mean(0)
    operator, y = coarse
    small = like.new_ones(len(like), 3, *operator.size)
    picture = annealed_blind(g, LinearTask(operator, y, small), small, replace(h, sigma=h.sigma / 2), on_step)
    picture = task.take_over(operator, picture)
    g.restep(h.anneal, max(1, h.anneal * LAST_LEVELS // 100))
    return torch.stack(annealed(g, task, [g.noised(picture, noise) for noise in noises(like)], h, on_step, refit=False)).mean(0)


def sampled(g, task, like, h, on_step):
    """The picture, shaped like `like`, at which a search begins that anneals first: of h.runs samples each image's with the smallest residual
    or, where the operator has to find a part of itself from all of them, their mean."""
    if is_blind(task.operator):
        picture = annealed_blind(g, task, like, h, on_step)
    else:
        g.restep(h.anneal)
        noises = (g.rng.randn(like.shape[1:], like.device) for _ in range(h.runs))
        picture = explaining_best((annealed(g, task, [noise], h, on_step)[0] for noise in noises), task)
    g.restep(h.chain_steps, h.layers)
    return picture


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
    blind = is_blind(operator)
    if blind:
        operator.unknown = operator.start if state is None else state["unknown"]
    if h.contrast or h.anneal or h.variance or h.sample_variance or blind:  # contrast, which has no meaning elsewhere, is refused there
        kind = LinearTask if h.contrast or is_linear(operator, latents[0]) else NonlinearTask
        task = kind(operator, y, latents[0])
    if h.anneal and state is None:
        picture = sampled(g, task, latents[0], h, on_step)
    elif h.contrast and state is None:
        picture = task.smooth(sigma**2 / h.contrast)
    aim, doubted = task, None  # what a search explains
    if h.sample_variance:
        aim, doubted = copy(task), lambda X: task.operator(task.drawn_to(X, sigma**2 / h.sample_variance))
        if state:
            aim.y = state["explained"]
        elif h.anneal:
            aim.y = doubted(picture)
    if h.variance:
        operator, y = aim.preconditioned(sigma**2 / h.variance)
    elif task:
        y = aim.y
    begin = lambda z_0: z_0 if picture is None else g.noised(picture, z_0)
    to_go_on = lambda found: {**found, "explained": doubted and aim.y, "unknown": blind and task.operator.unknown}
    if h.searches == 1:
        for name, X, found in solver(g, operator, y, begin(next(z_0s)), h, on_step, state):
            if found and blind and "unknown" not in found:  # else the solver has found it by itself
                task.refit([X], move=False)
            yield name, X, found and to_go_on(found)
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
                if doubted:
                    aim.y = doubted(mean)
                    y = y if h.variance else aim.y
            yield f"{count - 1}_after", found, to_go_on({"searches": count, "mean": mean, "picture": picture})
