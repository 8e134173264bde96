import dataclasses
import functools
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

import experiment.library
import experiment.metrics
import experiment.runner
from experiment.methods import PAPER, module
from guided_diffusion.prior import frozen, load_model_config, load_prior
from guided_diffusion.unet import create_model
from solvers.preset import Preset

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
os.chdir(ROOT)


@pytest.fixture(autouse=True)
def no_inception(tmp_path, monkeypatch):
    """FID has no network unless a test puts one into TORCH_HOME."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def script(monkeypatch, capsys):
    """script("dmilo.py -t inpainting -l", path, …) runs a script, or a module by its dotted name,
    here -> its exit code, output and error lines. Only the first argument is split."""

    def run(command, *arguments):
        name, *first = command.split()
        monkeypatch.setattr(sys, "argv", [name, *first, *map(str, arguments)])
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
def run_method(script, tmp_path, one_alexnet):
    """run_method("dmilo", "inpainting", …) restores data/demo, by the paper's methods in a few
    iterations -> the run's folder and summary."""

    def run(method, task, *arguments, name="run", iterations=("--outer", 2, "--inner", 2)):
        logdir, is_paper = tmp_path / method, method in PAPER
        command = f"{module(method)}{'.py' if is_paper else ''} -t {task} --name {name} --cuda -1"
        result = script(command, "-l", logdir, *(iterations if is_paper else ()), *arguments)
        assert result.code == 0, result.err
        folder = logdir / "demo" / task / name
        summary = json.loads((folder / "summary.json").read_text())
        return SimpleNamespace(folder=folder, summary=summary, **vars(result))

    return run


@pytest.fixture(scope="session")
def demo_model():
    path = "configs/model_config_demo.yaml"
    return load_prior(load_model_config(path), path, torch.device("cpu"))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The current directory becomes a copy of the project, whose configs, checkpoints and images a
    test may change."""
    root = os.getcwd()
    rooms = "experiment baselines bench photographs report samplers solvers guided_diffusion"
    for name in f"{rooms} motionblur util data".split():
        os.symlink(os.path.join(root, name), tmp_path / name)
    # Python searches beside the script itself, not beside a link.
    for name in ("dmilo.py", "dmilo-pgd.py", "restore.py", "reproduce.py", "benchmark.py"):
        shutil.copy(name, tmp_path)
    shutil.copytree("configs", tmp_path / "configs")
    shutil.copytree("bkse", tmp_path / "bkse")
    os.makedirs(tmp_path / "models")
    os.makedirs(tmp_path / "black")
    Image.new("RGB", (256, 256)).save(tmp_path / "black" / "0.png")
    for prior in ("demo", "photo"):
        shutil.copy(f"models/{prior}.pt", tmp_path / "models")
    shutil.copy("models/alexnet_features.pt", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("util.files.PROJECT", str(tmp_path))
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# An untrained network for images of demo.pt's size, five times faster.
TINY = dict(
    image_size=64,
    num_channels=8,
    num_res_blocks=1,
    channel_mult="1,1,1,1",
    learn_sigma=True,
    attention_resolutions=8,
    num_head_channels=8,
    resblock_updown=True,
    use_scale_shift_norm=True,
    norm_groups=4,
)


def tiny_network():
    """Random weights, including those that are zero before training."""
    model, generator = create_model(**TINY), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1, generator=generator)
    return model


@pytest.fixture(scope="session")
def tiny_model():
    return frozen(tiny_network(), "cpu")


@pytest.fixture(scope="session")
def alexnet():
    """LPIPS, loaded once."""
    return functools.cache(experiment.metrics.load_lpips)


@pytest.fixture
def one_alexnet(alexnet, monkeypatch):
    """Runs in this process share the LPIPS of a session."""
    monkeypatch.setattr(experiment.metrics, "load_lpips", alexnet)


@pytest.fixture
def tiny_prior(one_alexnet, monkeypatch):
    """Runs in this process use the tiny network as their prior."""

    def load(config, path, device, precision="fp32"):
        return frozen(tiny_network(), device, precision)

    monkeypatch.setattr(experiment.runner, "load_prior", load)


def shortened(h, **given):
    """A row with all its stages, of at most 3 x 2 steps; `given` replaces its values."""
    if isinstance(h, Preset):
        init = h.init and shortened(h.init)
        restarts = dataclasses.replace(h.restarts, inner=min(h.restarts.inner, 2))
        hyperparameters = shortened(h.hyperparameters, **given)
        return dataclasses.replace(h, hyperparameters=hyperparameters, init=init, restarts=restarts)
    most = {"outer": 3, "inner": 2, "steps": 2}
    short = {key: min(getattr(h, key), n) for key, n in most.items() if hasattr(h, key)}
    return dataclasses.replace(h, **{**short, **given})


@pytest.fixture
def short_searches(monkeypatch):
    """Presets keep all their stages, restarts and samples, but these are short."""
    for room in (experiment.library, experiment.runner):
        load = room.load_row
        monkeypatch.setattr(
            room, "load_row", lambda *args, load=load, **given: shortened(load(*args, **given))
        )


def put_tiny_prior(root):
    """The tiny network becomes both priors of a workspace, also for other processes."""
    for prior in ("demo", "photo"):
        (root / "configs" / f"model_config_{prior}.yaml").write_text(
            yaml.safe_dump({**TINY, "model_path": f"models/{prior}.pt"})
        )
        torch.save(tiny_network().state_dict(), root / "models" / f"{prior}.pt")


@pytest.fixture
def commands_in_process(one_alexnet, monkeypatch):
    """Python processes of a script's subprocess.run run in this process; torchrun does not,
    but its errors are captured."""
    run = subprocess.run

    def run_here(command, **options):
        if command[0] != sys.executable:
            return run(command, **options)
        if "torch.distributed.run" in command:
            done = run(command, stderr=subprocess.PIPE, text=True, **options)
            print(done.stderr, file=sys.stderr)
            return done
        is_module = command[1] == "-m"
        name, argv, code = command[1 + is_module], sys.argv, 0
        sys.argv = command[1 + is_module :]
        try:
            (runpy.run_module if is_module else runpy.run_path)(name, run_name="__main__")
        except SystemExit as exit:
            code = exit.code or 0
        finally:
            sys.argv = argv
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(subprocess, "run", run_here)


def no_network(*arguments, **options):
    """In place of a download."""
    raise OSError("<urlopen error [Errno -2] Name or service not known>")


@pytest.fixture
def port(monkeypatch):
    """A free port for torchrun, in its environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = str(free.getsockname()[1])
    monkeypatch.setenv("PET_MASTER_PORT", number)
    return number


@pytest.fixture
def one_thread():
    """Sums are rounded as with OMP_NUM_THREADS=1."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
