"""Pictures that were measured: what is read, inferred, estimated, restored and refused; pictures of any size, whole and in tiles."""

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
from experiment.methods import load_method
from experiment.presets import load_hyperparameters
from experiment.restoration import Progress
from guided_diffusion.kernels import blurring, correlating
from guided_diffusion.measurements import load_measurement
from guided_diffusion.tiles import AnySize, choose_tile, kept_per_pixel, tile_starts, tile_weights
from guided_diffusion.unet import AttentionBlock
from photographs.kernels import load_kernel
from photographs.masks import load_mask
from photographs.noise import estimate_noise
from photographs.problems import Measured
from solvers.least_squares import silent
from util.config import load_yaml
from util.files import UserError
from util.rng import BatchRandom

SHORT = ("--preset", "paper", "--outer", 1, "--inner", 1, "--cuda", -1)


def smooth(size, seed=0):
    """A smooth picture, (1, 3, H, W) in [-1, 1]."""
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=True).clamp(
        -1, 1
    )


def save(path, x, mode="RGB", **options):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    pixels = ((x[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)


def holed(size):
    """A mask with a hole, as a picture."""
    mask = Image.new("L", size[::-1], 255)
    mask.paste(0, (8, 10, 14, 25))
    return mask


@pytest.fixture
def photos(tmp_path):
    """A folder of a 45 x 37 photograph with its mask and kernel, and of another one, grey and 32 x 40, with its mask."""
    for name, size, mode in (("a", (37, 45), "RGB"), ("b", (40, 32), "L")):
        save(str(tmp_path / "photos" / f"{name}.png"), smooth(size), mode)
        os.makedirs(tmp_path / "masks", exist_ok=True)
        holed(size).save(tmp_path / "masks" / f"{name}.png")
    np.save(tmp_path / "kernel.npy", np.ones((3, 6)))
    return tmp_path


@pytest.fixture
def restore(script, tmp_path):
    """restore("dmilo.py", …) -> the script's result with the run's folder, which has to be there."""

    def run(name, *arguments, task="inpainting"):
        result = script(name, "-l", tmp_path / "runs", "--name", "r", *SHORT, *arguments)
        assert result.code == 0, result.err
        prior = "photo" if "--measured" in arguments else "demo"
        return SimpleNamespace(folder=tmp_path / "runs" / prior / task / "r", **vars(result))

    return run


@pytest.mark.usefixtures("short_searches")
@pytest.mark.parametrize("method", ["dmilo.py", "dmilo-pgd.py"])
@pytest.mark.parametrize(
    "options, task, size",
    [
        (["--mask", "masks/a.png"], "inpainting", (45, 37)),
        (["--kernel", "kernel.npy"], "motion_deblur", (45, 37)),
        (["--scale", "2"], "super_resolution", (90, 74)),
        ([], "denoising", (45, 37)),
    ],
)
def test_the_four_kinds_are_inferred_and_restored(
    photos, restore, monkeypatch, method, options, task, size
):
    options = [str(photos / one) if "." in one else one for one in options]
    edited = (
        ["--inner", 1] if method == "dmilo.py" else ["--preset", "fast", "--inner", 1]
    )  # published: 1000 gradient steps
    run = restore(method, "--measured", photos / "photos" / "a.png", *options, *edited, task=task)
    assert f"a: 45 x 37, {task}, sigma " in run.out and "PSNR" not in run.out
    assert Image.open(run.folder / "restored" / "a.png").size == size
    left = set(os.listdir(run.folder / "images" / "a"))
    assert (
        "origin.png" not in left
        and {"measurement.png", "measurement.npy", "result.png", "final.png"} <= left
    )
    assert (run.folder / "images/a/result.png").read_bytes() == (
        run.folder / "restored/a.png"
    ).read_bytes()
    assert (run.folder / "grid.png").exists()
    summary = json.load(open(run.folder / "summary.json"))
    assert summary["best"]["psnr"]["mean"] is None and summary["final"]["residual"]["mean"] > 0


def test_another_kernel_than_the_one_a_run_was_begun_with_is_refused(photos, restore):
    given = "--measured", photos / "photos" / "a.png", "--kernel", photos / "kernel.npy"
    restore("dmilo.py", *given, "--inner", 1, task="motion_deblur")
    restore("dmilo.py", *given, "--inner", 1, task="motion_deblur")  # goes on
    for other in (np.ones((3, 4)), np.eye(3, 6)):
        np.save(photos / "kernel.npy", other)
        with pytest.raises(AssertionError, match="kernel.png: is not the kernel that a has now"):
            restore("dmilo.py", *given, "--inner", 1, task="motion_deblur")


def test_the_bar_of_a_search_goes_by_what_each_pass_has_to_do(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    progress = Progress(images=2, outer=[11, 11, 45])
    for _ in range(2):  # two batches
        progress.begin(0)
        for ends_outer, shown in ((False, 0), (True, 11), (True, 22), (True, 67)):
            progress.on_iterate(ends_outer)
            assert (progress.outer.n, progress.outer.total) == (shown, 67)
    progress.begin(2)  # one that goes on
    assert progress.outer.n == 22
    progress.close()
    assert "outer:   0%" in terminal.getvalue()


def test_a_folder_of_sizes_and_masks_by_name_is_batches_and_grey_stays_grey(photos, restore):
    run = restore("dmilo.py", "--measured", photos / "photos", "--mask", photos / "masks")
    assert Image.open(run.folder / "restored" / "a.png").mode == "RGB"
    grey = Image.open(run.folder / "restored" / "b.png")
    assert (grey.mode, grey.size) == ("L", (32, 40))
    again = restore(
        "dmilo.py", "--measured", photos / "photos" / "b.png", "--mask", photos / "masks"
    )  # the same run goes on
    assert "2 images" in again.out
    Image.new("RGB", (45, 37)).save(photos / "photos" / "a.png")
    with pytest.raises(AssertionError, match="is not the measurement that a is now"):
        restore("dmilo.py", "--measured", photos / "photos", "--mask", photos / "masks")


def test_a_jpeg_is_turned_upright_and_its_result_is_a_png(photos, restore):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    save(str(photos / "turned" / "c.jpg"), smooth((32, 40)), exif=exif)
    run = restore("dmilo.py", "--measured", photos / "turned" / "c.jpg", task="denoising")
    assert Image.open(run.folder / "restored" / "c.png").size == (32, 40)


def test_a_mask_without_a_hole_is_said_and_copied(photos, restore):
    Image.new("L", (45, 37), 255).save(photos / "masks" / "a.png")
    run = restore("dmilo.py", "--measured", photos / "photos" / "a.png", "--mask", photos / "masks")
    assert "a: 45 x 37, inpainting, its mask has no hole: nothing to do, copied" in run.out
    assert np.array_equal(
        Image.open(run.folder / "restored/a.png"), Image.open(photos / "photos/a.png")
    )
    assert json.load(open(run.folder / "record" / "a.json"))["network_evaluations"] == 0


def test_samples_under_a_mask_without_a_hole_have_no_spread_of_missing_pixels(photos, restore):
    Image.new("L", (45, 37), 255).save(photos / "masks" / "a.png")
    run = restore(
        "dmilo.py", "--measured", photos / "photos", "--mask", photos / "masks", "--samples", 2
    )

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    a, b, summary = (
        json.loads((run.folder / file).read_text(), parse_constant=refuse)
        for file in ("record/a.json", "record/b.json", "summary.json")
    )
    assert a["samples"]["spread"] == 0.0 and "spread_missing" not in a["samples"]
    assert (
        summary["samples"]["spread_missing"] == b["samples"]["spread_missing"] > 0
    )  # of those that have one
    assert summary["samples"]["spread"] == pytest.approx(b["samples"]["spread"] / 2)


@pytest.mark.usefixtures("short_searches")
def test_samples_of_an_enlarged_picture_with_transparent_pixels(photos, restore):
    """The mask is of the small one."""
    alpha = Image.new("L", (45, 37), 255)
    alpha.paste(0, (0, 0, 5, 5))
    picture = Image.open(photos / "photos" / "a.png").convert("RGB")
    picture.putalpha(alpha)
    picture.save(photos / "photos" / "cut.png")
    run = restore(
        "dmilo.py",
        "--measured",
        photos / "photos" / "cut.png",
        "--scale",
        2,
        "--samples",
        2,
        "--inner",
        1,
        task="super_resolution",
    )
    assert {"spread_missing", "spread_measured"} <= set(
        json.load(open(run.folder / "record" / "cut.json"))["samples"]
    )


def arguments(**given):
    empty = dict.fromkeys(
        ("mask", "kernel", "blind", "scale", "sigma", "data", "number", "filter", "grow")
    )
    flags = dict.fromkeys(
        ("flip_kernel", "centre_kernel", "invert_mask", "linear", "keep_observed", "transparent"),
        False,
    )
    return SimpleNamespace(
        **{
            **empty,
            **flags,
            "task": "t",
            "begin_number": 0,
            "end_number": -1,
            "stop": "discrepancy",
            **given,
        }
    )


def test_sigma_is_estimated_and_at_least_half_a_level(tmp_path):
    n = torch.randn(1, 3, 90, 110, generator=torch.Generator().manual_seed(1))
    for sigma, least in ((0.1, 0.09), (0.0, 1 / 255)):
        save(str(tmp_path / "p.png"), (smooth((90, 110)) * 0.5 + sigma * n).clamp(-1, 1))
        found = Measured(arguments(measured=[str(tmp_path / "p.png")]), 64)
        assert least <= found.key("p")[2] <= max(1.1 * sigma, 1 / 255)
    assert "an 8-bit file's least" in found.report[0]
    given = Measured(arguments(measured=[str(tmp_path / "p.png")], sigma=0.3), 64)
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
    assert torch.equal(load_kernel(str(tmp_path / "k.png"))[0], torch.tensor([[[0.0, 1, 0]]]))


def test_masks_are_dark_where_pixels_are_missing(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    assert load_mask(str(tmp_path / "m.png"))[0].flatten().tolist() == [0, 0, 0, 1]


def test_a_cut_out_blur_is_restored_better_than_by_a_mirrored_border(tmp_path):
    """What lies beyond the border shines in; mirroring it would be wrong there."""
    whole, border = (
        smooth((64, 72), seed=3)
        + 0.2
        * torch.randn(1, 3, 64, 72, generator=torch.Generator().manual_seed(2))
        .cumsum(-1)
        .clamp(-2, 2),
        5,
    )
    kernel = torch.ones(1, 2 * border + 1, 2 * border + 1) / (2 * border + 1) ** 2
    truth, y = (
        whole[..., border:-border, border:-border].clamp(-1, 1),
        correlating(kernel, (64, 72))(whole),
    )
    np.save(tmp_path / "k.npy", kernel[0].numpy())
    save(str(tmp_path / "p.png"), y)
    measured = Measured(
        arguments(measured=[str(tmp_path / "p.png")], kernel=str(tmp_path / "k.npy")), 32
    )
    problem = measured.problem(["p"], None, "cpu")
    assert problem.size == (64, 72) and problem.border == (5, 5) and problem.y.shape == y.shape
    h = load_hyperparameters(load_method("least_squares"), "motion_deblur")
    errors = []
    for A, size, cut in (
        (problem.operator, problem.size, problem.shown),
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
    A, drawn = operator.draw(BatchRandom([1, 2]), "cpu")
    x = torch.cat([smooth((64, 88)), smooth((64, 88), 1)])
    y = noise(A(x), BatchRandom([1, 2]))
    factor = y.shape[-1] / 88
    assert y.shape[-2] == 64 * factor and factor in (0.25, 1, 1.5)
    if "mask" in drawn:
        assert drawn["mask"].shape == (2, 1, 64, 88)


def test_a_stated_side_is_checked_where_the_picture_has_the_priors_size():
    config = load_yaml("configs/tasks/inpainting_config.yaml")
    config["measurement"]["mask_opt"]["image_size"] = 256
    load_measurement(config, "task.yaml", (64, 88), 256)
    load_measurement(config, "task.yaml", (256, 256), 256)
    with pytest.raises(UserError, match="image_size says 256"):
        load_measurement(config, "task.yaml", (64, 64), 64)


def test_a_simulated_picture_of_another_size_is_restored_as_it_is(photos, restore):
    run = restore("dmilo.py", "-t", "inpainting", "--data", photos / "photos", "--sigma", "0.05")
    assert Image.open(run.folder / "images" / "a" / "final.png").size == (45, 37)
    assert json.load(open(run.folder / "record" / "a.json"))["sigma"] == 0.05
    restored = restore(
        "dmilo.py",
        "-t",
        "denoising",
        "--data",
        photos / "photos",
        "--resize",
        "-n",
        1,
        task="denoising",
    )
    assert Image.open(restored.folder / "images" / "a" / "final.png").size == (64, 64)


def test_a_network_takes_any_size_and_those_it_takes_by_itself_unchanged(demo_model):
    t, eps = torch.tensor([142.0]), AnySize(demo_model, 64)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(eps(x, t), demo_model(x, t)[:, :3])
    for size in ((40, 61), (3, 64)):
        assert eps(x[..., : size[0], : size[1]], t).shape[-2:] == size
    mirrored = torch.cat([x[..., :61], x[..., 57:60].flip(-1)], -1)
    torch.testing.assert_close(eps(x[..., :61], t), demo_model(mirrored, t)[:, :3, :, :61])


@pytest.mark.parametrize("length, tile", [(64, 64), (72, 64), (200, 64), (512, 128), (1504, 256)])
def test_tiles_cover_and_overlap(length, tile):
    starts = tile_starts(length, tile, 8)
    assert (
        starts[0] == 0 and starts[-1] == length - tile and all(start % 8 == 0 for start in starts)
    )
    assert all(b - a <= tile - min(64, tile // 2) + 8 for a, b in zip(starts, starts[1:]))
    weights = tile_weights(tile, "cpu")
    assert weights.min() > 0 and weights.max() <= 1 and torch.equal(weights, weights.flip(0))


def test_tiles_give_about_what_the_whole_gives_and_their_gradient_is_its_own():
    class Pointwise(torch.nn.Module):
        """A network of no surroundings: tiles must give exactly the whole's values and gradient."""

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


def test_attention_of_a_larger_picture_is_the_same_and_keeps_little(demo_model):
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


def test_a_run_keeps_the_tile_that_memory_chose(photos, script, tiny_prior, monkeypatch):
    save(str(photos / "large.png"), smooth((72, 70)))
    command = (
        "dmilo.py",
        "--measured",
        photos / "large.png",
        "-l",
        photos / "runs",
        "--name",
        "r",
        *SHORT,
    )
    settings = photos / "runs" / "photo" / "denoising" / "r" / "settings.json"

    def with_free_memory(free, *more):
        monkeypatch.setattr("guided_diffusion.tiles.available_memory", lambda device: free)
        return script(*command, *more)

    tiles, whole = 1e6, 1e12
    assert (
        "70 x 72 pixels do not fit into memory at once, going on with tiles (--tile 64)"
        in with_free_memory(tiles).err
    )
    assert json.loads(settings.read_text())["tile"] == 64
    for more in ([], ["--tile", 64], ["--summarize"]):
        assert with_free_memory(whole, *more).code == 0
        assert json.loads((settings.parent / "summary.json").read_text())["settings"]["tile"] == 64
    assert "was begun with tile 64, now it is 72" in with_free_memory(whole, "--tile", 72).err
    settings.write_text(
        settings.read_text().replace('"tile": 64', '"tile": null')
    )  # as of a run with whole pictures, or of an older version
    assert with_free_memory(whole).code == 0
    result = with_free_memory(tiles)
    assert (
        result.code == 2
        and "r: was begun with whole pictures, now 70 x 72 pixels do not fit into memory at once; free memory or"
        in result.err
    )


def test_no_row_sets_sigma(workspace):
    edit(workspace / "configs/dmilo.yaml", "lr_z: 0.02", "sigma: 0.1, lr_z: 0.02")
    with pytest.raises(UserError, match="sigma is not a known key"):
        load_hyperparameters(load_method("dmilo"), "inpainting")


BAD = [
    (["--measured", "nowhere.png"], "nowhere.png: cannot be read (No such file or directory)"),
    (
        ["--measured", "masks/b.png", "--mask", "masks/a.png"],
        "masks/a.png: is 45 x 37, masks/b.png is 32 x 40; make the mask of the picture's size",
    ),
    (
        ["--measured", "photos", "--mask", "masks/a.png"],
        "masks/a.png: is 45 x 37, photos/b.png is 32 x 40",
    ),
    (
        ["--measured", "photos/a.png", "--mask", "black.png"],
        "black.png: this mask leaves nothing of the picture",
    ),
    (
        ["--measured", "photos/a.png", "--mask", "photos/x.png"],
        "photos/x.png: cannot be read (No such file or directory)",
    ),
    (
        ["--measured", "photos", "--kernel", "photos"],
        "--kernel photos: has no file called a, for photos/a.png",
    ),
    (
        ["--measured", "photos/a.png", "--kernel", "photos/a.png"],
        "--kernel photos/a.png: is the picture itself",
    ),
    (
        ["--measured", "photos/a.png", "--mask", "empty"],
        "--mask empty: has no file called a or a_mask, for photos/a.png",
    ),
    (
        ["--measured", "photos/a.png", "--kernel", "large.npy"],
        "large.npy: this kernel, 41 x 39, is larger than photos/a.png, 45 x 37",
    ),
    (["--measured", "photos/a.png", "--kernel", "zero.npy"], "zero.npy: is no kernel"),
    (
        ["--measured", "photos/a.png", "--kernel", "text.npy"],
        "text.npy: cannot be read as a kernel",
    ),
    (
        ["--measured", "photos/a.png", "--kernel", "kernel.npy", "--mask", "masks"],
        "argument --mask: not allowed with argument --kernel",
    ),
    (["--measured", "photos/a.png", "--sigma", "0"], "--sigma 0: no file is without noise"),
    (
        ["--measured", "photos/a.png", "--sigma", "3"],
        "argument --sigma: must be 0 or more, 1 at most",
    ),
    (["--measured", "photos/a.png", "--scale", "1"], "argument --scale: must be 2 or more"),
    (
        ["--measured", "photos/a.png", "--scale", "2", "-t", "inpainting"],
        "--task inpainting: contradicts what is given, for --scale means super_resolution",
    ),
    (
        ["--measured", "photos/a.png", "-t", "inpainting"],
        "for none of --mask, --kernel, --blind and --scale means denoising",
    ),
    (
        ["--measured", "photos/a.png", "--data", "photos"],
        "--data: is for pictures that a run degrades itself",
    ),
    (
        ["--measured", "photos/a.png", "--resize"],
        "--resize: is for pictures that a run degrades itself",
    ),
    (
        ["--measured", "photos/a.png", "--flip-kernel"],
        "--flip-kernel: belongs to --kernel, which is not given",
    ),
    (
        ["--mask", "masks"],
        "--mask: belongs to a picture that was measured; name it with --measured",
    ),
    (["--measured", "photos/a.png", "photos/../photos/a.png"], "would share its folder of results"),
    (["--measured", "small.png"], "small.png: 20 x 40 pixels are too few to restore"),
    (
        ["--measured", "photos/a.png", "--tile", "60"],
        "--tile 60: must be a multiple of 8, 64 or more",
    ),
    (
        ["--data", "photos", "-t", "super_resolution"],
        "photos/a.png: 45 x 37: configs/tasks/super_resolution_config.yaml: "
        "measurement.operator.scale_factor is 4, must be a whole number that divides 37 and 45",
    ),
]


@pytest.mark.parametrize("given, said", BAD, ids=[said for _, said in BAD])
def test_bad_input_is_one_line(photos, script, workspace, given, said):
    Image.new("L", (45, 37)).save("black.png")
    Image.new("L", (20, 40)).save("small.png")
    os.makedirs("empty")
    np.save("large.npy", np.ones((38, 40)))
    np.save("zero.npy", np.zeros((3, 3)))
    open("text.npy", "w").write("no array")
    result = script("dmilo.py", *given, *SHORT)
    assert result.code == 2, result.err
    assert (
        len(result.err.splitlines()) == 1
        and result.err.startswith("dmilo.py: error: ")
        and said in result.err
    )
    assert not os.path.exists("dmilo")
