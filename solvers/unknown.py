"""Blind operators (`guided_diffusion.blind.UnknownOperator`): annealing estimates the operator
together with the image, and a search can refit it."""

import torch

from solvers.annealing import annealed
from solvers.least_squares import LinearTask

LAST_STEPS = 40  # per cent of the noise levels that run at full size, after all at half the size
# Variance in the measurement due to the error of the estimated operator, at the highest sigma_t.
OPERATOR_VARIANCE = 0.04
NEVER_FITS = (
    "this row never estimates the blur kernel; choose another --preset (of dmilo and dmilo-pgd "
    "paper, fast or sharp), another method (dmilo, dmilo-pgd, dmplug), or give the kernel"
)


class UnknownTask(LinearTask):
    """A LinearTask whose operator, an UnknownOperator, is refitted; initially `operator.start`."""

    def __init__(self, operator, y, like):
        operator.unknown = operator.start
        super().__init__(operator, y, like)

    def restore(self, unknown):
        """Return to an earlier estimate of the operator."""
        self.operator.unknown = unknown
        self.renew()

    def refit(self, xs, move):
        """Fit the operator to estimates of the images, a list of (B, 3, H, W). With `move` it is
        then centred, and the images are shifted accordingly. Returns the images."""
        self.operator.refit([x.clamp(-1, 1) for x in xs], self.y)
        xs = self.operator.centre(xs) if move else xs
        self.renew()
        return xs

    def take_over(self, half, xs):
        """Adopt the estimate of `half`, the operator for images of half the size. Returns its
        images xs, enlarged."""
        xs = self.operator.take_over(half, xs)
        self.renew()
        return xs


def operator_variance(timestep):
    """The variance in the measurement due to the error of the estimated operator."""
    return OPERATOR_VARIANCE * min(1, (1 - timestep.abar) / timestep.abar)


def annealed_together(g, task, sigma, steps, count, zeta, on_step):
    """The mean, (B, 3, H, W), of `count` annealed samples; at each step the operator is fitted to
    all of them. For large images it is fitted at half the size, and only the last LAST_STEPS run at
    full size, from the enlarged mean: a fit at full size tends to a delta kernel, because a prior
    of small images accepts a blurred large one as sharp (docs/LOG.md)."""

    def noise():
        return g.rng.randn(task.like.shape[1:], task.like.device)

    def refit(x0_hats, timestep):
        # Without the variance any kernel would be consistent with the measurement.
        return task.refit(x0_hats, move=True), operator_variance(timestep)

    def keep(x0_hats, timestep):
        return x0_hats, operator_variance(timestep)

    coarse = task.operator.halved(task.y)
    if coarse is None:
        g.restep(steps)
        zs, before_data = [noise() for _ in range(count)], refit
    else:
        operator, y = coarse
        small = UnknownTask(operator, y, task.like.new_ones(len(y), 3, *operator.size))
        x = annealed_together(g, small, sigma / 2, steps, count, zeta, on_step)
        x = task.take_over(operator, x)
        g.restep(steps, max(1, steps * LAST_STEPS // 100))
        zs, before_data = [g.noised(x, noise()) for _ in range(count)], keep
    return torch.stack(annealed(g, task, zs, sigma, zeta, on_step, before_data=before_data)).mean(0)


def refitting(iterates, task, again, state):
    """The Iterates of a search with a blind operator, whose estimate is part of their states.

    again: whether to refit the operator after each outer iteration, for large images, too: one fit
    to the result of a search does no harm (docs/LOG.md).
    """
    if state:
        task.restore(state["unknown"])
    for iterate in iterates:
        if iterate.state is None:
            yield iterate
            continue
        if again:
            task.refit([iterate.x], move=False)
        yield iterate._replace(state={**iterate.state, "unknown": task.operator.unknown})
