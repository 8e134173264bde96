"""The devices of tensors, tested without a GPU, and memory."""

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
from experiment.methods import PAPER, load_method
from experiment.presets import load_presets, load_row
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
    for method in (*PAPER, "pnp", "antithetic", "posterior", "fast_dips", "admm")
    for preset in load_presets(method)
    for task in TASKS
] + [(method, "paper", "inpainting", "bf16") for method in PAPER]


@pytest.fixture
def no_backward(monkeypatch):
    """Gradients are zero: fake tensors of a missing device have none. Two steps of CG."""
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
    monkeypatch.setattr(torch, "allclose", lambda *pair, **options: True)
    monkeypatch.setattr(torch, "equal", lambda *pair: False)
    yield
    errors.cosines.cache_clear()


@pytest.mark.parametrize("method, preset, task, precision", METHODS_AND_TASKS)
def test_every_tensor_is_on_the_device(no_backward, method, preset, task, precision):
    given = {"gradient_steps": 1} if method == "dmilo-pgd" else {}
    short = {"outer": 1, "inner": 1} if method in PAPER else {}
    method = load_method(method)
    h = shortened(load_row(method, task, preset, given=short), **given)
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
        latents = [torch.empty(1, 3, 64, 64, device=device) for _ in range(h.latents)]
        A, _ = operator.draw(rng, device)
        for iterate in search(method.solver, g, A, A(latents[0]), latents, h, silent):
            assert iterate.x.device.type == "cuda" and iterate.x.shape == (1, 3, 64, 64)
    assert iterate.ends_outer


def test_freed_memory_is_kept_where_glibc_is(monkeypatch):
    options, returned = {}, []
    glibc = SimpleNamespace(mallopt=options.__setitem__, malloc_trim=returned.append)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: glibc)
    devices.keep_memory()
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    assert options == {-1: 2_000_000_000, -3: 1_000_000_000} and returned == [0]

    def no_glibc(name):
        raise OSError("not here")

    for other in (no_glibc, lambda name: object()):
        monkeypatch.setattr(ctypes, "CDLL", other)
        devices.keep_memory()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's glibc")
def test_a_large_block_stays_in_the_process():
    """A freed block of 300 MB stays resident only after keep_memory()."""
    program = (
        "import torch; from util.devices import keep_memory\n"
        "def resident():\n"
        "    x = torch.ones(75_000_000); del x\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('VmRSS'))\n"
        "print(resident()); keep_memory(); print(resident())"
    )
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    freed, kept = map(int, output.split())
    assert kept > freed + 250_000


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
def test_a_gpu_uses_tf32_as_the_published_code_by_default(monkeypatch, gpu, asked, precision, tf32):
    tf32_allowed = []

    def choose(cuda, allowed):
        tf32_allowed.append(allowed)
        return torch.device("cuda" if gpu else "cpu")

    monkeypatch.setattr(experiment.runner, "choose_device", choose)
    args = SimpleNamespace(cuda=0, precision=asked)
    compute = experiment.runner.choose_compute(args)
    assert (compute.device.type == "cuda") == gpu
    assert compute.precision == precision and tf32_allowed == [tf32]


def control_group(folder, limit, taken, cache):
    """A control group's files below `folder`, in megabytes; limit: or "max"."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}000000\n" if limit != "max" else "max\n")
    (folder / "memory.current").write_text(f"{taken}000000\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}000000\nactive_file 7\n")


@pytest.mark.parametrize(
    "job, step, room",
    [
        ((8000, 3000, 0), (2000, 500, 0), [5000, 1500]),
        ((8000, 3000, 2000), ("max", 500, 0), [7000]),  # inactive pages of files are free
        ((8000, 9000, 0), (2000, 1900, 1950), [0, 2000]),  # between zero and the limit
        (("max", 3000, 0), ("max", 500, 0), []),
    ],
)
def test_room_in_control_groups(tmp_path, job, step, room):
    (tmp_path / "membership").write_text("12:cpu:/elsewhere\n0::/slurm/job_1/step_0\n")
    control_group(tmp_path / "root" / "slurm" / "job_1", *job)
    control_group(tmp_path / "root" / "slurm" / "job_1" / "step_0", *step)
    free = devices.room_in_groups(tmp_path / "membership", tmp_path / "root")
    assert sorted(free) == sorted(1_000_000 * megabytes for megabytes in room)


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert devices.room_in_groups(tmp_path / "membership", tmp_path) == []
    (tmp_path / "membership").write_text("0::/../../outside\n")  # of a parent's name space
    assert devices.room_in_groups(tmp_path / "membership", tmp_path) == []


def test_available_memory_is_the_least_room(monkeypatch):
    monkeypatch.setattr(devices, "room_in_groups", lambda: [3e6, 5e6])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert devices.available_memory(torch.device("cpu")) == 1.5e6
