"""Operators and noises: known answers, and what a task file may say."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.kernels import blurring, mirrored_after
from guided_diffusion.measurements import load_measurement
from guided_diffusion.registry import NOISES, OPERATORS, noise, operator
from motionblur.motionblur import Kernel
from util.config import load_yaml, named_by
from util.files import UserError
from util.rng import BatchRandom

SIZE = 64
LINEAR = [
    "inpainting",
    "super_resolution",
    "demo/gaussian_deblur",
    "demo/motion_deblur",
    "demo/box_inpainting",
    "demo/turbulence",
    "denoising",
]


def measurement(task, seeds=(1, 2)):
    path = f"configs/tasks/{task}_config.yaml"
    operator, noise = load_measurement(load_yaml(path), path, (SIZE, SIZE), SIZE)
    rng = BatchRandom(seeds)
    return operator.draw(rng, "cpu")[0], noise, rng


def pictures(batch=2, seed=0, size=SIZE):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("task", LINEAR)
def test_linear(task):
    A, _, _ = measurement(task)
    u, v = pictures(seed=1), pictures(seed=2)
    torch.testing.assert_close(A(2 * u - 3 * v), 2 * A(u) - 3 * A(v), rtol=0, atol=2e-5)


@pytest.mark.parametrize("task", LINEAR + ["hdr", "phase_retrieval", "poisson_denoising"])
def test_an_image_by_itself(task):
    """What is measured of an image depends on its own seed alone, and on that it does depend."""
    x = pictures()
    A, noise, rng = measurement(task)
    together = noise(A(x), rng)
    for i, seed in enumerate((1, 2)):
        A, noise, rng = measurement(task, [seed])
        torch.testing.assert_close(
            together[i : i + 1], noise(A(x[i : i + 1]), rng), rtol=0, atol=1e-6
        )
    A, noise, rng = measurement(task, [3])
    assert (noise(A(x[:1]), rng) - together[:1]).abs().mean() > 1e-3


def test_random_mask_hides_seventy_percent_of_all_channels():
    A, _, _ = measurement("inpainting")
    mask = A(torch.ones(2, 3, SIZE, SIZE))
    assert ((mask == 0) | (mask == 1)).all() and (mask[:, :1] == mask).all()
    assert (mask[0, 0] == 0).sum() == int(0.7 * SIZE * SIZE)


def test_box_mask_hides_one_box_inside_the_margin():
    hidden = (
        1 - measurement("demo/box_inpainting", seeds=[123])[0](torch.ones(1, 3, SIZE, SIZE))[0, 0]
    )
    rows, columns = hidden.any(1).nonzero(), hidden.any(0).nonzero()
    assert len(rows) == len(columns) == 24 and hidden.sum() == 24 * 24
    assert (
        16 <= rows.min()
        and rows.max() < SIZE - 16
        and 16 <= columns.min()
        and columns.max() < SIZE - 16
    )
    extreme = measurement("demo/extreme_inpainting", seeds=[123])[0](torch.ones(1, 3, SIZE, SIZE))[
        0, 0
    ]
    assert torch.equal(extreme, hidden)


def test_super_resolution_keeps_constants_and_ramps():
    A, _, _ = measurement("super_resolution", seeds=[123])
    torch.testing.assert_close(
        A(torch.full((1, 3, SIZE, SIZE), 0.3)), torch.full((1, 3, 16, 16), 0.3)
    )
    ramp = torch.linspace(-1, 1, SIZE).expand(1, 3, SIZE, SIZE)
    expected = ramp.reshape(1, 3, SIZE, 16, 4).mean(-1)[:, :, ::4]
    torch.testing.assert_close(A(ramp)[..., 3:-3], expected[..., 3:-3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5, 16, 61])
def test_blur_is_cross_correlation_with_mirrored_border(k):
    x, kernels = pictures(), torch.rand(2, k, k, generator=torch.Generator().manual_seed(k))
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    padded = F.pad(x, [k // 2] * 4, mode="reflect")
    expected = torch.stack(
        [F.conv2d(p[:, None], kernel[None, None])[:, 0] for p, kernel in zip(padded, kernels)]
    )
    torch.testing.assert_close(blurring(kernels, (SIZE, SIZE))(x), expected, rtol=0, atol=1e-5)


def test_phase_retrieval_keeps_energy_and_forgets_a_half_turn():
    A, _, _ = measurement("phase_retrieval")
    x = pictures()
    y = A(x)
    assert y.shape == (2, 3, 96, 96)
    torch.testing.assert_close(y.square().sum(), x.square().sum())
    torch.testing.assert_close(A(x.flip(2, 3)), y, rtol=0, atol=1e-4)


def test_gaussian_noise_has_its_sigma():
    _, noise, rng = measurement("denoising")
    assert abs(noise(torch.zeros(2, 3, SIZE, SIZE), rng).std().item() - 0.2) < 0.005


def test_poisson_noise_has_the_mean_and_variance_of_counts():
    _, noise, rng = measurement("poisson_denoising", seeds=[123])
    y = noise(torch.zeros(1, 3, 256, 256), rng)  # [0, 1] value 0.5: 25.5 counts
    counts = (y + 1) / 2 * 255 * 0.2
    assert abs(counts.mean() - 25.5) < 0.1 and abs(counts.var() - 25.5) < 0.5
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-4)


def test_clean_is_clean():
    A, noise, rng = measurement("clean_inpainting")
    y = A(pictures())
    assert torch.equal(noise(y, rng), y)


@pytest.mark.parametrize("size", [(5, 5), (5, 9), (21, 21), (64, 64), (32, 80)])
@pytest.mark.parametrize("intensity", [0, 0.5, 1])
def test_motion_kernels_of_every_size_are_usable(size, intensity):
    for seed in range(5):
        kernel = Kernel(size, intensity, rng=np.random.RandomState(seed)).kernelMatrix
        assert kernel.shape == size[::-1] and np.isfinite(kernel).all() and (kernel >= 0).all()
        assert abs(kernel.sum() - 1) < 1e-9 and np.count_nonzero(kernel) > 1


@pytest.mark.parametrize(
    "size, intensity",
    [([64, 64], 0.5), ((64,), 0.5), ((0, 5), 0.5), ((5.0, 5), 0.5), ((5, 5), 1.1), ((5, 5), -1)],
)
def test_motion_kernel_refuses(size, intensity):
    with pytest.raises(ValueError):
        Kernel(size, intensity)


def test_motion_kernel_is_displayed_and_applied():
    kernel = Kernel((9, 5), 0.5, rng=np.random.RandomState(0))
    displayed = np.asarray(kernel.displayKernel(show=False))
    assert displayed.shape == (5, 9) and displayed.max() == 255
    point = np.zeros((31, 31), np.uint8)
    point[15, 15] = 255
    blurred = np.asarray(
        kernel.applyTo(point), float
    )  # without the border: the kernel itself, round the point
    assert blurred.shape == (27, 23)
    expected = np.zeros_like(blurred)
    expected[11:16, 7:16] = 255 * kernel.kernelMatrix
    assert np.abs(blurred - expected).max() <= 0.5 + 1e-6
    grey = np.full((12, 14, 3), 77, np.uint8)
    assert (np.asarray(kernel.applyTo(grey, keep_image_dim=True)) == grey).all()
    with pytest.raises(ValueError, match="smaller than the kernel"):
        kernel.applyTo(grey[:4])


@pytest.mark.parametrize("path", sorted(named_by("configs/tasks/{}_config.yaml").values()))
def test_shipped_task_files_are_valid_at_their_size(path):
    if "nonlinear" not in path:  # needs weights: test_nonlinear_blur
        load_measurement(load_yaml(path), path, (256, 256), 256)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda c: c.pop("measurement"), "measurement is missing"),
        (lambda c: c["measurement"].pop("noise"), "measurement.noise is missing"),
        (lambda c: c["measurement"]["noise"].pop("sigma"), "measurement.noise.sigma is missing"),
        (lambda c: c["measurement"]["noise"].update(sigma=-1), "measurement.noise.sigma is -1"),
        (
            lambda c: c["measurement"]["noise"].update(sigma="much"),
            "measurement.noise.sigma is 'much'",
        ),
        (
            lambda c: c["measurement"]["noise"].update(name="pink"),
            "one of gaussian, poisson, clean",
        ),
        (
            lambda c: c["measurement"]["noise"].update(sigmas=1),
            "measurement.noise.sigmas is not a known key",
        ),
        (lambda c: c.update(kernle=3), "kernle is not a known key"),
        (
            lambda c: c["measurement"]["operator"].update(name="paint"),
            "measurement.operator.name is 'paint'",
        ),
        (lambda c: c["measurement"].update(mask_opt=3), "measurement.mask_opt is 3"),
        (
            lambda c: c["measurement"]["mask_opt"].update(mask_prob_range=(0.7, 1.2)),
            "measurement.mask_opt.mask_prob_range",
        ),
        (
            lambda c: c["measurement"]["mask_opt"].update(mask_prob_range=("a", 1)),
            "measurement.mask_opt.mask_prob_range",
        ),
        (
            lambda c: c["measurement"]["mask_opt"].update(mask_type="hole"),
            "measurement.mask_opt.mask_type is 'hole'",
        ),
        (
            lambda c: c["measurement"]["mask_opt"].update(image_size=256),
            "measurement.mask_opt.image_size is 256",
        ),
    ],
)
def test_a_wrong_task_file_is_named(change, named):
    config = load_yaml("configs/tasks/inpainting_config.yaml")
    change(config)
    with pytest.raises(UserError, match="^task.yaml: .*" + named.replace(".", r"\.")):
        load_measurement(config, "task.yaml", (SIZE, SIZE), SIZE)


def test_kernel_larger_than_the_image_and_scale_that_does_not_divide():
    config = load_yaml("configs/tasks/gaussian_deblur_config.yaml")
    config["kernel_size"] = 128
    with pytest.raises(UserError, match="kernel_size is 128"):
        load_measurement(config, "task.yaml", (SIZE, SIZE), SIZE)
    config = load_yaml("configs/tasks/super_resolution_config.yaml")
    config["measurement"]["operator"]["scale_factor"] = 5
    with pytest.raises(UserError, match="scale_factor is 5, must be an integer that divides 64"):
        load_measurement(config, "task.yaml", (SIZE, SIZE), SIZE)


def test_a_side_of_one_pixel_is_mirrored_onto_itself():
    x = pictures()[..., :1]
    assert torch.equal(mirrored_after(x, 8, -1), x.expand(-1, -1, -1, 8))


@pytest.mark.parametrize("register, table", [(operator, OPERATORS), (noise, NOISES)])
def test_a_taken_name_is_refused_and_the_same_class_may_come_again(monkeypatch, register, table):
    monkeypatch.setattr("guided_diffusion.registry.OPERATORS", dict(OPERATORS))
    monkeypatch.setattr("guided_diffusion.registry.NOISES", dict(NOISES))

    def define(name):
        @register(name)
        class Mine:
            pass

        return Mine

    taken = next(iter(table))
    with pytest.raises(UserError, match=f"guided_diffusion.* {taken}"):
        define(taken)
    first, second = define("mine"), define("mine")  # a notebook's cell that is run again
    assert first is not second
