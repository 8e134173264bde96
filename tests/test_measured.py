"""Photographs: reading, inferring the task, estimating, restoring, refusing; images of any size,
whole and in tiles."""

import copy
import io
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import edit
from PIL import Image

from baselines.least_squares import least_squares
from experiment.arguments import Arguments
from experiment.methods import load_method
from experiment.presets import load_row
from experiment.progress import Progress
from guided_diffusion.kernels import blurring, correlating
from guided_diffusion.measurements import load_measurement
from guided_diffusion.tiles import AnySize, choose_tile, kept_per_pixel, tile_starts, tile_weights
from guided_diffusion.unet import AttentionBlock
from photographs.arguments import Options
from photographs.kernels import load_kernel
from photographs.masks import load_mask
from photographs.noise import estimate_noise
from photographs.problems import Photographs
from solvers.least_squares import silent
from util.config import load_yaml
from util.files import UserError
from util.rng import BatchRandom

STEPS = "--preset paper --outer 1 --inner 1 --cuda -1"
RESTORE = f"restore.py --method dmilo {STEPS} --name r -l runs"


def smooth(size, seed=0):
    """A smooth image, (1, 3, H, W) in [-1, 1]."""
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=True).clamp(
        -1, 1
    )


def save(path, x, mode="RGB", **options):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image = ((x[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    Image.fromarray(image).convert(mode).save(path, **options)


def holed(size):
    """A mask with a hole, as an image."""
    mask = Image.new("L", size[::-1], 255)
    mask.paste(0, (8, 10, 14, 25))
    return mask


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The current folder: a 45 x 37 photograph with its mask and kernel, and another one, grey and
    32 x 40, with its mask."""
    monkeypatch.syspath_prepend(os.getcwd())
    for name in ("dmilo.py", "dmilo-pgd.py", "restore.py"):
        os.symlink(os.path.abspath(name), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for name, size, mode in (("a", (37, 45), "RGB"), ("b", (40, 32), "L")):
        save(f"photos/{name}.png", smooth(size), mode)
        os.makedirs("masks", exist_ok=True)
        holed(size).save(f"masks/{name}.png")
    np.save("kernel.npy", np.ones((3, 6)))
    return tmp_path


@pytest.fixture
def restore(script, photos):
    """restore("photos/a.png", …) -> the script's result with the run's folders, `top` and, within
    it, `folder`."""

    def run(*arguments, command=RESTORE):
        result = script(command, *arguments)
        assert result.code == 0, result.err
        top = photos / "runs" / "r"
        return SimpleNamespace(top=top, folder=top / "run", **vars(result))

    return run


@pytest.mark.usefixtures("short_searches")
@pytest.mark.parametrize(
    "options, task, size",
    [
        ("--mask masks/a.png", "inpainting", (45, 37)),
        ("--mask masks/a.png --method dmilo-pgd", "inpainting", (45, 37)),
        ("--kernel kernel.npy", "motion_deblur", (45, 37)),
        ("--scale 2 --preset quick", "super_resolution", (90, 74)),
        ("", "denoising", (45, 37)),
    ],
)
def test_the_four_kinds_are_inferred_and_restored(restore, options, task, size):
    run = restore(command=f"restore.py photos/a.png {options} --name r -l runs --cuda -1")
    assert f"a: 45 x 37, {task}, sigma " in run.out and "PSNR" not in run.out
    assert Image.open(run.top / "a.png").size == size
    assert sorted(os.listdir(run.top)) == ["a.png", "report.html", "run", "settings.json"]
    pictures = set(os.listdir(run.folder / "images" / "a"))
    assert {"measurement.png", "measurement.npy", "result.png", "final.png"} <= pictures
    assert "origin.png" not in pictures
    assert (run.folder / "images/a/result.png").read_bytes() == (run.top / "a.png").read_bytes()
    assert (run.folder / "grid.png").exists()
    summary = json.load(open(run.folder / "summary.json"))
    assert summary["best"]["psnr"]["mean"] is None and summary["final"]["residual"]["mean"] > 0


@pytest.mark.usefixtures("tiny_prior")
def test_without_a_gpu_the_cpu_is_used_without_a_warning(restore, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    run = restore(command="restore.py photos/a.png --sigma 0.1 --name r -l runs")
    summary = json.load(open(run.folder / "summary.json"))
    assert run.err == "" and summary["settings"]["device"] == "cpu"
    assert summary["method"] == "denoiser"


@pytest.mark.usefixtures("tiny_prior", "short_searches")
def test_samples_without_a_preset_are_of_the_posterior(restore):
    run = restore(
        command="restore.py photos/a.png --scale 2 --samples 2 --name r -l runs --cuda -1"
    )
    summary = json.load(open(run.folder / "summary.json"))
    assert summary["method"] == "posterior" and summary["samples"]["spread"] > 0


@pytest.mark.parametrize(
    "command, replacement",
    [
        ("dmilo.py --measured photos/a.png --mask masks/a.png", "restore.py"),
        ("dmilo-pgd.py --measured", "restore.py"),
        ("dmilo.py --preset quick", "samplers.pnp"),
        ("dmilo-pgd.py --preset posterior", "samplers.posterior"),
    ],
)
def test_commands_of_the_past_name_their_replacement(script, photos, command, replacement):
    result = script(command)
    assert result.code == 2 and replacement in result.err and len(result.err.splitlines()) == 1


def test_another_kernel_than_that_of_the_run_is_refused(restore):
    given = "photos/a.png", "--kernel", "kernel.npy"
    restore(*given)
    restore(*given)  # resumed
    for other in (np.ones((3, 4)), np.eye(3, 6)):
        np.save("kernel.npy", other)
        with pytest.raises(AssertionError, match="kernel.png: "):
            restore(*given)


def test_the_bar_of_a_search_is_weighted_by_the_stages(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    progress = Progress(images=2, iterations=[11, 11, 45])
    for _ in range(2):  # two batches
        progress.reset(0)
        for ends_outer, done in ((False, 0), (True, 11), (True, 22), (True, 67)):
            progress.on_iterate(ends_outer)
            assert (progress.outer.n, progress.outer.total) == (done, 67)
    progress.reset(2)  # resumed
    assert progress.outer.n == 22
    progress.close()
    assert "outer:   0%" in terminal.getvalue()


def test_a_folder_of_sizes_and_masks_by_name_is_batches_and_grey_stays_grey(restore):
    run = restore("photos", "--mask", "masks")
    assert Image.open(run.top / "a.png").mode == "RGB"
    grey = Image.open(run.top / "b.png")
    assert (grey.mode, grey.size) == ("L", (32, 40))
    again = restore("photos/b.png", "--mask", "masks")  # the same run is resumed
    assert "2 images" in again.out
    Image.new("RGB", (45, 37)).save("photos/a.png")
    with pytest.raises(AssertionError, match="measurement.npy: "):
        restore("photos", "--mask", "masks")


def test_a_jpeg_is_turned_upright_and_its_result_is_a_png(restore):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    save("turned/c.jpg", smooth((32, 40)), exif=exif)
    assert Image.open(restore("turned/c.jpg").top / "c.png").size == (32, 40)


def test_a_mask_without_a_hole_is_copied(restore):
    Image.new("L", (45, 37), 255).save("masks/a.png")
    run = restore("photos/a.png", "--mask", "masks")
    assert "a: 45 x 37, inpainting, its mask has no hole: copied" in run.out
    assert np.array_equal(Image.open(run.top / "a.png"), Image.open("photos/a.png"))
    assert json.load(open(run.folder / "record" / "a.json"))["nfe_total"] == 0


def test_samples_under_a_mask_without_a_hole_have_no_spread_of_missing_px(restore):
    Image.new("L", (45, 37), 255).save("masks/a.png")
    run = restore("photos", "--mask", "masks", "--samples", 2)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    a, b, summary = (
        json.loads((run.folder / file).read_text(), parse_constant=refuse)["samples"]
        for file in ("record/a.json", "record/b.json", "summary.json")
    )
    assert a["spread"] == 0.0 and "spread_missing" not in a
    assert summary["spread_missing"] == b["spread_missing"] > 0  # of those that have one
    assert summary["spread"] == pytest.approx(b["spread"] / 2)


@pytest.mark.usefixtures("short_searches")
def test_samples_of_an_enlarged_photograph_with_transparent_px(restore):
    """The mask is of the small one."""
    alpha = Image.new("L", (45, 37), 255)
    alpha.paste(0, (0, 0, 5, 5))
    picture = Image.open("photos/a.png").convert("RGB")
    picture.putalpha(alpha)
    picture.save("photos/cut.png")
    run = restore("photos/cut.png", "--scale", 2, "--samples", 2)
    samples = json.load(open(run.folder / "record" / "cut.json"))["samples"]
    assert {"spread_missing", "spread_measured"} <= set(samples)


def photographs(*files, prior_size=64, sigma=None, **given):
    """The Photographs of a command line."""
    options = Options(tuple(map(str, files)), **given)
    return Photographs(options, Arguments("photo", "t", sigma=sigma), prior_size)


def test_sigma_is_estimated_and_at_least_half_a_step(tmp_path):
    n = torch.randn(1, 3, 90, 110, generator=torch.Generator().manual_seed(1))
    path = str(tmp_path / "p.png")
    for sigma, least in ((0.1, 0.09), (0.0, 1 / 255)):
        save(path, (smooth((90, 110)) * 0.5 + sigma * n).clamp(-1, 1))
        assert least <= photographs(path).key("p")[2] <= max(1.1 * sigma, 1 / 255)
    given = photographs(path, sigma=0.3)
    assert given.key("p")[2] == 0.3 and "sigma 0.3000 (--sigma)" in given.report[0]


@pytest.mark.parametrize("missing", [0.1, 0.7])
def test_sigma_of_an_inpainting_is_of_the_observed_pixels(missing):
    g = torch.Generator().manual_seed(0)
    mask = (torch.rand(1, 1, 128, 128, generator=g) > missing).float()
    y = mask * (smooth((128, 128)) * 0.5 + 0.05 * torch.randn(1, 3, 128, 128, generator=g))
    assert abs(estimate_noise(y, mask).sigma - 0.05) < 0.01
    assert estimate_noise(y, mask * 0) is None


def test_kernel_files(tmp_path):
    path = str(tmp_path / "k.npy")
    np.save(path, np.array([[1, 2, 3, -9], [0, 0, 2, 0]]))
    kernel = load_kernel(path)[0]
    assert kernel.shape == (1, 3, 5)
    torch.testing.assert_close(
        kernel[0], torch.tensor([[1, 2, 3, 0, 0], [0, 0, 2, 0, 0], [0, 0, 0, 0, 0]]) / 8
    )
    assert torch.equal(load_kernel(path, flip=True)[0], kernel.flip(1, 2))
    Image.fromarray(np.array([[0, 255, 0]], np.uint8)).save(tmp_path / "k.png")
    assert torch.equal(load_kernel(str(tmp_path / "k.png"))[0], torch.ones(1, 1, 1))


def test_masks_are_dark_where_pixels_are_missing(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    assert load_mask(str(tmp_path / "m.png"))[0].flatten().tolist() == [0, 0, 0, 1]


def test_a_cut_out_blur_is_restored_better_than_by_a_mirrored_border(tmp_path):
    """Light from beyond the border is blurred in; mirroring would be wrong there."""
    n, border = torch.randn(1, 3, 64, 72, generator=torch.Generator().manual_seed(2)), 5
    whole = smooth((64, 72), seed=3) + 0.2 * n.cumsum(-1).clamp(-2, 2)
    kernel = torch.ones(1, 2 * border + 1, 2 * border + 1) / (2 * border + 1) ** 2
    truth = whole[..., border:-border, border:-border].clamp(-1, 1)
    y = correlating(kernel, (64, 72))(whole)
    np.save(tmp_path / "k.npy", kernel[0].numpy())
    save(str(tmp_path / "p.png"), y)
    images = photographs(tmp_path / "p.png", kernel=str(tmp_path / "k.npy"), prior_size=32)
    batch = images.batch(["p"], None, "cpu")
    problem = batch.problem
    assert problem.size == (64, 72) and problem.y.shape == y.shape
    assert batch.output(torch.zeros(1, 3, 64, 72)).shape == y.shape
    h = load_row(load_method("least_squares"), "motion_deblur")
    errors = []
    for A, size, cut in (
        (problem.operator, problem.size, batch.output),
        (blurring(kernel, y.shape[-2:]), y.shape[-2:], lambda x: x),
    ):
        *_, last = least_squares(None, A, problem.y, torch.randn(1, 3, *size), h, silent)
        near = torch.ones_like(truth, dtype=bool)
        near[..., 8:-8, 8:-8] = False
        errors.append((cut(last.x) - truth)[near].square().mean().item())
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize(
    "task",
    [
        "inpainting",
        "super_resolution",
        "demo/gaussian_deblur",
        "demo/motion_deblur",
        "demo/box_inpainting",
        "denoising",
        "phase_retrieval",
        "poisson_denoising",
    ],
)
def test_operators_take_rectangles(task):
    path = f"configs/tasks/{task}_config.yaml"
    operator, noise = load_measurement(load_yaml(path), path, (64, 88), 64)
    A, state = operator.draw(BatchRandom([1, 2]), "cpu")
    x = torch.cat([smooth((64, 88)), smooth((64, 88), 1)])
    y = noise(A(x), BatchRandom([1, 2]))
    factor = y.shape[-1] / 88
    assert y.shape[-2] == 64 * factor and factor in (0.25, 1, 1.5)
    assert "mask" not in state or state["mask"].shape == (2, 1, 64, 88)


def test_a_stated_side_is_checked_where_the_picture_has_the_priors_size():
    config = load_yaml("configs/tasks/inpainting_config.yaml")
    config["measurement"]["mask_opt"]["image_size"] = 256
    load_measurement(config, "task.yaml", (64, 88), 256)
    load_measurement(config, "task.yaml", (256, 256), 256)
    with pytest.raises(UserError, match="image_size is 256"):
        load_measurement(config, "task.yaml", (64, 64), 64)


def test_a_simulated_image_of_another_size_is_restored_as_it_is(script, photos):
    for task, options, size in (
        ("inpainting", "--sigma 0.05", (45, 37)),
        ("inpainting", "--resize -n 1", (64, 64)),
    ):
        command = f"dmilo.py -t {task} --data photos {STEPS} {options} -l runs --name {size[0]}"
        assert script(command).code == 0
        run = photos / "runs" / "demo" / task / str(size[0])
        assert Image.open(run / "images" / "a" / "final.png").size == size
    assert json.load(open(photos / "runs/demo/inpainting/45/record/a.json"))["sigma"] == 0.05


def test_a_network_of_any_size_is_unchanged_for_multiples_of_its_stride(demo_model):
    t, eps = torch.tensor([142.0]), AnySize(demo_model, 64)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(eps(x, t), demo_model(x, t)[:, :3])
    for size in ((40, 61), (3, 64)):
        assert eps(x[..., : size[0], : size[1]], t).shape[-2:] == size
    mirrored = torch.cat([x[..., :61], x[..., 57:60].flip(-1)], -1)
    torch.testing.assert_close(eps(x[..., :61], t), demo_model(mirrored, t)[:, :3, :, :61])


@pytest.mark.parametrize("length, tile", [(64, 64), (72, 64), (200, 64), (512, 128), (1504, 256)])
def test_tiles_cover_and_overlap(length, tile):
    tops = tile_starts(length, tile, 8)
    assert tops[0] == 0 and tops[-1] == length - tile and all(start % 8 == 0 for start in tops)
    assert all(b - a <= tile - min(64, tile // 2) + 8 for a, b in zip(tops, tops[1:]))
    weights = tile_weights(tile, "cpu")
    assert weights.min() > 0 and weights.max() <= 1 and torch.equal(weights, weights.flip(0))


def test_tiles_of_a_pointwise_network_are_exact_and_differentiable():
    class Pointwise(torch.nn.Module):
        """A network without a receptive field."""

        stride = 8

        def forward(self, x, t):
            return torch.cat([x**3 * t, x], 1)

    x = torch.randn(2, 3, 100, 130, generator=torch.Generator().manual_seed(0), requires_grad=True)
    outs = [AnySize(Pointwise(), tile)(x, torch.tensor([2.0])) for tile in (None, 32)]
    torch.testing.assert_close(outs[1], outs[0])
    grads = [torch.autograd.grad(out.square().sum(), x)[0] for out in outs]
    torch.testing.assert_close(grads[1], grads[0])


def test_tiles_of_the_prior(demo_model):
    t, x = (
        torch.tensor([142.0]),
        smooth((96, 128)) * 0.9
        + 0.4 * torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        whole, tiled = (AnySize(demo_model, tile)(x, t) for tile in (None, 64))
    assert (whole - tiled).square().mean() < 0.03 * whole.square().mean()


def test_attention_of_a_larger_image_is_the_same_and_stores_little(demo_model):
    block = next(m for m in demo_model.modules() if isinstance(m, AttentionBlock))
    x, sizes = (
        torch.randn(
            1,
            block.norm.num_channels,
            24,
            32,
            generator=torch.Generator().manual_seed(0),
            requires_grad=True,
        ),
        [],
    )
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        fused = block(x)
    assert block.trained_positions == 64 and max(sizes) < (24 * 32) ** 2
    other = copy.copy(block)
    other.trained_positions = 24 * 32
    torch.testing.assert_close(fused, other(x), rtol=1e-4, atol=1e-5)


def test_tiles_are_chosen_where_memory_is_short(demo_model, monkeypatch):
    whole = 4 * 512**2 * kept_per_pixel(demo_model, 64, "cpu")  # a quarter of what is free
    assert 2e9 < whole < 4e9
    cases = (
        (1.01 * whole, (512, 512), None),
        (0.99 * whole, (512, 512), 256),
        (whole / 12, (512, 512), 144),
        (1e6, (512, 512), 64),
        (1e6, (64, 64), None),
    )
    for free, size, tile in cases:
        monkeypatch.setattr("guided_diffusion.tiles.available_memory", lambda device: free)
        assert choose_tile(demo_model, size, 64, 1, "cpu") == tile


def test_a_run_keeps_the_tile_that_memory_chose(script, photos, tiny_prior, monkeypatch):
    save("photos/large.png", smooth((72, 70)))
    settings, summary = photos / "runs/r/settings.json", photos / "runs/r/run/summary.json"

    def with_free_memory(free, *more):
        monkeypatch.setattr("guided_diffusion.tiles.available_memory", lambda device: free)
        return script(RESTORE, "photos/large.png", *more)

    tiles, whole = 1e6, 1e12
    assert "going on with tiles (--tile 64)" in with_free_memory(tiles).err
    assert json.loads(settings.read_text())["tile"] == 64
    for more in ([], ["--tile", 64], ["--summarize"]):
        assert with_free_memory(whole, *more).code == 0
        assert json.loads(summary.read_text())["settings"]["tile"] == 64
    assert "created with tile 64, now it is 72" in with_free_memory(whole, "--tile", 72).err
    # As of a run with whole images.
    settings.write_text(settings.read_text().replace('"tile": 64', '"tile": null'))
    assert with_free_memory(whole).code == 0
    result = with_free_memory(tiles)
    assert result.code == 2 and "r: was created with whole images" in result.err


def test_no_row_sets_sigma(workspace):
    edit(workspace / "configs/dmilo.yaml", "lr_z: 0.02", "sigma: 0.1, lr_z: 0.02")
    with pytest.raises(UserError, match="sigma is not a known key"):
        load_row(load_method("dmilo"), "inpainting")


BAD = [  # arguments, and what the line must name
    ("nowhere.png", "nowhere.png: "),
    ("masks/b.png --mask masks/a.png", "masks/a.png: is 45 x 37, masks/b.png is 32 x 40"),
    ("photos --mask masks/a.png", "masks/a.png: is 45 x 37, photos/b.png is 32 x 40"),
    ("photos/a.png --mask black.png", "black.png: "),
    ("photos/a.png --mask photos/x.png", "photos/x.png: "),
    ("photos --kernel photos", "--kernel photos: "),
    ("photos/a.png --kernel photos/a.png", "--kernel photos/a.png: "),
    ("photos/a.png --mask empty", "--mask empty: has no file called a or a_mask"),
    ("photos/a.png --kernel large.npy", "large.npy: this kernel, 40 x 38"),
    ("photos/a.png --kernel zero.npy", "zero.npy: is no kernel"),
    ("photos/a.png --kernel text.npy", "text.npy: "),
    ("photos/a.png --kernel kernel.npy --mask masks", "argument --mask: "),
    ("photos/a.png --sigma 0", "--sigma 0: "),
    ("photos/a.png --sigma 3", "argument --sigma: "),
    ("photos/a.png --scale 1", "argument --scale: "),
    ("photos/a.png --flip-kernel", "--flip-kernel: "),
    ("photos/a.png photos/../photos/a.png", "would share its folder of results"),
    ("small.png", "small.png: 20 x 40 px "),
    ("photos/a.png --tile 60", "--tile 60: must be a multiple of 8, 64 or more"),
    ("photos/a.png --preset slow", "--preset slow: "),
    ("photos/a.png --prior cats", "cats: "),
    ("photos/a.png --method dmilo --preset quick", "--preset quick: "),
    ("photos/a.png --seed 4294967295 --samples 2", "--seed 4294967295: "),
    ("", "PHOTO"),
]


@pytest.mark.parametrize("given, message", BAD, ids=[given for given, _ in BAD])
def test_bad_input_is_one_line(photos, script, given, message):
    Image.new("L", (45, 37)).save("black.png")
    Image.new("L", (20, 40)).save("small.png")
    os.makedirs("empty")
    np.save("large.npy", np.ones((38, 40)))
    np.save("zero.npy", np.zeros((3, 3)))
    open("text.npy", "w").write("no array")
    result = script(f"restore.py {given} --cuda -1")
    assert result.code == 2, result.err
    assert len(result.err.splitlines()) == 1 and message in result.err
    assert result.err.startswith("restore.py: error: ") and not os.path.exists("restored")
