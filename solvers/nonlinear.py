"""Data steps of nonlinear operators: gradient steps on the residual; they use no prior."""

import torch

from solvers.least_squares import NOT_LINEAR
from util.files import UserError

GRADIENT_STEPS = 15  # for one proximal step; accelerated, they are worth twice as many plain ones
FEW_STEPS = 5  # for one preconditioned residual, whose direction alone matters
POWER_STEPS = 5  # of the power iteration; gradient steps stay stable if it is a third too small
NUDGE = 0.01  # finite difference per pixel in [-1, 1], root mean square


def norm(x):
    """The Euclidean norm, (B, 1, 1, 1), of each image of x, (B, 3, H, W)."""
    return x.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-20)


class NonlinearTask:
    """y = A(x) + noise with a differentiable A; the interface of LinearTask."""

    def __init__(self, operator, y, like):
        self.operator, self.y, self.like = operator, y, like

    def pulled_back(self, x, residual=None, y=None):
        """J^T residual, (B, 3, H, W), where J is the Jacobian of A at x. residual: by default
        A(x) - y; y: replaces the task's measurement."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            measured = self.operator(x)
            if residual is None:
                residual = measured.detach() - (self.y if y is None else y)
            return torch.autograd.grad(measured, x, residual)[0]

    def curvature(self, x):
        """The largest eigenvalue of J^T J at x for each image, (B, 1, 1, 1), by power iteration. J
        is applied by finite differences, so that A need not be twice differentiable."""
        measured, direction = self.operator(x), self.pulled_back(x)
        for _ in range(POWER_STEPS):
            step = NUDGE * x[0].numel() ** 0.5 / norm(direction)
            image = (self.operator(x + step * direction) - measured) / NUDGE / x[0].numel() ** 0.5
            direction = self.pulled_back(x, image)
        return norm(direction)

    @torch.no_grad()
    def prox(self, x, damping, steps=GRADIENT_STEPS, y=None):
        """An approximation of argmin_u ||A(u) - y||^2 + damping ||u - x||^2, (B, 3, H, W), by
        accelerated gradient steps from x (Nesterov 1983) with step size one over the curvature at
        x. y: replaces the task's measurement."""
        rate = 1 / (self.curvature(x) + damping).clamp(min=1e-20)
        u = ahead = x
        for step in range(steps):
            previous, u = u, ahead - rate * (self.pulled_back(ahead, y=y) + damping * (ahead - x))
            ahead = u + step / (step + 3) * (u - previous)
        return u

    def whitened_update(self, x, root, transposed, sigma, y, steps=GRADIENT_STEPS):
        """See LinearTask.whitened_update."""
        whitened = NonlinearTask(lambda u: self.operator(x + root(u)), y, self.like)
        return whitened.prox(torch.zeros_like(x), sigma**2, steps)

    def smooth(self, smoothness):
        raise UserError(NOT_LINEAR)

    def preconditioned(self, damping, y):
        """See LinearTask.preconditioned; here A'(x) is x minus the result of a few gradient steps,
        with the gradient of the identity."""

        def operator(x):
            return x - self.prox(x.detach(), damping, FEW_STEPS, y)

        return operator, torch.zeros_like(self.like)
