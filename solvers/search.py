"""Run a method as its row specifies: as published, or with our init, restarts and data term."""

from dataclasses import replace

from guided_diffusion.blind import UnknownOperator
from solvers.least_squares import LinearTask, is_linear
from solvers.method import Iterate
from solvers.nonlinear import NonlinearTask
from solvers.preset import Preset
from solvers.unknown import NEVER_FITS, UnknownTask, refitting
from util.files import UserError


def task_of(operator, y, like):
    """y = operator(x) + noise with its data steps: a LinearTask, a NonlinearTask or an UnknownTask.
    like: any nonzero (B, 3, H, W)."""
    if isinstance(operator, UnknownOperator):
        return UnknownTask(operator, y, like)
    return (LinearTask if is_linear(operator, like) else NonlinearTask)(operator, y, like)


def antithetic(latents, n):
    """The noise of search n: latents[0], -latents[0], latents[1], … Terms that are odd in the noise
    cancel in the mean of a pair."""
    return -latents[n // 2] if n % 2 else latents[n // 2]


def start_of(g, init, noise):
    """z_0 of a search: the noised init, or the noise alone if init is None."""
    return noise if init is None else g.noised(init, noise)


def first_state(g, task, h, on_step):
    """The initial state of a search: the image of the init (None: noise) and the target."""
    init = h.init(g, task, h.sigma, on_step) if h.init else None
    g.restep(h.chain_steps, h.layers)
    return {"init": init, "target": target_of(task, h, init)}


def target_of(task, h, init):
    return h.data_term.target(task, init, h.sigma) if h.data_term else task.y


def problem_of(task, h, target):
    """The (operator, y) that the method receives."""
    if h.data_term:
        return h.data_term.preconditioned(task, target, h.sigma)
    return task.operator, target


def one_search(solver, g, task, latents, h, on_step, state):
    """Yields the Iterates of a single search, with init and target in their states."""
    first = state or first_state(g, task, h, on_step)
    problem, z_0 = problem_of(task, h, first["target"]), start_of(g, first["init"], latents[0])
    resumed = state and state["solver"]
    for iterate in solver(g, *problem, z_0, h.hyperparameters, on_step, resumed):
        yield iterate._replace(state=iterate.state and {**first, "solver": iterate.state})


def results(iterates, task, h):
    """The Iterates of `one_search` with the result of each outer iteration. Only after a blind
    operator was refitted, or its present estimate would confirm itself."""
    for iterate in iterates:
        if iterate.ends_outer and h.data_term:
            x = h.data_term.result(task, iterate.state["init"], iterate.x, h.sigma)
            iterate = iterate._replace(x=x)
        yield iterate


def averaged_searches(solver, g, task, latents, h, on_step, state):
    """Yields one Iterate per search: the result from the mean of its stage so far."""
    state = state or {**first_state(g, task, h, on_step), "searches": 0, "mean": 0}
    for count, (steps, inner, n) in list(enumerate(h.searches))[state["searches"] :]:
        g.restep(steps, h.layers)
        problem = problem_of(task, h, state["target"])
        z_0 = start_of(g, state["init"], antithetic(latents, count))
        hyperparameters = replace(h.hyperparameters, chain_steps=steps, inner=inner)
        for iterate in solver(g, *problem, z_0, hyperparameters, on_step):
            if count == 0 and iterate.name == "init":
                yield iterate
        mean = iterate.x if n == 0 else state["mean"] + (iterate.x - state["mean"]) / (n + 1)
        state = {**state, "searches": count + 1, "mean": mean}
        x = h.data_term.result(task, state["init"], mean, h.sigma) if h.data_term else mean
        if n + 1 == h.restarts.count and count + 1 < len(h.searches):  # the next stage's init
            state.update(init=x, target=target_of(task, h, x))
        yield Iterate(f"{count}_after", x, state, ends_outer=True)


def search(solver, g, operator, y, latents, h, on_step, state=None):
    """The Iterates of a method with the row h, a Preset or a Row. With several searches, each
    Iterate is computed from the mean of its stage so far.

    solver, g, operator, y, on_step, state: see `solvers.method.Method`; latents: h.latents standard
    normal (B, 3, H, W). Raises UserError for a blind operator that the row would never estimate.
    """
    blind = isinstance(operator, UnknownOperator)
    if blind and not h.fits_operator:
        raise UserError(NEVER_FITS)
    preset = h if isinstance(h, Preset) else Preset(hyperparameters=h, sigma=h.sigma)
    if preset.is_published and not blind:
        return solver(g, operator, y, latents[0], preset.hyperparameters, on_step, state)
    task = task_of(operator, y, latents[0])
    stages = averaged_searches if preset.averages else one_search
    iterates = stages(solver, g, task, latents, preset, on_step, state)
    if blind:
        refit = preset is h and not preset.averages  # else the row's method does, or the init has
        iterates = refitting(iterates, task, refit, state)
    return iterates if preset.averages else results(iterates, task, preset)
