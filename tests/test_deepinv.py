"""deepinv's operators in task files and in `restore`; DMILO as its Reconstructor."""

import json
import sys

import pytest
import torch
from test_solvers import faces

import experiment.library
from dmilo import restore
from guided_diffusion.measurements import load_measurement
from guided_diffusion.physics import in_our_range
from util.config import load_yaml
from util.files import UserError
from util.rng import BatchRandom

TASKS = ["demosaicing", "compressed_sensing", "tomography", "decolorize", "single_pixel"]


@pytest.fixture
def deepinv():
    return pytest.importorskip("deepinv")


@pytest.fixture
def tiny(tiny_model, monkeypatch):
    monkeypatch.setattr(experiment.library, "network", lambda prior, device: (tiny_model, 64))


def operator_of(config):
    operator, _ = load_measurement(
        {"measurement": {"operator": config, "noise": {"name": "clean"}}}, "task.yaml", (64, 64), 64
    )
    return operator.draw(BatchRandom([1]), "cpu")[0]


def test_a_missing_deepinv_is_one_line(script, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepinv", None)
    result = script("dmilo.py --task tomography --cuda -1 -l", tmp_path)
    [line] = result.err.splitlines()
    assert result.code == 2 and "pip install deepinv" in line


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_shipped_task_is_linear_in_our_range(deepinv, task):
    path = f"configs/tasks/demo/{task}_config.yaml"
    A = load_measurement(load_yaml(path), path, (64, 64), 64)[0].draw(BatchRandom([1]), "cpu")[0]
    u, v = torch.randn(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(A(2 * u - 3 * v), 2 * A(u) - 3 * A(v), rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_physics_is_the_task_in_the_other_range(deepinv):
    """A physics with y in [0, 1] equals its operator with y converted to [-1, 1]."""
    physics = deepinv.physics.Demosaicing(img_size=(3, 64, 64))
    x = faces()[:1]
    y = physics.A((x + 1) / 2)
    ours = restore(2 * y - physics.A(torch.ones_like(x)), lambda x: physics.A(x), 0.02)
    torch.testing.assert_close(restore(y, physics, 0.01), ours, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_nonlinear_physics_in_our_range(deepinv):
    physics = deepinv.physics.Physics(lambda u, **kwargs: u.square())
    A = in_our_range(physics)
    x = faces()[:1]
    torch.testing.assert_close(A(x), 2 * ((x + 1) / 2).square())


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, problem",
    [
        ({"physics": "Paint"}, "physics is Paint"),
        ({"physics": "Demosaicing", "patern": "bayer"}, "physics Demosaicing fails"),
        ({"physics": "CompressedSensing"}, "physics CompressedSensing fails"),
        ({}, "physics is missing"),
    ],
)
def test_an_invalid_physics_is_a_user_error(deepinv, config, problem):
    with pytest.raises(UserError, match="^task.yaml: measurement.operator." + problem):
        operator_of({"name": "deepinv", **config})


@pytest.mark.slow
def test_a_task_of_deepinvs_is_restored_by_the_command_line(deepinv, script, tmp_path, tiny_prior):
    command = "dmilo.py --task demosaicing --preset fast -n 1 --name r --cuda -1 -l"
    result = script(command, tmp_path)
    assert result.code == 0, result.err
    summary = json.loads((tmp_path / "demo" / "demosaicing" / "r" / "summary.json").read_text())
    assert summary["images"] == 1 and summary["final"]["residual"]["mean"] < 0.1


def test_diffpir_of_deepinv_says_what_to_install(script, tmp_path, tiny_prior, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepinv", None)
    command = "baselines.deepinv_diffpir --task inpainting --preset tuned -n 1 --cuda -1 -l"
    result = script(command, tmp_path)
    assert result.code == 2 and "pip install deepinv" in result.err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["demosaicing", "motion_deblur"])
def test_diffpir_of_deepinv_is_as_accurate_as_ours(deepinv, script, tmp_path, task):
    """With the same settings and the real prior; the noises differ."""
    psnr = []
    for method in ("deepinv_diffpir", "diffpir"):
        command = f"baselines.{method} --task {task} --preset tuned -c 100 --name r --cuda -1 -l"
        result = script(command, tmp_path / method)
        assert result.code == 0, result.err
        path = tmp_path / method / "demo" / task / "r" / "summary.json"
        psnr.append(json.loads(path.read_text())["final"]["psnr"]["mean"])
    assert abs(psnr[0] - psnr[1]) < 2 and psnr[0] > 24


@pytest.mark.slow
def test_deepinv_tests_dmilo_as_one_of_its_reconstructors(deepinv):
    """With the prior itself."""
    from reconstructor import DMILO

    physics = deepinv.physics.Demosaicing(
        img_size=(3, 64, 64), noise_model=deepinv.physics.GaussianNoise(0.005)
    )
    loader = torch.utils.data.DataLoader([(x + 1) / 2 for x in faces()], batch_size=2)
    scores = deepinv.test(
        DMILO(sigma=0.005),
        loader,
        physics,
        metrics=[deepinv.metric.PSNR()],
        online_measurements=True,
        device="cpu",
        verbose=False,
    )
    assert scores["PSNR"] > 30
