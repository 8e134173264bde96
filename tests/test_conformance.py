"""The same numbers as the authors' code, and their checkpoints' keys."""

import json
import os
import subprocess
import sys

import pytest
import torch

from bkse.models.kernel_encoding.kernel_wizard import KernelWizard
from guided_diffusion.unet import create_model
from util.config import load_yaml

GOLDEN = "tests/golden"


def shapes(module):
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("dataset", ["celeba", "ffhq", "bedroom", "imagenet"])
def test_checkpoint_keys_and_shapes(dataset):
    published = json.load(open(f"{GOLDEN}/checkpoint_shapes.json"))[dataset]
    with torch.device("meta"):
        model = create_model(**load_yaml(f"configs/model_config_{dataset}.yaml"))
    assert shapes(model) == published


def test_kernel_wizard_keys_and_shapes():
    with torch.device("meta"):
        wizard = KernelWizard(load_yaml("bkse/options/generate_blur/default.yml")["KernelWizard"])
    assert shapes(wizard) == json.load(open(f"{GOLDEN}/bkse_shapes.json"))


ROWS = {
    "units": 35,
    "inpainting": 9,
    "super_resolution": 9,
    "gaussian_deblur": 9,
    "motion_deblur": 9,
}


# Motion blur differs from Gaussian blur by the kernel alone, which the units have.
@pytest.mark.parametrize(
    "part",
    [
        pytest.param(part, marks=pytest.mark.slow) if part == "motion_deblur" else part
        for part in ROWS
    ],
)
def test_arrays_of_the_authors_code_part_by_part(script, one_thread, part):
    result = script("tests/conformance.py", GOLDEN, "--only", part)
    assert result.code == 0, result.out + result.err
    assert result.out.splitlines()[-1] == f"{ROWS[part]} of {ROWS[part]} rows ok"


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_arrays_of_the_authors_code(threads):
    result = subprocess.run(
        [sys.executable, "tests/conformance.py", GOLDEN],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": threads},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "71 of 71 rows ok"
