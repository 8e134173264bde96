"""The published 256 px configs and commands, with random weights of the published shapes."""

import json
import os

import numpy as np
import pytest
import torch
from conftest import edit
from PIL import Image

from bkse.models.kernel_encoding.kernel_wizard import KernelWizard
from guided_diffusion.prior import load_model_config, load_prior
from guided_diffusion.unet import create_model
from util.config import load_yaml
from util.files import UserError

CHECKPOINTS = {
    "celeba": "celebahq_p2.pt",
    "ffhq": "ffhq_10m.pt",
    "bedroom": "lsun_bedroom.pt",
    "imagenet": "imagenet.pt",
}
TASKS = ["super_resolution", "inpainting", "gaussian_deblur", "motion_deblur", "nonlinear_deblur"]


def make_checkpoint(dataset, path):
    torch.manual_seed(0)
    torch.save(create_model(**load_yaml(f"configs/model_config_{dataset}.yaml")).state_dict(), path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dataset, other",
    [("celeba", "imagenet"), ("ffhq", "bedroom"), ("bedroom", "ffhq"), ("imagenet", "celeba")],
)
def test_published_checkpoint_loads_and_another_ones_is_refused(workspace, dataset, other):
    make_checkpoint(dataset, f"models/{CHECKPOINTS[dataset]}")
    path = f"configs/model_config_{dataset}.yaml"
    model = load_prior(load_model_config(path), path, "cpu")
    assert not any(p.requires_grad for p in model.parameters())
    os.rename(f"models/{CHECKPOINTS[dataset]}", f"models/{CHECKPOINTS[other]}")
    path = f"configs/model_config_{other}.yaml"
    with pytest.raises(
        UserError, match=f"does not fit {path}; it fits .*model_config_{dataset}.yaml"
    ):
        load_prior(load_model_config(path), path, "cpu")


@pytest.fixture
def published(workspace):
    """The workspace with random weights for celeba and nonlinear blur, and one 256 px image."""
    make_checkpoint("celeba", "models/celebahq_p2.pt")
    options = load_yaml("bkse/options/generate_blur/default.yml")["KernelWizard"]
    weights = KernelWizard(options).state_dict()
    torch.save(weights, "bkse/experiments/pretrained/GOPRO_wVAE.pth")
    os.makedirs("data256")
    values = np.random.RandomState(0).randint(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(values).resize((256, 256), Image.BICUBIC).save("data256/0.png")
    # Else hours on a CPU.
    edit(workspace / "configs/dmilo-pgd.yaml", "gradient_steps: 1000", "gradient_steps: 3")
    return workspace


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dmilo", "dmilo-pgd"])
def test_published_commands_run(published, script, method):
    for task in TASKS:
        command = f"{method}.py --dataset celeba --task {task} -n 1 --outer 1 --inner 2 --cuda -1"
        result = script(f"{command} --data data256 --name run")
        assert result.code == 0, result.err
        summary = json.load(open(f"{method}/celeba/{task}/run/summary.json"))
        assert summary["images"] == 1 and np.isfinite(summary["final"]["psnr"]["mean"])
        assert summary["nfe_per_image"] == 3 + 3 * 2 + 3


PUBLISHED_FILES = {
    "inpainting": """
measurement:
  operator:
    name: inpainting
  mask_opt:
    mask_type: random
    mask_prob_range: !!python/tuple [0.7, 0.7]  # for random
    image_size: 64

  noise:
    name: gaussian
    sigma: 0.01
""",
    "super_resolution": """
measurement:
  operator:
    name: super_resolution
    in_shape: !!python/tuple [1, 3, 64, 64]
    scale_factor: 4

  noise:
    name: gaussian
    sigma: 0.01
""",
    "motion_deblur": """
kernel: motion
kernel_size: 64
intensity: 0.5

measurement:
  operator:
    kernel_size: 64
    name: blind_blur

  noise:
    name: gaussian
    sigma: 0.02
""",
}


@pytest.mark.usefixtures("tiny_prior")
@pytest.mark.parametrize("task", PUBLISHED_FILES)
def test_task_files_of_the_published_form_run_as_they_are(workspace, script, task):
    os.makedirs("configs/tasks/demo", exist_ok=True)
    (workspace / f"configs/tasks/demo/{task}_config.yaml").write_text(PUBLISHED_FILES[task])
    command = f"dmilo.py --task {task} -n 1 --outer 1 --inner 1 --cuda -1 --name run"
    result = script(command)
    assert result.code == 0, result.err
    if task == "motion_deblur":  # even kernels enlarge the measurement by 1 px, as published
        measurement = Image.open(f"dmilo/demo/{task}/run/images/astronaut/measurement.png")
        assert measurement.size == (65, 65)


@pytest.mark.usefixtures("tiny_prior")
@pytest.mark.parametrize(
    "task",
    [
        "box_inpainting",
        "extreme_inpainting",
        "clean_inpainting",
        "denoising",
        "poisson_denoising",
        "phase_retrieval",
    ],
)
@pytest.mark.parametrize("method", ["dmilo", "dmilo-pgd"])
def test_the_other_degradations_run(run_method, method, task):
    run = run_method(method, task, "-n", 1, iterations=("--outer", 1, "--inner", 2))
    assert np.isfinite(run.summary["final"]["psnr"]["mean"])


@pytest.mark.usefixtures("tiny_prior")
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_any_number_of_ddim_steps(run_method, steps):
    run = run_method(
        "dmilo", "inpainting", "-n", 1, "-c", steps, iterations=("--outer", 1, "--inner", 2)
    )
    assert run.summary["nfe_per_image"] == steps * (1 + 2 + 1)
