"""The data term of a search: the measurement itself, or preconditioned by what sigma says of it."""

from dataclasses import dataclass, field

from solvers.least_squares import floor_sigma


@dataclass(frozen=True, kw_only=True)
class DataTerm:
    """The keys under `data_term`; a row without them minimises the paper's ||A(x) - y||^2.

    variance: the prior variance of the image around its init. The residual is preconditioned with
    damping sigma^2 / variance, and the mean of a stage's results is followed by the proximal step
    with the same damping.
    target_variance: the error variance of the init. The search fits not y, whose noise it would
    reproduce, but A of the init after a proximal step with damping sigma^2 / target_variance; 0: y.
    init_share: the init's share in the result, 0 … 1. Init and search make different errors, so
    their mean has a smaller one.
    Variances are of images in [-1, 1].
    """

    variance: float = field(default=0.0033, metadata={"low": 1e-9})
    target_variance: float = 0.0
    init_share: float = field(
        default=0.0,
        metadata={"valid": lambda value: 0 <= value < 1, "hint": "a number from 0 to below 1"},
    )

    def target(self, task, init, sigma):
        """What a search from `init`, (B, 3, H, W), fits: (B, …), shaped like the task's y."""
        if not self.target_variance:
            return task.y
        return task.operator(task.prox(init, floor_sigma(sigma) ** 2 / self.target_variance))

    def preconditioned(self, task, target, sigma):
        """(operator, y) for the method."""
        return task.preconditioned(floor_sigma(sigma) ** 2 / self.variance, target)

    def result(self, task, init, mean, sigma):
        """The image, (B, 3, H, W) in [-1, 1], from the mean of a stage's results."""
        if self.init_share:
            mean = mean + self.init_share * (init - mean)
        return task.prox(mean, floor_sigma(sigma) ** 2 / self.variance).clamp(-1, 1)
