"""Tasks that are not linear: gradient steps to the measurement, several annealed samples, and pictures that no measurement tells apart."""

import json

import numpy as np
import pytest
import torch
from test_search import PIXELS, SHAPE, dense_operator, like, shown

from experiment.recorder import ImageRecord
from guided_diffusion.ddim import Chain
from guided_diffusion.kernels import smooth_field, warping
from guided_diffusion.measurements import PhaseRetrieval, load_measurement
from report.pictures import measurement_picture
from solvers.annealing import explaining_best
from solvers.least_squares import is_linear, silent
from solvers.nonlinear import NonlinearTask
from solvers.search import Staged, search
from solvers.starts import Annealed, Smooth
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
    found = NonlinearTask(A, A(like(2)), like()).curvature(like(3)).flatten()
    wanted = torch.linalg.matrix_norm(M, 2) ** 2
    assert (found <= 1.01 * wanted).all() and (
        found > 0.75 * wanted
    ).all()  # accelerated steps converge above 0.75


def test_gradient_steps_find_what_linear_algebra_finds():
    A, M = dense_operator(20)
    x, y, damping = like(5), A(like(2)), 0.1
    found = NonlinearTask(A, y, like()).drawn_to(x, damping, steps=200).flatten(1)
    normal = M.mT @ M + damping * torch.eye(PIXELS)
    wanted = torch.linalg.solve(normal, (M.mT @ y[..., None]).squeeze(-1) + damping * x.flatten(1))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("task", ["hdr", "phase_retrieval"])
def test_a_picture_is_drawn_to_what_is_not_linear(task):
    A = operator_of(task)
    # Begun within hdr's range: beyond it there is no gradient.
    truth, x = (
        scale * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(n))
        for n, scale in enumerate((0.5, 0.1))
    )
    found = NonlinearTask(A, A(truth), x).drawn_to(x, 1e-3)
    misfit = lambda u: (A(u) - A(truth)).square().flatten(1).mean(1)
    assert not is_linear(A, x) and (misfit(found) < 0.05 * misfit(x)).all()


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
    best = explaining_best(mixed, NonlinearTask(torch.tanh, torch.tanh(truth), truth))
    assert torch.equal(best, near)


def test_a_sample_that_is_not_finite_explains_nothing():
    truth = like(2)
    broken, near = truth.clone(), truth + 0.1
    broken[0] = float("nan")
    best = explaining_best([broken, near], NonlinearTask(torch.tanh, torch.tanh(truth), truth))
    assert torch.equal(best, torch.stack([near[0], truth[1]]))


def test_an_annealed_start_of_several_runs_is_counted():
    eps = lambda x, t: 0.1 * x
    y, latents = torch.tanh(like(2)), [like(0)]
    for runs in (1, 3):
        g = Chain(eps, 3, BatchRandom([1, 2]))
        list(
            search(
                shown,
                g,
                torch.tanh,
                y,
                latents,
                Staged(start=Annealed(steps=4, runs=runs), sigma=0.1),
                silent,
            )
        )
        assert g.evaluations == 4 * runs


def test_smoothness_is_refused_where_a_task_is_not_linear():
    with pytest.raises(UserError, match="not linear"):
        list(
            search(
                shown,
                Chain(None, 3, None),
                torch.tanh,
                like(2),
                [like(0)],
                Staged(start=Smooth(contrast=0.1)),
                silent,
            )
        )


def test_hdr_loses_what_is_bright_and_dark():
    x = torch.tensor([-1.0, -0.5, -0.2, 0.0, 0.3, 0.5, 0.9]).expand(1, 3, 64, 7)
    assert torch.equal(
        operator_of("hdr")(x)[0, 0, 0], torch.tensor([-1.0, -1.0, -0.4, 0.0, 0.6, 1.0, 1.0])
    )


def test_the_measure_of_turbulence_is_its_tilt_and_its_blur():
    field = smooth_field((64, 48), 1.5, 6.0, np.random.RandomState(0))
    assert field.shape == (2, 64, 48) and np.square(field).mean() == pytest.approx(1.5**2)
    assert np.abs(np.diff(field, axis=-1)).max() < 1  # smooth: no pixel passes its neighbour
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


def test_the_better_turn_is_counted_shown_and_said(tmp_path):
    truth = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    psnr = lambda x, reference: {
        "psnr": -(x - reference).square().mean().item(),
        "ssim": 0.0,
        "lpips_alex": 0.0,
    }
    record = ImageRecord(
        tmp_path, "a", truth, {}, truth, psnr, 0.01, PhaseRetrieval.nearest, "discrepancy", True
    )
    left = {"residual": 0.0, "misfit": 0.0, "structure": 0.0}
    record.add("0_after", truth.flip(-2, -1), True, left, 1, 1.0)
    record.add("1_after", truth, True, left, 1, 1.0)
    kept = json.loads(json.dumps(record.finish(1.0, 2, {})))
    assert kept["turned"] == [True, False] and kept["psnr"] == [0.0, 0.0]
    assert (tmp_path / "images/a/final.png").read_bytes() == (
        tmp_path / "images/a/origin.png"
    ).read_bytes()


def test_a_measurement_that_is_no_picture_is_shown_as_one():
    y = torch.arange(12.0).reshape(3, 4)
    shown = measurement_picture(y)
    assert shown.shape == (1, 4, 4) and shown.flatten()[[0, 11, 15]].tolist() == [-1, 1, 1]
    assert torch.equal(measurement_picture(torch.zeros(3, 5, 7)), torch.zeros(3, 5, 7))
