import json
import os
import runpy
import sys
from types import SimpleNamespace

import pytest
import torch

from guided_diffusion.unet import create_model
from util.config import load_yaml

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
os.chdir(ROOT)


@pytest.fixture
def script(monkeypatch, capsys):
    """script("dmilo.py", "--task", …) runs a script in this process -> its exit code, output and error lines."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(name, run_name="__main__")
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
        result = script(f"{method}.py", "-t", task, "-l", logdir, "--run", name, "--cuda", -1, *iterations, *arguments)
        assert result.code == 0, result.err
        folder = logdir / "demo" / task / name
        return SimpleNamespace(folder=folder, summary=json.loads((folder / "summary.json").read_text()), **vars(result))

    return run


@pytest.fixture(scope="session")
def demo_model():
    model = create_model(**load_yaml("configs/model_config_demo.yaml"))
    model.load_state_dict(torch.load("models/demo.pt", weights_only=True))
    return model.eval().requires_grad_(False)
