"""What surrounds a method's search: where it begins (`solvers.starts`), what it explains (`solvers.aims`), and how often it is repeated.
Everything here is off in the published settings."""

from dataclasses import dataclass, field

from guided_diffusion.blind import UnknownOperator
from guided_diffusion.ddim import TRAINING_STEPS
from solvers.aims import Aim
from solvers.least_squares import LinearTask, is_linear
from solvers.method import Iterate, Row
from solvers.nonlinear import NonlinearTask
from solvers.starts import STARTS
from solvers.unknown import UnknownTask, finding, refuse_who_never_looks
from util.files import UserError


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One of the passes `before` the row's own: what it has instead of the row's."""

    chain_steps: int
    starts: int
    inner: int


@dataclass(frozen=True, kw_only=True)
class Staged(Row):
    """The keys of a row of configs/dmilo.yaml and configs/dmilo-pgd.yaml beside the published ones; those left out are as published.

    layers: how many of the chain's last layers are used. start: where the search begins, one of `solvers.starts` by its `kind`; without
    one, at noise. before: passes before the row's own, each beginning at the noised picture that the one before has found. starts: how
    many searches of a pass begin at different noise, in opposite pairs, and are averaged; 0: the start's picture is the result.
    aim: what a search explains (`solvers.aims`).
    """

    layers: int = TRAINING_STEPS
    start: object = field(default=None, metadata={"kinds": STARTS})
    before: tuple = field(default=(), metadata={"each": Pass})
    starts: int = field(default=1, metadata={"low": 0})
    aim: Aim = field(default=Aim(), metadata={"part": Aim})

    def __post_init__(self):
        if self.starts == 0 and (self.before or self.start is None):
            raise UserError(
                "starts: is 0, which is for a row whose start is its result; give it a start and no passes before, or 1 or more"
            )
        if self.start is None and self.aim.start_share:
            raise UserError(
                "start_share: is of the picture that a search begins at; give the row a start, or leave it out"
            )


def as_task(operator, y, like):
    """What the stages of a search ask about y = operator(x) + noise: a LinearTask, a NonlinearTask or an UnknownTask.

    like: (B, 3, H, W), not zero."""
    if isinstance(operator, UnknownOperator):
        return UnknownTask(operator, y, like)
    return (LinearTask if is_linear(operator, like) else NonlinearTask)(operator, y, like)


def opposite(latents, n):
    """The noise of the n-th search, of latents[0], -latents[0], latents[1], …: the mean over a pair has none of what is odd in the noise."""
    return -latents[n // 2] if n % 2 else latents[n // 2]


def begin(g, task, h, on_step):
    """The state in which a search by the row h begins: a picture, None for noise, and what is explained."""
    picture = h.start(g, task, h.sigma, on_step) if h.start else None
    g.restep(h.chain_steps, h.layers)
    return {"picture": picture, "explained": h.aim.explained(task, picture, h.sigma)}


def begun_at(g, picture, noise):
    """The z_0 of a search that begins at a picture, or at noise alone where that is None."""
    return noise if picture is None else g.noised(picture, noise)


def one_search(solver, g, task, latents, h, on_step, state):
    """The iterates of the method's one search, with what it began with in their states."""
    begun = state or begin(g, task, h, on_step)
    seen = h.aim.shown(task, begun["explained"], h.sigma)
    for iterate in solver(
        g, *seen, begun_at(g, begun["picture"], latents[0]), h, on_step, state and state["solver"]
    ):
        yield iterate._replace(state=iterate.state and {**begun, "solver": iterate.state})


def averaged_searches(solver, g, task, latents, h, on_step, state):
    """An iterate a search: what the mean of its pass so far stands for. The mean of several restorations lies nearer to the truth, in
    squares, than any one of them."""
    state = state or {**begin(g, task, h, on_step), "searches": 0, "mean": 0}
    searches = [(row, n) for row in h.passes for n in range(row.starts)]
    for count, (row, n) in list(enumerate(searches))[state["searches"] :]:
        g.restep(row.chain_steps, h.layers)
        seen = h.aim.shown(task, state["explained"], h.sigma)
        for iterate in solver(
            g, *seen, begun_at(g, state["picture"], opposite(latents, count)), row, on_step
        ):
            if count == 0 and iterate.name == "init":
                yield iterate
        mean = iterate.x if n == 0 else state["mean"] + (iterate.x - state["mean"]) / (n + 1)
        state = {**state, "searches": count + 1, "mean": mean}
        result = h.aim.result(task, state["picture"], mean, h.sigma)
        if n + 1 == row.starts and count + 1 < len(
            searches
        ):  # the next pass begins at what this one has found
            state.update(picture=result, explained=h.aim.explained(task, mean, h.sigma))
        yield Iterate(f"{count}_after", result, state, ends_outer=True)


def only_the_start(g, task, h, on_step, state):
    """The iterate of a row that searches nothing; none, if it was found before the run was stopped."""
    if state is None:
        yield Iterate(
            "0_after", h.start(g, task, h.sigma, on_step).clamp(-1, 1), {}, ends_outer=True
        )


def search(solver, g, operator, y, latents, h, on_step, state=None):
    """Run a method as its row h says. Yields its Iterates or, where it searches several times, each pass' mean so far.

    solver, g, operator, y, on_step, state: see `solvers.method.Method`; latents: standard normal (B, 3, H, W), one for every two of
    h.searches.
    """
    unknown = isinstance(operator, UnknownOperator)
    if not unknown and not h.averages and h.start is None and h.aim == Aim():
        return solver(g, operator, y, latents[0], h, on_step, state)  # as published
    if unknown:
        refuse_who_never_looks(h)
    task = as_task(operator, y, latents[0])
    if h.searches == 0:
        return only_the_start(g, task, h, on_step, state)
    stages = averaged_searches if h.averages else one_search
    found = stages(solver, g, task, latents, h, on_step, state)
    return finding(found, task, h, state) if unknown else found
