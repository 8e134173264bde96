"""Smooth least squares, the preconditioned measurement and the mean over several starts, against dense linear algebra."""
import pytest
import torch

from util.files import UserError
from solvers.least_squares import conjugate_gradients, preconditioned, smooth_least_squares
from solvers.search import Start, search

SHAPE = (2, 3, 4, 4)
PIXELS = 3 * 4 * 4


def dense_operator(rows, seed=0):
    """A random linear operator, one matrix for every image, and these (2, rows, PIXELS)."""
    matrices = torch.randn(2, rows, PIXELS, generator=torch.Generator().manual_seed(seed)) / PIXELS**0.5
    return lambda x: (matrices @ x.flatten(1)[..., None]).squeeze(-1), matrices


def like(seed=1):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_conjugate_gradients_solve_each_image_by_itself():
    A, M = dense_operator(PIXELS)
    normal = M.mT @ M + 0.1 * torch.eye(PIXELS)
    b = like()
    x = conjugate_gradients(lambda v: (normal @ v.flatten(1)[..., None]).reshape(SHAPE), b, 200)
    torch.testing.assert_close(x.flatten(1), torch.linalg.solve(normal, b.flatten(1)), rtol=0, atol=1e-3)


def test_smooth_least_squares_is_where_the_gradient_vanishes():
    A, _ = dense_operator(20)
    y = A(like(2))
    x = smooth_least_squares(A, y, like(), 0.05, steps=200).requires_grad_()
    roughness = x.diff(dim=-1).square().sum() + x.diff(dim=-2).square().sum()
    objective = (A(x) - y).square().sum() + 0.05 * roughness
    assert torch.autograd.grad(objective, x)[0].abs().max() < 1e-3
    assert (A(x) - y).square().mean() < 0.1 * y.square().mean()


def test_preconditioned_is_the_misfit_weighted_by_its_covariance():
    A, M = dense_operator(8)  # as many rows as conjugate gradient steps solve exactly
    y, damping = torch.randn(2, 8, generator=torch.Generator().manual_seed(3)), 0.1
    step, zero = preconditioned(A, y, like(), damping)
    x = like(4).requires_grad_()
    gradient = torch.autograd.grad(0.5 * (step(x) - zero).square().sum(), x)[0]

    wanted = like(4).requires_grad_()
    r = A(wanted) - y
    weights = torch.linalg.inv(M @ M.mT + damping * torch.eye(8))
    misfit = 0.5 * (r * (weights @ r[..., None]).squeeze(-1)).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(misfit, wanted)[0], rtol=0, atol=1e-4)


def test_what_is_not_linear_is_refused():
    for call in (lambda: smooth_least_squares(torch.abs, like(), like(), 0.1), lambda: preconditioned(torch.abs, like(), like(), 0.1)):
        with pytest.raises(UserError, match="not linear"):
            call()


def test_several_starts_are_averaged():
    def solver(g, operator, y, z_0, h, on_step, state=None):
        yield "init", 0 * z_0, None
        yield "0_after", z_0, None

    latents = [like(n) for n in range(4)]
    results = list(search(solver, None, lambda x: x, like(), latents, Start(starts=3), None))
    assert [name for name, _, _ in results] == ["init", "0_after", "1_after", "2_after"]
    torch.testing.assert_close(results[-1][1], (latents[0] + latents[1] + latents[2]) / 3)
    assert [name for name, _, _ in search(solver, None, lambda x: x, like(), latents, Start(), None)] == ["init", "0_after"]
