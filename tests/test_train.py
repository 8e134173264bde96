"""train.py: what it writes can be loaded, and a kill costs nothing but time."""

import copy
import io
import os
import subprocess
import sys
import weakref
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import training.data
from guided_diffusion.ddim import linear_alphas_cumprod
from guided_diffusion.prior import build_model, load_model_config
from guided_diffusion.unet import create_model
from train import noise_prediction_loss
from training.data import SIGMAS, cut_patches, draw_timesteps, patch_box, training_batch
from training.optimizer import Muon, Optimizer, learning_rate_factor

CONFIG = """
image_size: 16
num_channels: 32
num_res_blocks: 1
channel_mult: "1,1"
learn_sigma: True
attention_resolutions: 8
num_head_channels: 32
use_scale_shift_norm: True
resblock_updown: True
model_path: unused.pt
"""


@pytest.fixture
def train(script, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for name in ("astronaut.png", "grace_hopper.png"):
            archive.write(f"data/demo/{name}", f"folder/{name}")

    def run(out, steps, *more, data="faces.zip"):
        return script(
            "train.py",
            "--config",
            tmp_path / "config.yaml",
            "--data",
            tmp_path / data,
            "--out",
            tmp_path / out,
            "--steps",
            steps,
            "--batch-size",
            2,
            "--cuda",
            -1,
            *more,
        )

    return run


def test_trains_and_writes_a_bare_state_dict_samples_and_errors(train, tmp_path):
    result = train("model.pt", 3)
    assert result.code == 0 and "--held-out" in result.err
    assert os.path.isfile(tmp_path / "model_samples.png")
    assert "2 training images" in (tmp_path / "model_errors.csv").read_text()
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert state["out.2.weight"].any() and "input_blocks.0.0.weight" in state
    assert all(v.device.type == "cpu" for v in state.values())


def test_errors_are_measured_on_held_out_images(train, tmp_path):
    Image.open("data/demo/astronaut.png").rotate(90).save(tmp_path / "other.png")
    (tmp_path / "others").mkdir()
    os.replace(tmp_path / "other.png", tmp_path / "others" / "other.png")
    result = train("model.pt", 1, "--held-out", tmp_path / "others")
    assert result.code == 0 and "--held-out" not in result.err
    table = (tmp_path / "model_errors.csv").read_text()
    assert "1 held-out images" in table
    assert train("model.pt", 1, "--only-errors").code == 0
    assert (tmp_path / "model_errors.csv").read_text() != table


def test_the_average_keeps_no_graph(train, monkeypatch):
    copies = []
    deepcopy = copy.deepcopy
    monkeypatch.setattr(
        copy, "deepcopy", lambda x, *more: copies.append(deepcopy(x, *more)) or copies[-1]
    )
    assert train("model.pt", 2).code == 0
    average = next(x for x in copies if isinstance(x, torch.nn.Module))
    assert not any(p.requires_grad for p in average.parameters())


@pytest.mark.parametrize(
    "more", [(), ("--patches", 5, "--patch", 32, "--grey", 0.5)], ids=["pictures", "patches"]
)
def test_a_killed_training_goes_on_and_ends_the_same(train, tmp_path, monkeypatch, more):
    assert train("whole.pt", 6, *more).code == 0

    class Killed(Exception):
        pass

    steps = 0
    forward = torch.nn.utils.clip_grad_norm_

    def kill_at_the_fifth_step(*arguments):
        nonlocal steps
        steps += 1
        if steps == 5:
            raise Killed
        return forward(*arguments)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", kill_at_the_fifth_step)
    monkeypatch.setattr("time.time", iter(range(0, 10**6, 500)).__next__)  # saves at every step
    with pytest.raises(Killed):
        train("killed.pt", 6, *more)
    assert not [
        name for name in os.listdir(tmp_path) if name.startswith(".")
    ]  # no half-written file
    again = train("killed.pt", 6, *more)
    assert again.code == 0 and "resuming from step 4" in again.out
    whole, killed = (
        torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "killed.pt")
    )
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_one_step_moves_every_weight_about_as_far_as_the_learning_rate_says(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    torch.manual_seed(0)
    model = build_model(load_model_config(tmp_path / "config.yaml"), "config.yaml")
    optimizer = Optimizer(model, lr=1e-3)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step(0.5)
    for name, p in model.named_parameters():
        moved = (p.detach() - before[name]).square().mean().sqrt().item()
        assert 0.5e-4 < moved < 1e-3, (
            name
        )  # Muon's updates have an RMS of 0.2, AdamW's first ones of 1
        assert p.grad is None, name


def test_seed_rank_and_step_decide_what_is_drawn():
    images = torch.randint(256, (9, 3, 4, 4), dtype=torch.uint8)

    def draw(*of):
        return training_batch(images, 2, *of, torch.device("cpu"))

    assert all(map(torch.equal, draw(5, 1, 7), draw(5, 1, 7)))
    for other in ((6, 1, 7), (5, 0, 7), (5, 1, 8)):
        assert not torch.equal(draw(*other)[1], draw(5, 1, 7)[1])


def test_timesteps_cover_small_noise_evenly_and_the_methods_chains():
    t = draw_timesteps(100_000, torch.Generator().manual_seed(0))

    def share(chosen):
        return chosen.float().mean().item()

    assert t.min() >= 0 and t.max() <= 999
    assert share((t >= 100) & (t < 350)) > 0.25 and share(t == 999) == pytest.approx(0.05, abs=0.01)
    sigma = SIGMAS[t]
    for low in (0.01, 0.02, 0.04, 0.08, 0.16):  # noise of 2 to 50 of 255 is 0.016 to 0.39
        assert share((sigma >= low) & (sigma < 2 * low)) > 0.07


@pytest.fixture
def pictures(tmp_path):
    """A folder of images whose red and green encode the position, and blue the image."""
    (tmp_path / "pictures").mkdir()
    for n, (width, height) in enumerate([(300, 200), (40, 90), (16, 24)]):
        y, x = np.mgrid[:height, :width]
        Image.fromarray(
            np.stack([x * 255 // width, y * 255 // height, 0 * x + 100 * n], -1).astype(np.uint8)
        ).save(tmp_path / "pictures" / f"{n}.png")
    return tmp_path / "pictures"


def test_patches_come_from_every_picture_and_place_and_from_the_seed(pictures):
    patches = cut_patches(pictures, 16, 300, 0)
    assert patches.shape == (300, 3, 16, 16) and patches.dtype == torch.uint8
    assert torch.equal(patches, cut_patches(pictures, 16, 300, 0)) and not torch.equal(
        patches, cut_patches(pictures, 16, 300, 1)
    )
    blue = patches[:, 2].float().mean((1, 2))
    for n in range(3):
        assert ((blue - 100 * n).abs() < 1).sum() == 100
    of_first = patches[blue < 1].float()
    for channel in range(2):  # left and right, above and below
        middles = of_first[:, channel].mean((1, 2))
        assert middles.min() < 50 and middles.max() > 200


def test_patches_are_of_every_scale_and_lie_within_the_picture():
    rng = np.random.default_rng(0)
    boxes = np.array([patch_box(1000, 700, 64, rng) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 1000 and bottom.max() <= 700
    sides = right - left
    assert np.allclose(sides, bottom - top)
    for scale in (1, 2, 4):  # evenly: each octave has a third
        assert np.mean((sides >= 64 * scale) & (sides <= 128 * scale)) == pytest.approx(
            1 / 3, abs=0.05
        )
    for width, height in ((100, 300), (64, 70)):  # no larger than the picture
        sides = np.array([patch_box(width, height, 64, rng) for _ in range(500)]) @ [-1, 0, 1, 0]
        assert sides.min() >= 64 - 1e-9 and sides.max() <= width + 1e-9


def test_patches_hold_one_picture_at_a_time(pictures, monkeypatch):
    opened_images, most = [], 0
    opened = training.data.open_rgb

    def open_rgb(*arguments):
        nonlocal most
        image = opened(*arguments)
        opened_images.append(weakref.ref(image))
        most = max(most, sum(one() is not None for one in opened_images))
        return image

    monkeypatch.setattr(training.data, "open_rgb", open_rgb)
    cut_patches(pictures, 16, 30, 0)
    assert most <= 2  # the former one goes when its name does


def test_a_share_of_the_pictures_is_grey_with_grey_noise():
    images = torch.randint(256, (9, 3, 4, 4), dtype=torch.uint8)

    def draw(grey):
        return training_batch(images, 200, 0, 0, 0, torch.device("cpu"), grey)

    def is_grey(x):
        return (x == x[:, :1]).all((1, 2, 3))

    x0, noise, _ = draw(0.25)
    assert torch.equal(is_grey(x0.half()), is_grey(noise)) and 30 < is_grey(noise).sum() < 70
    x0_of_none, noise_of_none, _ = draw(0)
    assert (
        torch.equal(x0[~is_grey(noise)], x0_of_none[~is_grey(noise)])
        and not is_grey(noise_of_none).any()
    )


@pytest.mark.parametrize(
    "more, problem",
    [(("--patch", 32), "--patches"), (("--patches", 4, "--patch", 9), "multiple of 2")],
)
def test_invalid_patches_are_one_line(train, more, problem):
    result = train("model.pt", 1, *more)
    assert result.code == 2 and len(result.err.splitlines()) == 1 and problem in result.err


def test_the_learning_rate_rises_stays_and_falls_to_nothing():
    factors = [learning_rate_factor(step, 1000) for step in range(1000)]
    assert factors[0] == 1 / 200 and factors[199:701] == [1.0] * 502 and 0 < factors[-1] < 0.01


def test_the_loss_weighs_noisy_timesteps_more():
    def silent(x, t):
        return torch.zeros_like(x)  # predicts no noise at all: the square is noise's own

    x0 = torch.zeros(2, 3, 4, 4)
    abar = torch.tensor([0.25, 1e-4])

    def loss(t):
        return noise_prediction_loss(silent, x0, x0 + 1, torch.tensor([t, t]), abar, False).item()

    assert loss(0) == pytest.approx(2) and loss(1) == pytest.approx(100)


@pytest.mark.slow
def test_a_traced_network_is_trained_as_a_plain_one():
    """As --compile does it, but without the machine code, which takes minutes."""
    torch.manual_seed(0)
    shape = dict(
        image_size=8,
        num_channels=8,
        num_res_blocks=1,
        channel_mult="1",
        learn_sigma=True,
        attention_resolutions=8,
        norm_groups=4,
        use_scale_shift_norm=True,
        num_head_channels=8,
    )
    model, alphas_cumprod, gradients = create_model(**shape), linear_alphas_cumprod(), []
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    torch.compiler.reset()
    for network in (model, torch.compile(model, backend="aot_eager", dynamic=False)):
        loss = noise_prediction_loss(
            network, *training_batch(images, 2, 0, 0, 0, torch.device("cpu")), alphas_cumprod, True
        )
        gradients.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        )
    assert (
        torch.isfinite(gradients[0]).all()
        and torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99
    )
    assert gradients[1].norm() == pytest.approx(gradients[0].norm().item(), rel=0.02)


@pytest.mark.slow
def test_a_compiled_training_takes_the_steps_of_a_plain_one(train, tmp_path):
    assert train("plain.pt", 3, "--bf16").code == 0
    torch.compiler.reset()
    result = train("compiled.pt", 3, "--bf16", "--compile")
    assert result.code == 0, result.err
    plain, compiled = (
        torch.load(tmp_path / name, weights_only=True) for name in ("plain.pt", "compiled.pt")
    )
    torch.manual_seed(0)
    first = build_model(load_model_config(tmp_path / "config.yaml"), "config.yaml").state_dict()
    moved = [
        torch.cat([(state[name] - first[name]).flatten() for name in first])
        for state in (plain, compiled)
    ]
    assert (
        torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.95
        and 0.9 < moved[1].norm() / moved[0].norm() < 1.1
    )


@pytest.mark.parametrize("steps", [2, 21], ids=["at the end", "on the way"])
def test_a_loss_that_is_not_finite_ends_a_training_and_spoils_no_file(
    train, tmp_path, monkeypatch, steps
):
    assert train("model.pt", 1).code == 0
    before = {name: (tmp_path / name).read_bytes() for name in ("model.pt", "model.pt.training")}

    def spoil(parameters, norm):
        for p in parameters:
            p.grad.fill_(float("nan"))

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", spoil)
    result = train("model.pt", 1 + steps)
    error = result.err.splitlines()[-1]
    assert result.code == 2 and f"step {min(1 + steps, 20)}: " in error, result.err
    assert f"{tmp_path}/model.pt.training" in error
    states = [
        torch.load(io.BytesIO(content), weights_only=True)
        for content in (before["model.pt.training"], (tmp_path / "model.pt.training").read_bytes())
    ]
    assert (
        all(
            torch.equal(states[0]["ema"][name], states[1]["ema"][name]) for name in states[0]["ema"]
        )
        and states[1]["progress"]["step"] == 1
    )
    assert (tmp_path / "model.pt").read_bytes() == before["model.pt"]


def test_other_images_are_refused_whatever_became_of_the_first(train, tmp_path):
    assert train("model.pt", 1).code == 0
    with zipfile.ZipFile(tmp_path / "faces.zip") as archive:
        archive.extractall(tmp_path / "moved")
    (tmp_path / "faces.zip").unlink()
    assert (
        "resuming from step 1" in train("model.pt", 2, data="moved").out
    )  # the same images elsewhere, as a folder
    (tmp_path / "moved" / "folder" / "grace_hopper.png").unlink()
    result = train("model.pt", 3, data="moved")
    assert (
        result.code == 2
        and "was started with data.content 2 images, digest " in result.err
        and ", now it is 1 images, digest " in result.err
    )
    Image.open("data/demo/grace_hopper.png").rotate(180).save(
        tmp_path / "moved" / "folder" / "grace_hopper.png"
    )
    result = train("model.pt", 3, data="moved")
    assert result.code == 2 and "now it is 2 images, digest " in result.err


def test_another_checkpoint_to_start_from_is_refused(train, tmp_path):
    assert train("first.pt", 1).code == 0 and train("second.pt", 2).code == 0
    assert train("model.pt", 1, "--init", tmp_path / "first.pt").code == 0
    os.replace(tmp_path / "first.pt", tmp_path / "moved.pt")
    result = train("model.pt", 2, "--init", tmp_path / "second.pt")
    assert result.code == 2 and "was started with init.digest " in result.err
    assert train("model.pt", 2, "--init", tmp_path / "moved.pt").code == 0


@pytest.mark.parametrize("data", ["nowhere.zip", "config.yaml"])
def test_no_images_is_one_line(train, data):
    result = train("model.pt", 1, data=data)
    assert result.code == 2 and len(result.err.splitlines()) == 1 and "--data" in result.err


@pytest.mark.slow
def test_trains_on_two_processes(train, tmp_path, port):
    train("unused.pt", 1)  # writes config and data
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        port,
        "train.py",
        "--config",
        tmp_path / "config.yaml",
        "--data",
        tmp_path / "faces.zip",
        "--out",
        tmp_path / "two.pt",
        "--steps",
        "3",
        "--batch-size",
        "1",
        "--cuda",
        "-1",
    ]
    subprocess.run(command, check=True)
    state = torch.load(tmp_path / "two.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state.values())


def test_a_foreign_training_state_is_one_line(train, tmp_path):
    (tmp_path / "model.pt.training").write_bytes(b"something else")
    result = train("model.pt", 1)
    assert (
        result.code == 2
        and "remove it to start anew" in result.err
        and not (tmp_path / "model.pt").exists()
    )


def test_more_steps_go_on_and_other_arguments_are_refused(train, tmp_path):
    assert train("model.pt", 1).code == 0
    longer = train("model.pt", 3)
    assert longer.code == 0 and "resuming from step 1" in longer.out and "3 steps" in longer.out
    for key, value, was in (
        ("seed", 1, 0),
        ("lr", 0.002, 0.001),
        ("batch-size", 1, 2),
        ("grey", 0.5, 0.0),
    ):
        other = train("model.pt", 4, f"--{key}", value)
        assert other.code == 2
        assert f"with {key.replace('-', '_')} {was}, now it is {value}" in other.err
    (tmp_path / "config.yaml").write_text(CONFIG + "norm_groups: 8\n")
    assert "with model.norm_groups None, now it is 8" in train("model.pt", 4).err


def damage(folder):
    """Three files that cannot be used beside the pictures of a folder."""
    content = (folder / "0.png").read_bytes()
    (folder / "broken.png").write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_text("no picture")
    Image.new("RGB", (200, 9)).save(folder / "small.png")
    return "broken.png", "text.jpg", "small.png: 200 x 9 px"


@pytest.mark.parametrize("more", [(), ("--patches", 12)], ids=["pictures", "patches"])
def test_broken_and_small_pictures_are_named_and_left_out(train, pictures, more):
    assert train("clean.pt", 1, *more, data="pictures").code == 0
    bad = damage(pictures)
    result = train("model.pt", 1, *more, data="pictures")
    assert result.code == 0, result.err
    left_out = [line for line in result.err.splitlines() if "left out: " in line]
    assert len(left_out) == 3 and all(any(name in line for line in left_out) for name in bad)
    state = torch.load(pictures.parent / "model.pt.training", weights_only=True)
    used = 6 if more else 3
    assert state["begun_with"]["data"]["content"].startswith(f"{used} images, ")


def test_a_folder_without_a_picture_to_train_on_is_one_line(train, pictures):
    damage(pictures)
    for n in range(3):
        (pictures / f"{n}.png").unlink()
    for more in ((), ("--patches", 3)):
        result = train("model.pt", 1, *more, data="pictures")
        assert result.code == 2 and "none of its 3 images" in result.err.splitlines()[-1]
        assert len([line for line in result.err.splitlines() if "left out" in line]) == 3


def test_more_pictures_than_memory_are_one_line(train, pictures):
    result = train("model.pt", 1, "--patches", 3_000_000, "--patch", 4096, data="pictures")
    assert result.code == 2 and len(result.err.splitlines()) == 1, result.err
    assert "140625.0 GiB of memory" in result.err and "--patches" in result.err


@pytest.mark.parametrize("error", [RuntimeError("can't allocate memory"), MemoryError()])
def test_a_batch_beyond_memory_is_one_line(train, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", fail)
    result = train("model.pt", 1)
    assert result.code == 2 and "error: the memory is full" in result.err.splitlines()[-1]


def test_a_device_is_no_data_and_no_checkpoint(train, tmp_path):
    os.symlink("/dev/zero", tmp_path / "endless")
    for result in (train("model.pt", 1, data="endless"), train("endless", 1)):
        assert result.code == 2 and str(tmp_path / "endless") in result.err.splitlines()[-1]
    result = train("model.pt", 1, "--config", tmp_path / "endless")
    assert result.code == 2 and "too large for a YAML file" in result.err


def test_muon_in_float32_is_pytorchs():
    """PyTorch's runs in bfloat16: both move by the same, to its precision."""
    generator = torch.Generator().manual_seed(0)
    first = [torch.randn(shape, generator=generator) for shape in ((32, 90), (90, 32))]
    ours, theirs = ([nn.Parameter(w.clone()) for w in first] for _ in range(2))
    options = {"lr": 0.01, "weight_decay": 0.01}
    pair = (
        Muon(ours, **options),
        torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **options),
    )
    for _ in range(3):
        for p, q in zip(ours, theirs):
            p.grad = q.grad = torch.randn(p.shape, generator=generator)
        for optimizer in pair:
            optimizer.step()
    for p, q, w in zip(ours, theirs, first):
        assert (p - q).norm() < 0.02 * (q - w).norm()
