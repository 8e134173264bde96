"""Smooth least squares, the preconditioned measurement and the mean over several starts, against dense linear algebra."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from guided_diffusion.ddim import Chain
from solvers.aims import Aim
from solvers.annealing import PIXEL_VARIANCE, guided
from solvers.ilo import Hyperparameters
from solvers.least_squares import ROUNDING, LinearTask, conjugate_gradients
from solvers.method import Iterate
from solvers.search import Pass, Staged, search
from solvers.starts import Annealed, Smooth
from util.files import UserError

SHAPE = (2, 3, 4, 4)
PIXELS = 3 * 4 * 4


def dense_operator(rows, seed=0):
    """A random linear operator, one matrix for every image, and these (2, rows, PIXELS)."""
    matrices = (
        torch.randn(2, rows, PIXELS, generator=torch.Generator().manual_seed(seed)) / PIXELS**0.5
    )
    return lambda x: (matrices @ x.flatten(1)[..., None]).squeeze(-1), matrices


def like(seed=1):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def test_conjugate_gradients_solve_each_image_by_itself():
    A, M = dense_operator(PIXELS)
    normal = M.mT @ M + 0.1 * torch.eye(PIXELS)
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


def test_preconditioned_is_the_misfit_weighted_by_its_covariance():
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


def test_a_picture_is_drawn_to_the_measurement_as_far_as_its_variance_says():
    A, M = dense_operator(20)
    x, y, damping = like(5), A(like(2)), 0.1
    found = LinearTask(A, y, like()).drawn_to(x, damping).flatten(1)
    normal = M.mT @ M + damping * torch.eye(PIXELS)
    wanted = torch.linalg.solve(normal, (M.mT @ y[..., None]).squeeze(-1) + damping * x.flatten(1))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


def test_what_is_not_linear_is_refused():
    with pytest.raises(UserError, match="not linear"):
        LinearTask(torch.abs, like(), like())


def shown(g, operator, y, z_0, h, on_step, state=None):
    """A solver that gives back where it begins."""
    yield Iterate("init", 0 * z_0)
    yield Iterate("0_after", z_0, ends_outer=True)


def test_several_starts_are_averaged_in_opposite_pairs():
    latents = [like(n) for n in range(4)]
    g = Chain(None, 3, None)
    results = list(search(shown, g, lambda x: x, like(), latents, Staged(starts=3), None))
    assert [name for name, *_ in results] == ["init", "0_after", "1_after", "2_after"]
    assert results[2][1].abs().max() == 0
    torch.testing.assert_close(results[-1][1], latents[1] / 3)
    assert [
        name for name, *_ in search(shown, g, lambda x: x, like(), latents, Staged(), None)
    ] == ["init", "0_after"]


PASSES = dict(outer=1, inner=9, lr_z=1.0, lr_nu=1.0, weight_nu=0.0, weight_z=0.0)


def test_each_pass_begins_at_what_the_one_before_has_found_and_goes_on_after_a_kill():
    seen = []

    def solver(g, operator, y, z_0, h, on_step, state=None):
        seen.append((g.levels[0].t, h.inner))
        yield Iterate("0_after", z_0 / g.levels[0].abar ** 0.5, ends_outer=True)

    before = (Pass(chain_steps=4, starts=2, inner=3), Pass(chain_steps=5, starts=1, inner=5))
    h = Hyperparameters(
        **PASSES,
        sigma=0.1,
        layers=1,
        before=before,
        chain_steps=7,
        start=Smooth(contrast=0.1),
        aim=Aim(variance=0.01),
    )
    A, _ = dense_operator(PIXELS)
    y, latents = A(like(2)), [like(n) for n in range(2)]
    whole = list(search(solver, Chain(None, 7, None, layers=1), A, y, latents, h, None))
    assert seen == [(250, 3), (250, 3), (200, 5), (142, 9)] and h.searches == len(whole) == 4
    task = LinearTask(A, y, latents[0])
    first = task.drawn_to(task.smooth(0.1), 1.0).clamp(-1, 1)  # the pair's noise has cancelled
    torch.testing.assert_close(whole[1][1], first, rtol=0, atol=1e-4)
    for k in (0, 1, 2):
        rest = list(
            search(solver, Chain(None, 7, None, layers=1), A, y, latents, h, None, whole[k][2])
        )
        assert torch.equal(rest[-1][1], whole[-1][1]) and len(rest) == 3 - k


@pytest.mark.parametrize("starts", [1, 2])
def test_a_share_of_the_start_is_in_the_result_and_stays_there_after_a_kill(starts):
    A, _ = dense_operator(PIXELS)
    y, latents = A(like(2)), [like(3)]
    h = Hyperparameters(
        **PASSES,
        sigma=0.1,
        chain_steps=4,
        layers=1,
        starts=starts,
        start=Smooth(contrast=0.1),
        aim=Aim(start_share=0.25),
    )
    picture = LinearTask(A, y, latents[0]).smooth(0.1)

    def solver(g, operator, y, z_0, h, on_step, state=None):
        yield Iterate("0_after", z_0.sign(), ends_outer=True)

    def found(state=None):
        return list(search(solver, Chain(None, 4, None, layers=1), A, y, latents, h, None, state))

    whole, g = found(), Chain(None, 4, None, layers=1)
    mean = sum(g.noised(picture, sign * latents[0]).sign() for sign in (1, -1)[:starts]) / starts
    torch.testing.assert_close(whole[-1].x, 0.75 * mean + 0.25 * picture)
    assert len(whole) == starts == len(h.parts)
    assert starts == 1 or torch.equal(found(whole[0].state)[-1].x, whole[-1].x)


def test_a_share_of_no_start_is_refused():
    with pytest.raises(UserError, match="start_share"):
        Staged(aim=Aim(start_share=0.5))


@pytest.mark.parametrize("starts", [1, 2])
def test_after_an_annealed_start_the_search_explains_what_the_measurement_is_trusted_for(
    monkeypatch, starts
):
    explained = []

    def solver(g, operator, y, z_0, h, on_step, state=None):
        explained.append(y)
        for t in range(2):
            yield Iterate(f"{t}_after", z_0, {"t": t}, ends_outer=True)

    A, _ = dense_operator(PIXELS)
    y, sample = A(like(2)), like(3)
    monkeypatch.setattr("solvers.starts.annealed", lambda *arguments: [sample])
    g = Chain(None, 3, SimpleNamespace(randn=lambda shape, device: like()))
    h = Hyperparameters(
        **PASSES, sigma=0.1, start=Annealed(steps=5), aim=Aim(sample_variance=0.05), starts=starts
    )
    whole = list(search(solver, g, A, y, [like()], h, None))
    wanted = A(LinearTask(A, y, like()).drawn_to(sample, 0.2))
    torch.testing.assert_close(explained[0], wanted)
    list(
        search(solver, g, A, y, [like()], h, None, whole[0][2])
    )  # a run that goes on knows it without the sample
    assert all(torch.equal(one, explained[0]) for one in explained) and len(explained) == (
        2 if starts == 1 else 3
    )
    list(search(solver, g, A, y, [like()], replace(h, aim=Aim()), None))
    assert torch.equal(explained[-1], y)


def test_a_pass_explains_what_the_mean_before_it_is_trusted_for():
    explained, means = [], []

    def solver(g, operator, y, z_0, h, on_step, state=None):
        explained.append(y)
        means.append(z_0)
        yield Iterate("0_after", z_0, ends_outer=True)

    A, _ = dense_operator(PIXELS)
    y = A(like(2))
    h = Hyperparameters(
        **PASSES,
        sigma=0.1,
        aim=Aim(sample_variance=0.05),
        before=2 * (Pass(chain_steps=3, starts=1, inner=1),),
        starts=1,
    )
    states = [
        iterate.state
        for iterate in search(solver, Chain(None, 3, None), A, y, [like(), like(1)], h, None)
    ]
    assert torch.equal(explained[0], y)
    task = LinearTask(A, y, like())
    for mean, aim in zip(means, explained[1:]):
        torch.testing.assert_close(aim, A(task.drawn_to(mean, 0.2)))
    list(search(solver, Chain(None, 3, None), A, y, [like(), like(1)], h, None, states[1]))
    assert torch.equal(explained[-1], explained[2]) and len(explained) == 4


def test_without_noise_the_pictures_own_rounding_is_trusted():
    """No weight of the measurement vanishes: the damping is ROUNDING^2 / variance."""
    A, _ = dense_operator(PIXELS)
    y, latents = A(like(2)), [like(0)]
    h = Staged(starts=2, aim=Aim(variance=0.01))
    told = [
        list(search(shown, Chain(None, 3, None), A, y, latents, replace(h, sigma=sigma), None))[-1][
            1
        ]
        for sigma in (0.0, ROUNDING, 0.1)
    ]
    assert torch.equal(told[0], told[1]) and not torch.allclose(told[0], told[2], atol=1e-2)


def test_a_guided_guess_is_moved_along_what_the_network_ties_together():
    """For pictures of normal distribution, whose best guess is linear, against the posterior mean."""
    A, M = dense_operator(6)
    root = torch.randn(PIXELS, PIXELS, generator=torch.Generator().manual_seed(6)) / PIXELS**0.5
    covariance, sigma = 0.5 * root @ root.T, 0.1
    level = SimpleNamespace(abar=0.4)
    spread = (1 - level.abar) / level.abar
    gain = covariance @ torch.linalg.inv(covariance + spread * torch.eye(PIXELS))
    z, y = like(4).requires_grad_(), A(like(2))
    x0 = (z.flatten(1) @ gain.T / level.abar**0.5).reshape(SHAPE)
    found = guided(LinearTask(A, y, like()), z, x0, level, sigma).flatten(1)

    open_still, r = spread * gain, 1 / (1 / spread + 1 / PIXEL_VARIANCE)
    weights = torch.linalg.inv(r * M @ M.mT + sigma**2 * torch.eye(6))
    x0 = x0.detach().flatten(1)
    wanted = x0 + (open_still @ M.mT @ weights @ (y - A(x0.reshape(SHAPE)))[..., None]).squeeze(-1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)
