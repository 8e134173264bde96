"""What a search explains: the measurement itself or a part of it, plainly or preconditioned."""

from dataclasses import dataclass, field

from solvers.least_squares import noise_level


@dataclass(frozen=True, kw_only=True)
class Aim:
    """The keys under `aim`. Without them a search explains y as the published method does.

    variance: of what the picture still has open when a search begins. The search sees the measurement preconditioned, with damping
    sigma^2 / variance, and the mean of its results is drawn to the measurement with the same.
    sample_variance: how far the picture that a search begins at is mistrusted. The search explains not y, whose noise it would take
    for detail, but A of that picture drawn to y with damping sigma^2 / sample_variance.
    start_share: of the picture that a pass begins at in its result, 0 … 1. That picture and what is searched from it err differently, so
    that their mean errs less than either.
    Both variances are of pictures in [-1, 1], and 0 leaves each of the three out.
    """

    variance: float = 0.0
    sample_variance: float = 0.0
    start_share: float = field(
        default=0.0,
        metadata={"valid": lambda value: 0 <= value < 1, "hint": "a number, 0 … below 1"},
    )

    def explained(self, task, picture, sigma):
        """What a search that begins at `picture`, (B, 3, H, W) or None, explains: (B, …), shaped like the task's y."""
        if picture is None or not self.sample_variance:
            return task.y
        return task.operator(task.drawn_to(picture, noise_level(sigma) ** 2 / self.sample_variance))

    def shown(self, task, explained, sigma):
        """(operator, y) as the method is given them."""
        return (
            task.preconditioned(noise_level(sigma) ** 2 / self.variance, explained)
            if self.variance
            else (task.operator, explained)
        )

    def result(self, task, picture, mean, sigma):
        """The picture that the mean of a pass' restorations, (B, 3, H, W), stands for. picture: where the pass began, None for noise."""
        if self.start_share:
            mean = mean + self.start_share * (picture - mean)
        return (
            task.drawn_to(mean, noise_level(sigma) ** 2 / self.variance).clamp(-1, 1)
            if self.variance
            else mean
        )
