"""Floors of quality: each preset of ours on the images of data/demo, one thread.

Expected: PSNR in dB within 0.1 and LPIPS within 5 % of what was measured when the row was chosen
(`python dmilo.py --task TASK --preset PRESET --cuda -1`, the mean of both images).
"""

import dataclasses

import pytest
import torch

from experiment.methods import load_method
from experiment.metrics import Metrics
from experiment.presets import load_row
from experiment.problem import simulate
from experiment.restoration import draw_latents
from guided_diffusion.ddim import Chain
from guided_diffusion.measurements import load_measurement, load_task
from guided_diffusion.tiles import AnySize
from solvers.least_squares import silent
from solvers.search import search
from util.images import load_image
from util.rng import BatchRandom

NAMES = ("astronaut", "grace_hopper")
SIZE = 64
FLOORS = [  # method, preset, task file, PSNR, LPIPS
    ("pnp", "tuned", "inpainting", 26.74, 0.0308),
    ("antithetic", "tuned", "super_resolution", 23.21, 0.1652),
    ("pnp", "tuned", "demo/gaussian_deblur", 23.37, 0.2634),
    ("pnp", "tuned", "demo/motion_deblur", 29.08, 0.0114),
    ("denoiser", "tuned", "denoising", 29.20, 0.0200),
    ("dmilo", "fast", "inpainting", 27.24, 0.0236),
    ("dmilo", "fast", "super_resolution", 23.63, 0.1078),
    pytest.param("dmilo-pgd", "fast", "super_resolution", 23.63, 0.1078, marks=pytest.mark.slow),
    ("dmilo", "sharp", "inpainting", 26.95, 0.0176),
    ("posterior", "tuned", "inpainting", 25.16, 0.0218),
]


def restored(model, method, preset, path):
    """(mean PSNR in dB, mean LPIPS) of the last iterate."""
    path = f"configs/tasks/{path}_config.yaml"
    operator, noise = load_measurement(load_task(path), path, (SIZE, SIZE), SIZE)
    x = torch.cat([load_image(f"data/demo/{name}.png") for name in NAMES])
    rng = BatchRandom([123] * len(x))
    problem = simulate(NAMES, x, operator, noise, rng).problem
    method, task = load_method(method), path.split("/")[-1].removesuffix("_config.yaml")
    h = load_row(method, task, preset, dataset="demo")
    h = dataclasses.replace(h, sigma=problem.sigma)
    g = Chain(AnySize(model), h.chain_steps, rng, layers=h.layers)
    latents = draw_latents(rng, (3, SIZE, SIZE), h, "cpu")
    *_, last = search(method.solver, g, problem.operator, problem.y, latents, h, silent)
    metrics = Metrics("cpu")
    scores = [metrics(result, truth) for result, truth in zip(last.x, x)]
    return [sum(score[key] for score in scores) / len(x) for key in ("psnr", "lpips_alex")]


@pytest.mark.parametrize("method, preset, path, psnr, lpips", FLOORS)
def test_quality_holds(demo_model, one_alexnet, one_thread, method, preset, path, psnr, lpips):
    measured = restored(demo_model, method, preset, path)
    assert measured[0] == pytest.approx(psnr, abs=0.1)
    assert measured[1] == pytest.approx(lpips, rel=0.05)
