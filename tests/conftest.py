import json
import os
import runpy
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from guided_diffusion.prior import load_model_config, load_prior

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
os.chdir(ROOT)


@pytest.fixture(autouse=True)
def no_inception(tmp_path, monkeypatch):
    """FID has no network unless a test puts one into TORCH_HOME."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def script(monkeypatch, capsys):
    """script("dmilo.py", "--task", …) runs a script, or a module by its dotted name, in this process -> its exit code,
    output and error lines."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            if name.endswith(".py"):
                runpy.run_path(name, run_name="__main__")
            else:
                runpy.run_module(name, run_name="__main__")
        except SystemExit as exit:
            code = exit.code
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


@pytest.fixture
def run_method(script, tmp_path):
    """run_method("dmilo", "inpainting", …) runs a few iterations on data/demo -> the run's folder and summary."""

    def run(method, task, *arguments, name="run", iterations=("--outer", 2, "--inner", 2)):
        logdir = tmp_path / method
        result = script(f"{method}.py", "-t", task, "-l", logdir, "--name", name, "--cuda", -1, *iterations, *arguments)
        assert result.code == 0, result.err
        folder = logdir / "demo" / task / name
        return SimpleNamespace(folder=folder, summary=json.loads((folder / "summary.json").read_text()), **vars(result))

    return run


@pytest.fixture(scope="session")
def demo_model():
    path = "configs/model_config_demo.yaml"
    return load_prior(load_model_config(path), path, torch.device("cpu"))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The current directory becomes a copy of the project whose configs, checkpoints and images are ours to spoil."""
    root = os.getcwd()
    for name in ("experiment", "baselines", "solvers", "guided_diffusion", "motionblur", "util", "data"):
        os.symlink(os.path.join(root, name), tmp_path / name)
    for name in ("dmilo.py", "dmilo-pgd.py", "reproduce.py", "benchmark.py"):  # Python looks beside the script itself, not beside a link
        shutil.copy(name, tmp_path)
    shutil.copytree("configs", tmp_path / "configs")
    shutil.copytree("bkse", tmp_path / "bkse")
    os.makedirs(tmp_path / "models")
    os.makedirs(tmp_path / "black")
    Image.new("RGB", (256, 256)).save(tmp_path / "black" / "0.png")
    shutil.copy("models/demo.pt", tmp_path / "models")
    shutil.copy("models/alexnet_features.pt", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("util.files.PROJECT", str(tmp_path))
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
