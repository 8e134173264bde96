"""nonlinear_deblur with made weights of the published shape."""

import os

import pytest
import torch

from bkse.models.kernel_encoding.kernel_wizard import KernelWizard
from guided_diffusion.measurements import load_measurement
from util.config import load_yaml
from util.files import UserError
from util.rng import BatchRandom

TASK = "configs/tasks/nonlinear_deblur_config.yaml"


@pytest.fixture(scope="module")
def made_weights(tmp_path_factory):
    """A checkpoint of the published keys and shapes."""
    torch.manual_seed(0)
    wizard = KernelWizard(load_yaml("bkse/options/generate_blur/default.yml")["KernelWizard"])
    path = tmp_path_factory.mktemp("bkse") / "GOPRO_wVAE.pth"
    torch.save(wizard.state_dict(), path)
    return path


@pytest.fixture
def weights(made_weights, tmp_path, monkeypatch):
    """A link to it in a project of our own, the current directory."""
    os.makedirs(tmp_path / "bkse/experiments/pretrained")
    os.symlink(os.path.abspath("bkse/options"), tmp_path / "bkse/options")
    os.symlink(os.path.abspath("configs"), tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("util.files.PROJECT", str(tmp_path))
    path = tmp_path / "bkse/experiments/pretrained/GOPRO_wVAE.pth"
    os.symlink(made_weights, path)
    return path


@pytest.mark.parametrize("size, batch", [(128, 2), (256, 1)])
def test_blurs_with_a_code_that_fits_the_image(weights, size, batch):
    operator, _ = load_measurement(load_yaml(TASK), TASK, (size, size), size)
    A, _ = operator.draw(BatchRandom([123] * batch), "cpu")
    x = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        y = A(x)
    assert y.shape == x.shape and y.abs().max() <= 1 and (y - x).abs().mean() > 1e-4
    code = 1.2 * torch.randn(
        1, 512, size // 128, size // 128, generator=torch.Generator().manual_seed(123)
    )
    with torch.no_grad():
        expected = 2 * operator.wizard.adaptKernel((x + 1) / 2, code) - 1
    torch.testing.assert_close(y, expected.clamp(-1, 1), rtol=0, atol=1e-5)


def test_missing_and_foreign_weights_are_named(weights):
    os.remove(weights)
    torch.save({"a": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match="GOPRO_wVAE.pth: is not the checkpoint"):
        load_measurement(load_yaml(TASK), TASK, (256, 256), 256)
    os.remove(weights)
    with pytest.raises(UserError, match="GOPRO_wVAE.pth: no such checkpoint"):
        load_measurement(load_yaml(TASK), TASK, (256, 256), 256)
