"""Nonlinear tasks: proximal steps, the best of annealed samples, ambiguous measurements."""

import json

import numpy as np
import pytest
import torch
from test_search import SHAPE, VALUES, dense_operator, echo, like, preset

from experiment.folder import Folder
from experiment.problem import Case
from experiment.recorder import ImageRecord
from guided_diffusion.ddim import Chain
from guided_diffusion.kernels import smooth_field, warping
from guided_diffusion.measurements import PhaseRetrieval, load_measurement
from report.pictures import measurement_picture
from solvers.annealing import best_of
from solvers.init import Annealed, Smooth
from solvers.least_squares import is_linear, silent
from solvers.method import Iterate
from solvers.nonlinear import NonlinearTask
from solvers.search import search
from util.config import load_yaml
from util.files import UserError
from util.rng import BatchRandom


def operator_of(task, size=64):
    path = f"configs/tasks/{task}_config.yaml"
    return load_measurement(load_yaml(path), path, (size, size), size)[0].draw(
        BatchRandom([1, 2]), "cpu"
    )[0]


def test_the_curvature_is_the_largest_singular_value_squared():
    A, M = dense_operator(20)
    result = NonlinearTask(A, A(like(2)), like()).curvature(like(3)).flatten()
    wanted = torch.linalg.matrix_norm(M, 2) ** 2
    assert (result <= 1.01 * wanted).all() and (
        result > 0.75 * wanted
    ).all()  # accelerated steps converge above 0.75


def test_gradient_steps_find_what_linear_algebra_finds():
    A, M = dense_operator(20)
    x, y, damping = like(5), A(like(2)), 0.1
    result = NonlinearTask(A, y, like()).prox(x, damping, steps=200).flatten(1)
    normal = M.mT @ M + damping * torch.eye(VALUES)
    wanted = torch.linalg.solve(normal, (M.mT @ y[..., None]).squeeze(-1) + damping * x.flatten(1))
    torch.testing.assert_close(result, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("task", ["hdr", "phase_retrieval"])
def test_a_picture_is_drawn_to_what_is_not_linear(task):
    A = operator_of(task)
    # x in hdr's range: beyond it there is no gradient.
    truth, x = (
        scale * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(n))
        for n, scale in enumerate((0.5, 0.1))
    )
    result = NonlinearTask(A, A(truth), x).prox(x, 1e-3)

    def error(u):
        return (A(u) - A(truth)).square().flatten(1).mean(1)

    assert not is_linear(A, x) and (error(result) < 0.05 * error(x)).all()


@pytest.mark.parametrize("scale", [1e-6, 1e-4, 1.0, 1e7])
def test_whether_an_operator_is_linear_does_not_depend_on_its_scale(scale):
    M = torch.randn(3 * 64, 5000, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert is_linear(lambda x: scale * (x.flatten(1) @ M), x)
    assert not is_linear(lambda x: scale * x.tanh(), x)
    assert not is_linear(lambda x: scale * (x + 1), x)


def test_an_operator_that_gives_nothing_is_linear():
    assert is_linear(lambda x: 0 * x, torch.ones(1, 3, 8, 8))


def test_of_several_samples_every_image_keeps_the_one_that_explains_it_best():
    truth = like(2)
    near, far = truth + 0.1, truth + 1
    mixed = [torch.stack([near[0], far[1]]), torch.stack([far[0], near[1]])]
    best = best_of(mixed, NonlinearTask(torch.tanh, torch.tanh(truth), truth))
    assert torch.equal(best, near)


def test_a_sample_that_is_not_finite_explains_nothing():
    truth = like(2)
    broken, near = truth.clone(), truth + 0.1
    broken[0] = float("nan")
    best = best_of([broken, near], NonlinearTask(torch.tanh, torch.tanh(truth), truth))
    assert torch.equal(best, torch.stack([near[0], truth[1]]))


def test_every_annealed_sample_is_counted():
    y, latents = torch.tanh(like(2)), [like(0)]
    for samples in (1, 3):
        g = Chain(lambda x, t: 0.1 * x, 3, BatchRandom([1, 2]))
        h = preset(init=Annealed(steps=4, samples=samples))
        list(search(echo, g, torch.tanh, y, latents, h, silent))
        assert g.nfe == 4 * samples


def test_smoothness_is_refused_for_a_nonlinear_operator():
    h = preset(init=Smooth())
    with pytest.raises(UserError, match="not linear"):
        list(search(echo, Chain(None, 3, None), torch.tanh, like(2), [like(0)], h, silent))


def test_hdr_loses_what_is_bright_and_dark():
    x = torch.tensor([-1.0, -0.5, -0.2, 0.0, 0.3, 0.5, 0.9]).expand(1, 3, 64, 7)
    assert torch.equal(
        operator_of("hdr")(x)[0, 0, 0], torch.tensor([-1.0, -1.0, -0.4, 0.0, 0.6, 1.0, 1.0])
    )


def test_the_measure_of_turbulence_is_its_tilt_and_its_blur():
    field = smooth_field((64, 48), 1.5, 6.0, np.random.RandomState(0))
    assert field.shape == (2, 64, 48) and np.square(field).mean() == pytest.approx(1.5**2)
    assert np.abs(np.diff(field, axis=-1)).max() < 1  # smooth: no pixel overtakes its neighbour
    x = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    shift = torch.stack([torch.full((64, 48), 2.0), torch.full((64, 48), -3.0)])[None]
    torch.testing.assert_close(warping(shift)(x)[..., :-2, 3:], x[..., 2:, :-3], rtol=0, atol=1e-4)
    A = operator_of("demo/turbulence")
    torch.testing.assert_close(
        A(torch.full(SHAPE[:2] + (64, 64), 0.3)),
        torch.full(SHAPE[:2] + (64, 64), 0.3),
        rtol=0,
        atol=1e-4,
    )


def test_the_image_nearest_to_the_truth_is_scored_and_saved(tmp_path):
    truth = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def metrics(x, reference):
        error = (x - reference).square().mean().item()
        return {"psnr": -error, "ssim": 0.0, "lpips_alex": 0.0}

    case = Case("a", truth, 0.01, {}, truth, PhaseRetrieval.nearest)
    record = ImageRecord(Folder(str(tmp_path)), case, metrics, "discrepancy", True)
    residuals = {"residual": 0.0, "misfit": 0.0, "structure": 0.0}
    for name, x in (("0_after", truth.flip(-2, -1)), ("1_after", truth)):
        record.add(Iterate(name, None, ends_outer=True), x, residuals, 1, 1.0)
    kept = json.loads(json.dumps(record.finish(1.0, 2, {})))
    assert kept["turned"] == [True, False] and kept["psnr"] == [0.0, 0.0]
    final, origin = (tmp_path / "images" / "a" / f"{name}.png" for name in ("final", "origin"))
    assert final.read_bytes() == origin.read_bytes()


def test_a_measurement_that_is_no_picture_is_image_as_one():
    y = torch.arange(12.0).reshape(3, 4)
    image = measurement_picture(y)
    assert image.shape == (1, 4, 4) and image.flatten()[[0, 11, 15]].tolist() == [-1, 1, 1]
    assert torch.equal(measurement_picture(torch.zeros(3, 5, 7)), torch.zeros(3, 5, 7))
