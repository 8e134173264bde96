"""Linear tasks without a prior: conjugate gradients, and what is built on them."""

import torch

from util.files import UserError

SMOOTH_STEPS = 100  # conjugate gradient steps for a smooth picture
DAMPED_STEPS = 10  # for one preconditioned residual, which only has to point the right way
DATA_STEPS = 20  # and for one step to the measurement
NOT_LINEAR = (
    "this task's operator is not linear, which least squares and a smooth start need; give the task the row `nonlinear` of the preset, "
    "or choose another --task or --preset"
)
ROUNDING = (
    1 / 255 / 3**0.5
)  # standard deviation of an 8-bit picture's rounding in units of [-1, 1]: a step of 2 / 255 over sqrt(12)


def silent(step, steps, loss):
    """An on_step that tells nobody."""


def noise_level(sigma):
    """The noise that a measurement is trusted by: sigma, and at least the pictures' own rounding (0.0023), so that nothing that is
    divided by a variance vanishes where there is no noise."""
    return max(sigma, ROUNDING)


@torch.no_grad()
def is_linear(operator, x):
    """Is A linear, as far as x, (B, 3, H, W), not zero, can tell? To a thousandth of A(x)'s largest value: rounding goes with it."""
    other, y = x.flip(0, -1), operator(x)
    scale = y.abs().max().clamp(min=1e-30)
    return torch.allclose(
        operator(other - 2 * x) / scale, (operator(other) - 2 * y) / scale, atol=1e-3
    )


def adjoint(operator, x):
    """A^T as a function, by automatic differentiation. x: any input of A, (B, 3, H, W), not zero.

    Raises UserError if the operator is not linear.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = operator(x)
    if not is_linear(operator, x):
        raise UserError(NOT_LINEAR)
    return lambda v: torch.autograd.grad(y, x, v, retain_graph=True)[0]


def conjugate_gradients(apply, b, steps, on_step=silent):
    """x with apply(x) = b by conjugate gradients from zero (Hestenes & Stiefel 1952), every image of the batch by itself.

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
    """y = A(x) + noise with a linear A, and its least squares pictures, (B, 3, H, W).

    like: (B, 3, H, W), not zero. Raises UserError if the operator is not linear.
    """

    def __init__(self, operator, y, like):
        self.operator, self.y, self.like = operator, y, like
        self.renew()

    def renew(self):
        """Take the operator as it is now: one that finds a part of itself (`solvers.unknown`) has changed."""
        self.transpose = adjoint(self.operator, self.like)

    @torch.no_grad()
    def smooth(self, smoothness, steps=SMOOTH_STEPS, on_step=silent):
        """argmin_x ||A(x) - y||^2 + smoothness (||d_vertical x||^2 + ||d_horizontal x||^2): textbook Tikhonov regularisation, the
        most probable picture if noise and differences are Gaussian and smoothness is the ratio of their variances."""

        def apply(x):
            down, right = x.diff(dim=-2), x.diff(dim=-1)
            roughness = -down.diff(
                dim=-2, prepend=0 * down[..., :1, :], append=0 * down[..., :1, :]
            )
            roughness -= right.diff(dim=-1, prepend=0 * right[..., :1], append=0 * right[..., :1])
            return self.transpose(self.operator(x)) + smoothness * roughness

        return conjugate_gradients(apply, self.transpose(self.y), steps, on_step)

    @torch.no_grad()
    def drawn_to(self, x, damping, steps=DATA_STEPS, y=None):
        """argmin_u ||A(u) - y||^2 + damping ||u - x||^2: the most probable picture if x errs by a variance of which damping is
        the noise's share. y: another measurement than the task's."""
        apply = lambda d: self.transpose(self.operator(d)) + damping * d
        return x + conjugate_gradients(
            apply, self.transpose((self.y if y is None else y) - self.operator(x)), steps
        )

    @torch.no_grad()
    def innovation(self, x, root, transposed, sigma, y, steps=DATA_STEPS):
        """u, (B, 3, H, W), such that x + root(u) is the mean of the pictures x + root(standard normal) given y = A(.) + sigma e:
        argmin ||A(x + root(u)) - y||^2 + sigma^2 ||u||^2. root, transposed: S and S^T, linear functions of pictures."""
        apply = lambda u: transposed(self.transpose(self.operator(root(u)))) + sigma**2 * u
        return conjugate_gradients(apply, transposed(self.transpose(y - self.operator(x))), steps)

    def preconditioned(self, damping, y):
        """(A', 0) such that a method given this pair weighs the residual r = A(x) - y by (A A^T + damping)^-1.

        A'(x) is the damped Gauss-Newton step (A^T A + damping)^-1 A^T r as an image, with the gradient of the identity: that
        of 1/2 mean A'(x)^2 is then the gradient of 1/2 r^T (A A^T + damping)^-1 r. What the blur has weakened is restored as
        fast as what it has left. With DMILO-PGD's lr_x = 1/2 and squared norm, one gradient step is that Gauss-Newton step.
        """
        return lambda x: x - self.drawn_to(x.detach(), damping, DAMPED_STEPS, y), torch.zeros_like(
            self.like
        )
