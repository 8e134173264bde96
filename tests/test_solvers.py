"""The chain and both methods on the built-in prior."""

import dataclasses

import pytest
import torch
from conftest import tiny_network

from bench.costs import count_nfe
from experiment.methods import PAPER, load_method
from experiment.presets import load_row
from experiment.problem import simulate
from experiment.restoration import draw_latents
from guided_diffusion.ddim import Chain, chain_timesteps, ddim_step
from guided_diffusion.measurements import load_measurement
from guided_diffusion.prior import frozen
from solvers.ilo import Hyperparameters, identity, optimise_layer
from solvers.least_squares import silent
from solvers.search import search
from util.config import load_yaml
from util.images import load_image
from util.rng import BatchRandom

TASKS = {
    name: f"configs/tasks/{folder}{name}_config.yaml"
    for name, folder in [
        ("inpainting", ""),
        ("super_resolution", ""),
        ("gaussian_deblur", "demo/"),
        ("motion_deblur", "demo/"),
    ]
}


def faces():
    return torch.cat(
        [load_image(f"data/demo/{name}.png", 64) for name in ("astronaut", "grace_hopper")]
    )


def last_iterate(model, method, task, x, seeds, eta=0.0, **given):
    method = load_method(method)
    h = load_row(method, task, given={"outer": 1, "inner": 2})
    h = dataclasses.replace(h, hyperparameters=dataclasses.replace(h.hyperparameters, **given))
    operator, noise = load_measurement(load_yaml(TASKS[task]), TASKS[task], (64, 64), 64)
    rng = BatchRandom(seeds)
    problem = simulate(["image"] * len(x), x, operator, noise, rng).problem
    g = Chain(model, h.chain_steps, rng, eta, h.layers)
    latents = draw_latents(rng, x.shape[1:], h, x.device)
    *_, last = search(method.solver, g, problem.operator, problem.y, latents, h, silent)
    return last.x


def batch_cases():
    """(method, task, eta, settings); the published thousand gradient steps on a blur are slow."""
    for method in PAPER:
        for task in TASKS:
            many = method == "dmilo-pgd" and task.endswith("deblur")
            yield method, task, 0.0, {"gradient_steps": 50} if many else {}
            if many:
                yield pytest.param(method, task, 0.0, {}, marks=pytest.mark.slow)
    yield "dmilo", "inpainting", 0.5, {}


@pytest.mark.parametrize("method, task, eta, given", batch_cases())
def test_an_image_in_a_batch_is_the_image_alone(tiny_model, method, task, eta, given):
    # Convolutions may round differently by batch size, which the first layer magnifies up to 157
    # times: the network sees one image at a time, all else must be equal to the last bit.
    def one_by_one(x, t):
        return torch.cat([tiny_model(image[None], t) for image in x])

    x, seeds = faces(), [123, 7]
    together = last_iterate(one_by_one, method, task, x, seeds, eta, **given)
    for i in range(2):
        alone = last_iterate(one_by_one, method, task, x[i : i + 1], seeds[i : i + 1], eta, **given)
        assert torch.equal(together[i : i + 1], alone)


@torch.no_grad()
def test_the_network_sees_each_image_of_a_batch_by_itself(demo_model):
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([333.0])
    alone = torch.cat([demo_model(image[None], t) for image in x])
    assert (demo_model(x, t) - alone).abs().max() < 1e-4


MAIN_TASKS = ("inpainting", "super_resolution", "gaussian_deblur", "motion_deblur")


@pytest.mark.parametrize("method", PAPER)
@pytest.mark.parametrize("task", load_yaml("configs/dmilo.yaml")["fast"])
def test_the_fast_preset_takes_few_network_evaluations(method, task):
    """75 in the tasks of the paper, 150 elsewhere, 300 in blind deblurring."""
    most = {"blind_deblur": 300, **dict.fromkeys(MAIN_TASKS, 75)}.get(task, 150)
    assert most // 2 <= count_nfe(method, "fast", task) <= most


def test_eta_and_the_seed_change_the_result(tiny_model):
    x = faces()[:1]
    plain = last_iterate(tiny_model, "dmilo", "inpainting", x, [123])
    assert (
        last_iterate(tiny_model, "dmilo", "inpainting", x, [123], eta=0.5) - plain
    ).abs().mean() > 1e-2
    assert (last_iterate(tiny_model, "dmilo", "inpainting", x, [7]) - plain).abs().mean() > 1e-2


@pytest.mark.parametrize(
    "prepared, wanted",
    [(lambda model: frozen(model, "cpu"), False), (lambda model: model.eval(), True)],
)
def test_a_frozen_prior_gets_no_gradient(prepared, wanted):
    """And one that is not frozen does: the test can fail."""
    model = prepared(tiny_network())
    last_iterate(model, "dmilo", "inpainting", faces()[:1], [123])
    assert any(p.grad is not None for p in model.parameters()) == wanted


def test_optimise_layer_lowers_the_loss_it_states():
    target = torch.rand(2, 3, 8, 8)
    h = Hyperparameters(outer=1, inner=200, lr_z=0.05, lr_nu=0.001, weight_nu=0.1, weight_z=1e-4)
    losses = []
    z, nu = optimise_layer(
        lambda z: z,
        identity,
        target,
        torch.zeros_like(target),
        torch.zeros_like(target),
        h,
        lambda step, steps, loss: losses.append(loss.item()),
    )
    assert len(losses) == 200
    assert losses[0] == pytest.approx(target.square().flatten(1).mean(1).sum().item(), rel=1e-5)
    assert losses[-1] < 0.01 * losses[0]
    torch.testing.assert_close(z, target, rtol=0, atol=0.05)


def test_timesteps():
    assert chain_timesteps(3) == [999, 666, 333]
    assert chain_timesteps(4) == [999, 750, 500, 250]
    assert chain_timesteps(7)[0] == 994
    for bad in (0, 1001):
        with pytest.raises(ValueError):
            chain_timesteps(bad)


def test_a_perfect_network_gives_back_the_image():
    """With the true noise as eps, a step to abar_prev = 1 is x_0, to another its noised x_0."""
    x0, eps = faces(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x = 0.5**0.5 * x0 + 0.5**0.5 * eps
    torch.testing.assert_close(ddim_step(x, eps, 0.5, 1.0), x0, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        ddim_step(x, eps, 0.5, 0.8), 0.8**0.5 * x0 + 0.2**0.5 * eps, rtol=0, atol=1e-4
    )


PUBLISHED = [  # the paper's code: method, task, lr_z, lr_x, outer, inner
    ("dmilo", "inpainting", 2e-2, None, 5, 200),
    ("dmilo", "super_resolution", 1e-2, None, 5, 1000),
    ("dmilo", "gaussian_deblur", 8e-3, None, 10, 300),
    ("dmilo", "motion_deblur", 8e-3, None, 10, 300),
    ("dmilo", "nonlinear_deblur", 1e-2, None, 10, 200),
    ("dmilo-pgd", "inpainting", 2e-2, 0.5, 5, 200),
    ("dmilo-pgd", "super_resolution", 1e-2, 8, 10, 400),
    ("dmilo-pgd", "gaussian_deblur", 2e-2, 2, 5, 500),
    ("dmilo-pgd", "motion_deblur", 2e-2, 2, 5, 500),
    ("dmilo-pgd", "nonlinear_deblur", 2e-2, 0.3, 10, 200),
]


@pytest.mark.parametrize("method, task, lr_z, lr_x, outer, inner", PUBLISHED)
def test_the_hyperparameters_are_the_published_ones(method, task, lr_z, lr_x, outer, inner):
    row = load_row(load_method(method), task)
    h = row.hyperparameters
    assert row.is_published and not h.decay and h.chain_steps == 3
    assert (h.lr_z, h.outer, h.inner, h.lr_nu, h.weight_nu, h.weight_z) == (
        lr_z,
        outer,
        inner,
        1e-3,
        0.1,
        1e-4,
    )
    if lr_x:
        squared = task in ("inpainting", "super_resolution")
        assert (h.lr_x, h.gradient_steps, h.norm_power) == (
            lr_x,
            1 if squared else 1000,
            2 if squared else 1,
        )
