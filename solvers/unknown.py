"""All that is particular to an operator that has to find a part of itself, `guided_diffusion.blind.UnknownOperator`: how an annealing
finds it along with the picture, and how a search finds it again."""

import torch

from solvers.annealing import annealed
from solvers.least_squares import LinearTask
from util.files import UserError

LAST_LEVELS = 40  # per cent of an annealing that goes on from a picture of half the size
DOUBT = 0.04  # variance of what a part of the operator that is still to be found makes of the measurement, while all is noise


class UnknownTask(LinearTask):
    """A LinearTask whose operator, an UnknownOperator, changes. It begins at what nobody has found anything of yet."""

    def __init__(self, operator, y, like):
        operator.unknown = operator.start
        super().__init__(operator, y, like)

    def restore(self, unknown):
        """Take what was found earlier."""
        self.operator.unknown = unknown
        self.renew()

    def refit(self, xs, move):
        """Find it from guesses of the pictures, a list of (B, 3, H, W). Returns them; with `move` as they move along with what the
        operator has centred."""
        self.operator.refit([x.clamp(-1, 1) for x in xs], self.y)
        xs = self.operator.centre(xs) if move else xs
        self.renew()
        return xs

    def take_over(self, half, xs):
        """Take over what `half`, the operator for pictures of half the size, has found. Returns its pictures xs, enlarged."""
        xs = self.operator.take_over(half, xs)
        self.renew()
        return xs


def in_doubt(level):
    """The variance by which the operator is mistrusted at a noise level."""
    return DOUBT * min(1, (1 - level.abar) / level.abar)


def annealed_together(g, task, sigma, steps, runs, zeta, on_step):
    """The mean of `runs` samples, (B, 3, H, W), from all of which together the operator finds what it does not know. Of large pictures it
    finds that from ones of half the size, and the last levels alone, begun at these enlarged, restore what those lack: a fit at full size
    makes a spike of a kernel, for a prior of small pictures knows blurred ones of that size as well as sharp ones (docs/LOG.md)."""
    noise = lambda: g.rng.randn(task.like.shape[1:], task.like.device)
    coarse = task.operator.halved(task.y)
    if coarse is None:
        g.restep(steps)
        zs = [noise() for _ in range(runs)]
        before_data = lambda x0s, level: (
            task.refit(x0s, move=True),
            in_doubt(level),
        )  # or any kernel would explain the measurement
    else:
        operator, y = coarse
        small = UnknownTask(operator, y, task.like.new_ones(len(y), 3, *operator.size))
        picture = task.take_over(
            operator, annealed_together(g, small, sigma / 2, steps, runs, zeta, on_step)
        )
        g.restep(steps, max(1, steps * LAST_LEVELS // 100))
        zs = [g.noised(picture, noise()) for _ in range(runs)]
        before_data = lambda x0s, level: (x0s, in_doubt(level))
    return torch.stack(annealed(g, task, zs, sigma, zeta, on_step, before_data=before_data)).mean(0)


def refuse_who_never_looks(h):
    """Raise UserError for a row by which nobody would look for what the operator does not know."""
    if not (h.finds_unknown or getattr(h.start, "finds_unknown", False) or len(h.parts) > 1):
        raise UserError(
            "this preset never looks for the unknown kernel; choose another --preset (of dmilo and dmilo-pgd paper, fast or sharp), "
            "another method (dmilo, dmilo-pgd, dmplug), or name the kernel"
        )


def finding(iterates, task, h, state):
    """The Iterates of a search by the row h whose operator finds a part of itself: what it has found is in their states, and it is found
    again after each outer iteration of a single search, unless the method does that itself. Of large pictures, too: one fit from what a
    search has found does no harm (docs/LOG.md)."""
    if state:
        task.restore(state["unknown"])
    again = not h.averages and not h.finds_unknown
    for iterate in iterates:
        if iterate.state is None:
            yield iterate
            continue
        if again:
            task.refit([iterate.x], move=False)
        yield iterate._replace(state={**iterate.state, "unknown": task.operator.unknown})
