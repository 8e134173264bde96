"""Data steps of linear operators, solved by conjugate gradients; they use no prior."""

import torch

from util.files import UserError

SMOOTH_STEPS = 100  # conjugate gradient steps for Tikhonov's estimate
DAMPED_STEPS = 10  # for one preconditioned residual, whose direction alone matters
DATA_STEPS = 20  # for one proximal step
NOT_LINEAR = (
    "the operator is not linear, which least squares and this init require; use the preset's row "
    "`nonlinear`, or another --task or --preset"
)
ROUNDING = 1 / 255 / 3**0.5  # standard deviation of 8-bit rounding in units of [-1, 1]


def silent(step, steps, loss):
    """An on_step that does nothing."""


def floor_sigma(sigma):
    """sigma, bounded below by the rounding error of 8 bits (0.0023), for use as a divisor."""
    return max(sigma, ROUNDING)


@torch.no_grad()
def is_linear(operator, x):
    """Whether A is linear at a nonzero x, (B, 3, H, W), to within a thousandth of max |A(x)|."""
    other, y = x.flip(0, -1), operator(x)
    scale = y.abs().max().clamp(min=1e-30)
    combined = operator(other - 2 * x), operator(other) - 2 * y
    return torch.allclose(combined[0] / scale, combined[1] / scale, atol=1e-3)


def adjoint(operator, x):
    """A^T as a function, by automatic differentiation. x: a nonzero input of A, (B, 3, H, W).

    Raises UserError if the operator is not linear.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = operator(x)
    if not is_linear(operator, x):
        raise UserError(NOT_LINEAR)
    return lambda v: torch.autograd.grad(y, x, v, retain_graph=True)[0]


def conjugate_gradients(apply, b, steps, on_step=silent):
    """Solve apply(x) = b by conjugate gradients, starting at zero, independently for each image
    (Hestenes & Stiefel 1952).

    apply: a symmetric positive definite linear function; b, x: (B, 3, H, W).
    """

    def dot(u, v):
        return (u * v).flatten(1).sum(1)[:, None, None, None]

    x = torch.zeros_like(b)
    residual = direction = b
    norm = dot(residual, residual)
    for step in range(steps):
        image = apply(direction)
        rate = norm / dot(direction, image).clamp(min=1e-20)
        x = x + rate * direction
        residual = residual - rate * image
        previous, norm = norm, dot(residual, residual)
        direction = residual + norm / previous.clamp(min=1e-20) * direction
        on_step(step + 1, steps, norm.sum())
    return x


class LinearTask:
    """y = A(x) + noise with a linear A, and its least squares solutions, (B, 3, H, W).

    like: any nonzero (B, 3, H, W). Raises UserError if the operator is not linear.
    """

    def __init__(self, operator, y, like):
        self.operator, self.y, self.like = operator, y, like
        self.renew()

    def renew(self):
        """Recompute A^T after a blind operator (`solvers.unknown`) has changed."""
        self.transpose = adjoint(self.operator, self.like)

    @torch.no_grad()
    def smooth(self, smoothness, steps=SMOOTH_STEPS, on_step=silent):
        """argmin_x ||A(x) - y||^2 + smoothness (||d_vertical x||^2 + ||d_horizontal x||^2):
        Tikhonov regularisation, the MAP estimate if noise and differences are Gaussian and
        smoothness is the ratio of their variances."""

        def apply(x):
            down, right = x.diff(dim=-2), x.diff(dim=-1)
            zeros = 0 * down[..., :1, :], 0 * right[..., :1]
            roughness = -down.diff(dim=-2, prepend=zeros[0], append=zeros[0])
            roughness -= right.diff(dim=-1, prepend=zeros[1], append=zeros[1])
            return self.transpose(self.operator(x)) + smoothness * roughness

        return conjugate_gradients(apply, self.transpose(self.y), steps, on_step)

    @torch.no_grad()
    def prox(self, x, damping, steps=DATA_STEPS, y=None):
        """argmin_u ||A(u) - y||^2 + damping ||u - x||^2: the MAP estimate if x has an error of
        variance sigma^2 / damping. y: replaces the task's measurement."""
        residual = (self.y if y is None else y) - self.operator(x)

        def apply(d):
            return self.transpose(self.operator(d)) + damping * d

        return x + conjugate_gradients(apply, self.transpose(residual), steps)

    @torch.no_grad()
    def whitened_update(self, x, root, transposed, sigma, y, steps=DATA_STEPS):
        """u, (B, 3, H, W), such that x + root(u) is the posterior mean of x + root(standard normal)
        given y = A(.) + sigma e: argmin ||A(x + root(u)) - y||^2 + sigma^2 ||u||^2. root,
        transposed: S and S^T, linear functions of images."""

        def apply(u):
            return transposed(self.transpose(self.operator(root(u)))) + sigma**2 * u

        b = transposed(self.transpose(y - self.operator(x)))
        return conjugate_gradients(apply, b, steps)

    def preconditioned(self, damping, y):
        """An operator A' and a measurement, 0, with which a method weights the residual
        r = A(x) - y by (A A^T + damping)^-1.

        A'(x) is the damped Gauss-Newton step (A^T A + damping)^-1 A^T r as an image, with the
        gradient of the identity: the gradient of 1/2 mean A'(x)^2 is then that of
        1/2 r^T (A A^T + damping)^-1 r, so that frequencies attenuated by A converge as fast as
        others. In DMILO-PGD with lr_x = 1/2 and the squared norm, a gradient step equals this step.
        """

        def operator(x):
            return x - self.prox(x.detach(), damping, DAMPED_STEPS, y)

        return operator, torch.zeros_like(self.like)
