"""Tasks that are not linear, without a prior: gradient steps towards the measurement."""

import torch

from solvers.least_squares import NOT_LINEAR
from util.files import UserError

GRADIENT_STEPS = (
    15  # for one step to the measurement; accelerated, they reach what twice as many plain ones do
)
FEW_STEPS = 5  # for one preconditioned residual, which only has to point the right way
POWER_STEPS = 5  # of a power iteration, whose result may fall short of the curvature by a third before the steps diverge
NUDGE = 0.01  # of a pixel, in [-1, 1], root mean square: by how much it differentiates


def norm(x):
    """Each image's length, (B, 1, 1, 1); x: (B, 3, H, W)."""
    return x.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-20)


class NonlinearTask:
    """y = A(x) + noise with a differentiable A that need not be linear; what a search asks of a LinearTask."""

    def __init__(self, operator, y, like):
        self.operator, self.y, self.like = operator, y, like

    def pulled_back(self, x, residual=None, y=None):
        """J^T residual of A's Jacobian J at x: (B, 3, H, W). residual: None means A(x) - y, with the task's y unless another is given."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            measured = self.operator(x)
            residual = (
                measured.detach() - (self.y if y is None else y) if residual is None else residual
            )
            return torch.autograd.grad(measured, x, residual)[0]

    def curvature(self, x):
        """The largest eigenvalue of J^T J at x, an image each, (B, 1, 1, 1), by power iteration. J is taken by a difference of A, for
        which A need not be differentiable twice."""
        measured, direction = self.operator(x), self.pulled_back(x)
        for _ in range(POWER_STEPS):
            step = NUDGE * x[0].numel() ** 0.5 / norm(direction)
            image = (self.operator(x + step * direction) - measured) / NUDGE / x[0].numel() ** 0.5
            direction = self.pulled_back(x, image)
        return norm(direction)

    @torch.no_grad()
    def drawn_to(self, x, damping, steps=GRADIENT_STEPS, y=None):
        """A picture near argmin_u ||A(u) - y||^2 + damping ||u - x||^2, (B, 3, H, W), by accelerated gradient steps from x (Nesterov 1983,
        step size one over the curvature at x). y: another measurement than the task's."""
        rate = 1 / (self.curvature(x) + damping).clamp(min=1e-20)
        u = ahead = x
        for step in range(steps):
            previous, u = u, ahead - rate * (self.pulled_back(ahead, y=y) + damping * (ahead - x))
            ahead = u + step / (step + 3) * (u - previous)
        return u

    def innovation(self, x, root, transposed, sigma, y, steps=GRADIENT_STEPS):
        """See LinearTask.innovation."""
        return NonlinearTask(lambda u: self.operator(x + root(u)), y, self.like).drawn_to(
            torch.zeros_like(x), sigma**2, steps
        )

    def smooth(self, smoothness):
        raise UserError(NOT_LINEAR)

    def preconditioned(self, damping, y):
        """See LinearTask.preconditioned: A'(x) is the way from x to what a few gradient steps find, with the gradient of the identity."""
        return lambda x: x - self.drawn_to(x.detach(), damping, FEW_STEPS, y), torch.zeros_like(
            self.like
        )
