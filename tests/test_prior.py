"""The frozen network: same numbers, less memory; its precisions and its compilation."""

import copy

import pytest
import torch

from experiment.runner import choose_batch_size
from guided_diffusion.prior import frozen
from guided_diffusion.unet import create_model

SMALL = dict(
    image_size=32,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1,2",
    learn_sigma=True,
    attention_resolutions="16",
    num_head_channels=32,
    resblock_updown=True,
)


def small_network(use_scale_shift_norm, norm_groups=32):
    torch.manual_seed(0)
    model = create_model(
        **SMALL, use_scale_shift_norm=use_scale_shift_norm, norm_groups=norm_groups
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def output_and_gradient(model):
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = model(x, torch.tensor([333.0]))
    return out.detach(), torch.autograd.grad(out.square().mean(), x)[0]


@pytest.mark.parametrize("use_scale_shift_norm, norm_groups", [(True, 32), (False, 32), (True, 8)])
def test_a_frozen_network_gives_the_same_numbers(use_scale_shift_norm, norm_groups):
    model = small_network(use_scale_shift_norm, norm_groups)
    free = output_and_gradient(model)
    for ours, reference in zip(output_and_gradient(frozen(copy.deepcopy(model), "cpu")), free):
        torch.testing.assert_close(
            ours, reference, rtol=1e-4, atol=1e-4 * reference.abs().max().item()
        )


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_numbers():
    """Traced only, without machine code: some releases of PyTorch lose gradients there."""
    model = frozen(small_network(True), "cpu")
    torch.compiler.reset()
    for traced, reference in zip(
        output_and_gradient(torch.compile(model, backend="aot_eager")), output_and_gradient(model)
    ):
        torch.testing.assert_close(
            traced, reference, rtol=1e-4, atol=1e-4 * reference.abs().max().item()
        )


@pytest.mark.parametrize("given, groups", [({}, 32), ({"norm_groups": 8}, 8)])
def test_norm_groups_hold_for_every_norm(given, groups):
    norms = [
        m for m in create_model(**SMALL, **given).modules() if isinstance(m, torch.nn.GroupNorm)
    ]
    assert len(norms) > 10 and {norm.num_groups for norm in norms} == {groups}


def test_a_frozen_network_keeps_less_for_the_gradient():
    def kept(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.untyped_storage().data_ptr()) or t, lambda t: t
        ):
            x = torch.randn(1, 3, 32, 32, requires_grad=True)
            model(x, torch.tensor([333.0]))
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        return len(set(sizes) - weights)

    model = small_network(True)
    assert kept(frozen(copy.deepcopy(model), "cpu")) < 0.6 * kept(model)


def test_the_default_batch_size_on_the_cpu(demo_model):
    assert choose_batch_size(demo_model, (64, 64), torch.device("cpu")) == 4
    assert choose_batch_size(demo_model, (256, 256), torch.device("cpu")) == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--precision", "bf16"),
        ("--compile",),
    ],
)
@pytest.mark.slow
def test_other_precisions_stay_within_0_2_dB(run_method, options):
    fast = ("--preset", "fast", "--inner", 20)

    def psnr(name, *options):
        run = run_method("dmilo", "inpainting", *options, iterations=fast, name=name)
        return run.summary["final"]["psnr"]["mean"]

    reference = psnr("reference")
    assert reference > 20 and abs(psnr("other", *options) - reference) < 0.2


@pytest.mark.parametrize("prior", ["demo", "photo"])
def test_included_weights_load_without_a_gpu(prior):
    weights = torch.load(f"models/{prior}.pt", weights_only=True)
    assert {tensor.device.type for tensor in weights.values()} == {"cpu"}
