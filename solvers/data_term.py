"""The data term of a search: the residual, preconditioned according to the noise."""

from dataclasses import dataclass, field

from solvers.least_squares import floor_sigma


@dataclass(frozen=True, kw_only=True)
class DataTerm:
    """The keys under `data_term`; a row without them minimises the paper's ||A(x) - y||^2.

    variance: the prior variance of the image around its init. The residual is preconditioned with
    damping sigma^2 / variance, and a proximal step with the same damping is applied to the result
    of each outer iteration, with restarts to the mean of a stage's results.
    target_variance: the error variance of the init. The target of the search is not y, whose noise
    it would reproduce, but A(u), where u is the init after a proximal step with damping
    sigma^2 / target_variance; 0: y.
    init_share: the weight of the init in the result, 0 … 1. The errors of init and search differ,
    so their mean has a smaller error.
    Variances are those of images in [-1, 1].
    """

    variance: float = field(default=0.0033, metadata={"low": 1e-9})
    target_variance: float = 0.0
    init_share: float = field(
        default=0.0,
        metadata={"valid": lambda value: 0 <= value < 1, "hint": "a number from 0 to below 1"},
    )

    def target(self, task, init, sigma):
        """The target, (B, …), of a search from `init`, (B, 3, H, W); shaped like the task's y."""
        if not self.target_variance:
            return task.y
        return task.operator(task.prox(init, floor_sigma(sigma) ** 2 / self.target_variance))

    def preconditioned(self, task, target, sigma):
        """The preconditioned (operator, y) that the method receives."""
        return task.preconditioned(floor_sigma(sigma) ** 2 / self.variance, target)

    def result(self, task, init, mean, sigma):
        """Combine the mean of a stage's results with the init and y: (B, 3, H, W) in [-1, 1]."""
        if self.init_share:
            mean = mean + self.init_share * (init - mean)
        return task.prox(mean, floor_sigma(sigma) ** 2 / self.variance).clamp(-1, 1)
