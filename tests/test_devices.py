"""That every tensor of a method lies on the problem's device, found without a GPU, and what a program tells the system at its start."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import shortened
from test_solvers import TASKS
from torch._subclasses.fake_tensor import FakeTensorMode

import experiment.runner
from experiment.methods import OURS, load_method
from experiment.presets import load_hyperparameters, load_presets
from guided_diffusion import errors
from guided_diffusion.ddim import Chain
from guided_diffusion.measurements import load_measurement
from guided_diffusion.prior import frozen
from guided_diffusion.unet import create_model
from solvers import least_squares
from solvers.least_squares import silent
from solvers.search import search
from util import devices
from util.config import load_yaml
from util.rng import BatchRandom

TINY = dict(
    image_size=64,
    num_channels=8,
    num_res_blocks=1,
    channel_mult="1,1",
    learn_sigma=True,
    attention_resolutions="32",
    num_head_channels=8,
    resblock_updown=True,
    use_scale_shift_norm=True,
    norm_groups=4,
)
METHODS_AND_TASKS = [
    (method, preset, task, "fp32")
    for method in OURS
    for preset in load_presets(method)
    for task in TASKS
] + [(method, "paper", "inpainting", "bf16") for method in OURS]


@pytest.fixture
def no_backward(monkeypatch):
    """A gradient is zero, for fake tensors of a device that is not here cannot be sent backwards; two conjugate gradient steps do."""
    solve = least_squares.conjugate_gradients
    monkeypatch.setattr(
        least_squares,
        "conjugate_gradients",
        lambda apply, b, steps, *more: solve(apply, b, 2, *more),
    )
    monkeypatch.setattr(
        torch.autograd, "grad", lambda out, x, *more, **options: (torch.zeros_like(x),)
    )
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: None)
    monkeypatch.setattr(torch, "allclose", lambda *pair, **options: True)  # nor have they values
    monkeypatch.setattr(torch, "equal", lambda *pair: False)
    yield
    errors.cosines.cache_clear()  # these are fake ones


@pytest.mark.parametrize("method, preset, task, precision", METHODS_AND_TASKS)
def test_every_tensor_lies_on_the_device(no_backward, method, preset, task, precision):
    given = {"gradient_steps": 1} if method == "dmilo-pgd" else {}
    method = load_method(method)
    h = load_hyperparameters(method, task, preset, outer=1, inner=1)
    h = shortened(h, **given, **({"starts": min(h.starts, 2)} if h.starts > 1 else {}))
    operator, _ = load_measurement(load_yaml(TASKS[task]), TASKS[task], (64, 64), 64)
    rng = BatchRandom([1])
    g = Chain(None, h.chain_steps, rng, layers=h.layers)
    model = frozen(create_model(**TINY), "cpu", precision)
    with FakeTensorMode(allow_non_fake_inputs=True):
        device = torch.device("cuda")
        weights = {
            name: torch.empty_like(weight, device=device)
            for name, weight in model.state_dict().items()
        }
        g.model = lambda x, t: torch.func.functional_call(model, weights, (x, t))
        latents = [torch.empty(1, 3, 64, 64, device=device) for _ in range(max(1, h.searches))]
        A, _ = operator.draw(rng, device)
        for iterate in search(method.solver, g, A, A(latents[0]), latents, h, silent):
            assert iterate.x.device.type == "cuda" and iterate.x.shape == (1, 3, 64, 64)
    assert iterate.ends_outer


def test_freed_memory_is_kept_where_glibc_is(monkeypatch):
    told = []
    monkeypatch.setattr(
        ctypes,
        "CDLL",
        lambda name: type("C", (), {"mallopt": lambda self, *what: told.append(what)})(),
    )
    devices.keep_memory()
    assert dict(told) == {
        -1: 2_000_000_000,
        -3: 1_000_000_000,
    }  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h

    def no_glibc(name):
        raise OSError("not here")

    for other in (no_glibc, lambda name: object()):
        monkeypatch.setattr(ctypes, "CDLL", other)
        devices.keep_memory()  # silently nothing


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's glibc")
def test_a_large_block_stays_in_the_process():
    """A freed block of 300 MB is still resident, which without the two settings it is not."""
    program = (
        "import torch; from util.devices import keep_memory\n"
        "def resident():\n"
        "    x = torch.ones(75_000_000); del x\n"
        "    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmRSS')) // 1000\n"
        "print(resident()); keep_memory(); print(resident())"
    )
    freed, kept = map(
        int,
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.split(),
    )
    assert kept > freed + 250


@pytest.mark.parametrize(
    "gpu, asked, precision, tf32",
    [
        (True, None, "tf32", True),
        (True, "fp32", "fp32", False),
        (True, "bf16", "bf16", False),
        (False, None, "fp32", True),
        (False, "tf32", "tf32", True),
    ],
)
def test_a_gpu_computes_as_the_published_code_does_unless_it_is_told_otherwise(
    monkeypatch, gpu, asked, precision, tf32
):
    told = []

    def choose(cuda, allowed):
        told.append(allowed)
        return torch.device("cuda" if gpu else "cpu")

    monkeypatch.setattr(experiment.runner, "choose_device", choose)
    args = SimpleNamespace(cuda=0, precision=asked)
    device = experiment.runner.choose_device_and_precision(args, 1)
    assert (device.type == "cuda") == gpu and args.precision == precision and told == [tf32]


def control_group(folder, limit, taken, cache):
    """A control group's files below `folder`, in megabytes; limit: or "max"."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}000000\n" if limit != "max" else "max\n")
    (folder / "memory.current").write_text(f"{taken}000000\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}000000\nactive_file 7\n")


@pytest.mark.parametrize(
    "job, step, room",
    [
        ((8000, 3000, 0), (2000, 500, 0), [5000, 1500]),  # the step's own limit counts
        (
            (8000, 3000, 2000),
            ("max", 500, 0),
            [7000],
        ),  # pages of files are given back when memory is asked for
        (
            (8000, 9000, 0),
            (2000, 1900, 1950),
            [0, 2000],
        ),  # and no more than there is, and no less than nothing
        (("max", 3000, 0), ("max", 500, 0), []),
    ],
)
def test_every_control_group_from_the_process_up_leaves_its_room(tmp_path, job, step, room):
    (tmp_path / "membership").write_text("12:cpu:/elsewhere\n0::/slurm/job_1/step_0\n")
    control_group(tmp_path / "root" / "slurm" / "job_1", *job)
    control_group(tmp_path / "root" / "slurm" / "job_1" / "step_0", *step)
    found = devices.room_in_groups(tmp_path / "membership", tmp_path / "root")
    assert sorted(found) == sorted(1_000_000 * megabytes for megabytes in room)


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert devices.room_in_groups(tmp_path / "membership", tmp_path) == []
    (tmp_path / "membership").write_text("0::/../../outside\n")  # of a parent's name space
    assert devices.room_in_groups(tmp_path / "membership", tmp_path) == []


def test_available_memory_is_the_least_room(monkeypatch):
    monkeypatch.setattr(devices, "room_in_groups", lambda: [3e6, 5e6])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert devices.available_memory(torch.device("cpu")) == 1.5e6
