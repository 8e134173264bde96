"""Data steps against dense linear algebra, and init, restarts and data term around a solver."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from guided_diffusion.ddim import Chain
from solvers.annealing import PIXEL_VARIANCE, guided
from solvers.data_term import DataTerm
from solvers.ilo import Hyperparameters
from solvers.init import Annealed, Smooth
from solvers.least_squares import ROUNDING, LinearTask, conjugate_gradients
from solvers.method import Iterate
from solvers.preset import Preset, Restarts
from solvers.search import search
from util.files import UserError

SHAPE = (2, 3, 4, 4)
VALUES = 3 * 4 * 4


def dense_operator(rows, seed=0):
    """A random linear operator, one matrix for every image, and these (2, rows, VALUES)."""
    matrices = (
        torch.randn(2, rows, VALUES, generator=torch.Generator().manual_seed(seed)) / VALUES**0.5
    )
    return lambda x: (matrices @ x.flatten(1)[..., None]).squeeze(-1), matrices


def like(seed=1):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_conjugate_gradients_solve_each_image_by_itself():
    A, M = dense_operator(VALUES)
    normal = M.mT @ M + 0.1 * torch.eye(VALUES)
    b = like()
    x = conjugate_gradients(lambda v: (normal @ v.flatten(1)[..., None]).reshape(SHAPE), b, 200)
    torch.testing.assert_close(
        x.flatten(1), torch.linalg.solve(normal, b.flatten(1)), rtol=0, atol=1e-3
    )


def test_smooth_least_squares_is_where_the_gradient_vanishes():
    A, _ = dense_operator(20)
    y = A(like(2))
    x = LinearTask(A, y, like()).smooth(0.05, steps=200).requires_grad_()
    roughness = x.diff(dim=-1).square().sum() + x.diff(dim=-2).square().sum()
    objective = (A(x) - y).square().sum() + 0.05 * roughness
    assert torch.autograd.grad(objective, x)[0].abs().max() < 1e-3
    assert (A(x) - y).square().mean() < 0.1 * y.square().mean()


def test_preconditioned_is_the_residual_weighted_by_its_covariance():
    A, M = dense_operator(8)  # as many rows as conjugate gradient steps solve exactly
    y, damping = torch.randn(2, 8, generator=torch.Generator().manual_seed(3)), 0.1
    step, zero = LinearTask(A, y, like()).preconditioned(damping, y)
    x = like(4).requires_grad_()
    gradient = torch.autograd.grad(0.5 * (step(x) - zero).square().sum(), x)[0]

    wanted = like(4).requires_grad_()
    r = A(wanted) - y
    weights = torch.linalg.inv(M @ M.mT + damping * torch.eye(8))
    misfit = 0.5 * (r * (weights @ r[..., None]).squeeze(-1)).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(misfit, wanted)[0], rtol=0, atol=1e-4)


def test_prox_solves_its_normal_equations():
    A, M = dense_operator(20)
    x, y, damping = like(5), A(like(2)), 0.1
    x_prox = LinearTask(A, y, like()).prox(x, damping).flatten(1)
    normal = M.mT @ M + damping * torch.eye(VALUES)
    wanted = torch.linalg.solve(normal, (M.mT @ y[..., None]).squeeze(-1) + damping * x.flatten(1))
    torch.testing.assert_close(x_prox, wanted, rtol=0, atol=1e-3)


def test_what_is_not_linear_is_refused():
    with pytest.raises(UserError, match="not linear"):
        LinearTask(torch.abs, like(), like())


def echo(g, operator, y, z_0, h, on_step, state=None):
    """A solver that returns its z_0."""
    yield Iterate("init", 0 * z_0)
    yield Iterate("0_after", z_0, ends_outer=True)


PAPER = Hyperparameters(outer=1, inner=9, lr_z=1.0, lr_nu=1.0, weight_nu=0.0, weight_z=0.0)


def preset(**given):
    steps = given.pop("chain_steps", 3)
    return Preset(hyperparameters=replace(PAPER, chain_steps=steps), sigma=0.1, **given)


def test_restarts_are_averaged_in_antithetic_pairs():
    latents = [like(n) for n in range(4)]
    g, y = Chain(None, 3, None), like()
    h = preset(restarts=Restarts(count=3))
    results = list(search(echo, g, lambda x: x, y, latents, h, None))
    assert [name for name, *_ in results] == ["init", "0_after", "1_after", "2_after"]
    assert results[2].x.abs().max() == 0
    torch.testing.assert_close(results[-1].x, latents[1] / 3)
    published = search(echo, g, lambda x: x, y, latents, preset(), None)
    assert [name for name, *_ in published] == ["init", "0_after"]


def test_each_stage_starts_at_the_result_of_the_one_before_and_resumes_after_a_kill():
    calls = []

    def solver(g, operator, y, z_0, h, on_step, state=None):
        calls.append((g.timesteps[0].t, h.inner))
        yield Iterate("0_after", z_0 / g.timesteps[0].abar ** 0.5, ends_outer=True)

    h = preset(
        chain_steps=7,
        restarts=Restarts(count=2, stages=(4, 5), inner=3),
        init=Smooth(contrast=0.1),
        data_term=DataTerm(variance=0.01),
    )
    A, _ = dense_operator(VALUES)
    y, latents = A(like(2)), [like(n) for n in range(3)]
    assert h.latents == 3

    def run(state=None):
        return list(search(solver, Chain(None, 7, None, layers=1), A, y, latents, h, None, state))

    whole = run()
    assert calls == 2 * [(250, 3)] + 2 * [(200, 3)] + 2 * [(142, 9)]
    assert len(h.iterations) == len(whole) == 6
    task = LinearTask(A, y, latents[0])
    first = task.prox(task.smooth(0.1), 1.0).clamp(-1, 1)  # the pair's noise has cancelled
    torch.testing.assert_close(whole[1].x, first, rtol=0, atol=1e-4)
    for k in (0, 1, 2):
        rest = run(whole[k].state)
        assert torch.equal(rest[-1].x, whole[-1].x) and len(rest) == 5 - k


@pytest.mark.parametrize("count", [1, 2])
def test_the_inits_share_is_in_the_result_also_after_a_kill(count):
    A, _ = dense_operator(VALUES)
    y, latents = A(like(2)), [like(3)]
    term = DataTerm(variance=1e6, init_share=0.25)  # a step of damping 0: none, for y = A(mean)
    restarts = Restarts(count=count)
    h = preset(chain_steps=4, restarts=restarts, init=Smooth(contrast=0.1), data_term=term)
    init = LinearTask(A, y, latents[0]).smooth(0.1)

    def solver(g, operator, y, z_0, h, on_step, state=None):
        yield Iterate("0_after", z_0.sign(), ends_outer=True)

    def run(state=None):
        return list(search(solver, Chain(None, 4, None, layers=1), A, y, latents, h, None, state))

    whole, g = run(), Chain(None, 4, None, layers=1)
    mean = sum(g.noised(init, sign * latents[0]).sign() for sign in (1, -1)[:count]) / count
    expected = term.result(LinearTask(A, y, latents[0]), init, mean, 0.1)
    torch.testing.assert_close(whole[-1].x, expected)
    plain = replace(term, init_share=0.0).result(LinearTask(A, y, latents[0]), init, mean, 0.1)
    assert not torch.allclose(expected, plain, atol=1e-3)
    assert len(whole) == count == len(h.iterations)
    assert count == 1 or torch.equal(run(whole[0].state)[-1].x, whole[-1].x)


def test_a_data_term_without_an_init_is_refused():
    with pytest.raises(UserError, match="init"):
        preset(data_term=DataTerm())


@pytest.mark.parametrize("count", [1, 2])
def test_the_target_is_the_init_after_a_proximal_step(monkeypatch, count):
    """The residual that the search minimises vanishes at the target's image, also after a kill."""
    residuals, sample = [], like(3)

    def solver(g, operator, y, z_0, h, on_step, state=None):
        residuals.append(operator(sample) - y)
        for t in range(2):
            yield Iterate(f"{t}_after", z_0, {"t": t}, ends_outer=True)

    A, _ = dense_operator(VALUES)
    y = A(like(2))
    monkeypatch.setattr("solvers.init.annealed", lambda *arguments: [sample])
    g = Chain(None, 3, SimpleNamespace(randn=lambda shape, device: like()))
    term = DataTerm(variance=0.05, target_variance=0.05)
    h = preset(init=Annealed(steps=5), data_term=term, restarts=Restarts(count=count))
    whole = list(search(solver, g, A, y, [like()], h, None))
    task = LinearTask(A, y, like())
    operator, zero = task.preconditioned(0.2, A(task.prox(sample, 0.2)))
    torch.testing.assert_close(residuals[0], operator(sample) - zero)
    list(search(solver, g, A, y, [like()], h, None, whole[0].state))
    assert all(torch.equal(one, residuals[0]) for one in residuals)
    assert len(residuals) == (2 if count == 1 else 3)


def test_without_noise_the_images_own_rounding_counts():
    """No weight of the measurement vanishes: the damping is ROUNDING^2 / variance."""
    A, _ = dense_operator(VALUES)
    y, latents = A(like(2)), [like(0)]
    h = preset(init=Smooth(), restarts=Restarts(count=2), data_term=DataTerm(variance=0.01))
    results = []
    for sigma in (0.0, ROUNDING, 0.1):
        iterates = search(
            echo, Chain(None, 3, None, layers=1), A, y, latents, replace(h, sigma=sigma), None
        )
        results.append(list(iterates)[-1].x)
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2], atol=1e-2)


def test_a_guided_estimate_moves_along_the_networks_correlations():
    """For Gaussian images, whose best estimate is linear, against the posterior mean."""
    A, M = dense_operator(6)
    root = torch.randn(VALUES, VALUES, generator=torch.Generator().manual_seed(6)) / VALUES**0.5
    covariance, sigma = 0.5 * root @ root.T, 0.1
    timestep = SimpleNamespace(abar=0.4)
    variance = (1 - timestep.abar) / timestep.abar
    gain = covariance @ torch.linalg.inv(covariance + variance * torch.eye(VALUES))
    z, y = like(4).requires_grad_(), A(like(2))
    x0_hat = (z.flatten(1) @ gain.T / timestep.abar**0.5).reshape(SHAPE)
    x = guided(LinearTask(A, y, like()), z, x0_hat, timestep, sigma).flatten(1)

    given_z, r = variance * gain, 1 / (1 / variance + 1 / PIXEL_VARIANCE)
    weights = torch.linalg.inv(r * M @ M.mT + sigma**2 * torch.eye(6))
    x0_hat = x0_hat.detach().flatten(1)
    residual = (y - A(x0_hat.reshape(SHAPE)))[..., None]
    expected = x0_hat + (given_z @ M.mT @ weights @ residual).squeeze(-1)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-3)
