"""What only a GPU can show; skipped without one."""

import pytest
import torch
from test_solvers import faces, last_iterate

from experiment.methods import PAPER
from experiment.runner import choose_batch_size
from guided_diffusion.ddim import Chain
from guided_diffusion.prior import load_model_config, load_prior
from solvers.ilo import Hyperparameters, identity, optimise_layer
from solvers.least_squares import silent
from util.devices import choose_device

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
H = Hyperparameters(outer=1, inner=3, lr_z=0.02, lr_nu=0.001, weight_nu=0.1, weight_z=1e-4)
CONFIG = "configs/model_config_demo.yaml"


@pytest.fixture
def gpu_model():
    return load_prior(load_model_config(CONFIG), CONFIG, choose_device(0))


@pytest.mark.parametrize("method", PAPER)
@pytest.mark.parametrize("task", ["inpainting", "motion_deblur"])
def test_a_gpu_gives_what_the_cpu_gives(demo_model, gpu_model, method, task):
    x = faces()
    ours = last_iterate(gpu_model, method, task, x.cuda(), [123, 7]).cpu()
    assert (ours - last_iterate(demo_model, method, task, x, [123, 7])).abs().mean() < 3e-3


def test_the_inner_loop_never_waits_for_the_gpu(gpu_model):
    g, z = Chain(gpu_model, 3, rng=None), faces().cuda()
    optimise_layer(g[2], identity, z, z, torch.zeros_like(z), H, silent)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimise_layer(g[2], identity, z, z, torch.zeros_like(z), H, silent)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_inner_loop_can_be_captured(gpu_model):
    g, z = Chain(gpu_model, 3, rng=None), faces().cuda()
    nu = torch.zeros_like(z)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected, _ = optimise_layer(g[2], identity, z, z, nu, H, silent)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured, _ = optimise_layer(g[2], identity, z, z, nu, H, silent)
    graph.replay()
    torch.testing.assert_close(captured, expected, rtol=0, atol=1e-3)


def test_the_default_batch_fits_into_memory(gpu_model):
    batch = choose_batch_size(gpu_model, (64, 64), torch.device("cuda", 0))
    x = torch.zeros(batch, 3, 64, 64, device="cuda", requires_grad=True)
    gpu_model(x, torch.zeros(1, device="cuda")).sum().backward()
    assert batch > 4


@pytest.mark.parametrize(
    "options", [("--precision", "bf16"), ("--precision", "tf32"), ("--compile",)]
)
def test_other_precisions_stay_within_0_2_dB_on_a_gpu(run_method, options):
    fast = ("--preset", "fast", "--cuda", 0)

    def psnr(name, *options):
        run = run_method("dmilo", "inpainting", *options, iterations=fast, name=name)
        return run.summary["final"]["psnr"]["mean"]

    assert abs(psnr("other", *options) - psnr("reference", "--precision", "fp32")) < 0.2
