"""Files of photographs: masks, kernels, folders and images as other programs write them, each
reported in a line and understood as it is meant."""

import io
import json
import os
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from test_measured import photographs

from experiment.restoration import Separately, surroundings
from guided_diffusion.ddim import predict_x0, timestep_of
from guided_diffusion.kernels import correlating
from guided_diffusion.tiles import AnySize
from photographs.arguments import parse_photographs
from photographs.problems import Photographs
from util.files import UserError

SIZE = 48, 64  # rows, columns


def scene(size=SIZE, seed=0):
    """(H, W, 3) uint8, smooth, nothing black or white."""
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    x = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=True).clamp(
        -0.9, 0.9
    )
    return ((x[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)


def noisy(sigma=0.02, size=SIZE, seed=0):
    noise = 127.5 * sigma * np.random.default_rng(seed).standard_normal((*size, 3))
    return (scene(size) + noise).round().clip(0, 255).astype(np.uint8)


def holed(size=SIZE):
    """A mask that is black in 5 % of a picture, else white."""
    mask = np.full(size, 255, np.uint8)
    mask[10:20, 20:35] = 0
    return mask


SHARE = 150 / (48 * 64)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a noisy photograph a.png."""
    root = os.getcwd()
    os.symlink(os.path.abspath("restore.py"), tmp_path / "restore.py")
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.syspath_prepend(root)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noisy()).save("a.png")
    return tmp_path


@pytest.fixture
def run(script, here):
    """run("a.png", …) restores without a network -> exit code, output, errors, the run's folders
    `top` and `folder`, and `result(name)`: the result's Pillow image."""
    count = iter(range(100))

    def restore(*arguments, code=0):
        name = f"r{next(count)}"
        command = f"restore.py --method least_squares --inner 3 -l runs --name {name} --cuda -1"
        result = script(command, *arguments)
        assert result.code == code, result.err + result.out
        top = here / "runs" / name
        return SimpleNamespace(
            **vars(result),
            top=top,
            folder=top / "run",
            result=lambda one: Image.open(top / f"{one}.png"),
        )

    return restore


@pytest.fixture
def look(here, monkeypatch, capsys):
    """look("a.png", …) is what restore.py reports before restoring: code, out, err, the share of
    the first photograph that is missing, its kernel with the largest value 1, its Batch and
    Problem, and the Photographs."""

    def read(*arguments, code=0):
        monkeypatch.setattr("sys.argv", ["x", "--method", "least_squares", *map(str, arguments)])
        try:
            args, options, _ = parse_photographs("")
            images = Photographs(options, args, 64)
        except UserError as error:
            assert code == 2, error
            return SimpleNamespace(err=str(error))
        assert code == 0
        batch = images.batch(images.names[:1], None, "cpu")
        mask, kernel = (batch.operator_state.get(key) for key in ("mask", "kernel"))
        return SimpleNamespace(
            out="\n".join(images.report),
            err=capsys.readouterr().err + "".join(f"warning: {one}\n" for one in images.warnings),
            missing=0 if mask is None else 1 - mask[0, 0].mean().item(),
            kernel=None if kernel is None else kernel[0].numpy() / kernel.max().item(),
            batch=batch,
            problem=batch.problem,
            images=images,
        )

    return read


def save(path, array, **options):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    if path.endswith(".npy"):
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)
    return path


# Noise.


@pytest.mark.parametrize("blank", [0.1, 0.3, 0.6])
def test_a_blank_page_is_left_out_of_the_noise(look, blank):
    size = 160, 160
    array = noisy(0.1, size)
    array[: int(blank * size[0])] = 255
    save("p.png", array)
    for options in ([], ["--mask", save("m.png", holed(size))]):
        (line,) = [
            line
            for line in look("p.png", *options).out.splitlines()
            if line.startswith("p: 160 x 160")
        ]
        assert abs(float(line.split("sigma ")[1].split()[0]) - 0.1) < 0.015


@pytest.mark.parametrize("treat", ["JPEG 75", "JPEG 50", "demosaiced", "blurred 1 px"])
def test_the_spectrum_of_noise_that_is_not_white_is_estimated(look, treat):
    from noise_table import TREATMENTS

    clean = scene((160, 160)) / 127.5 - 1
    treated = TREATMENTS[treat](clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape))
    truth = (treated - TREATMENTS[treat](clean)).std()
    save("p.png", ((treated + 1) * 127.5).round().astype(np.uint8))
    result = look("p.png")
    sigma = float(result.out.split("p: 160 x 160")[1].split("sigma ")[1].split()[0])
    assert truth / 1.5 < sigma < truth * 1.5
    assert "estimated, correlated" in result.out and "correlated" not in result.err
    assert result.problem.noise.level > result.problem.sigma


@pytest.mark.parametrize("name, blank", [("astronaut", 0), ("coffee", 0.3), ("camera", 0.6)])
def test_fine_texture_is_not_taken_for_white_noise(name, blank):
    """Of 1.05, 1.02 and 1.13; without the components of patches it is 1.24, 1.20 and 1.13."""
    from noise_table import estimate

    noise, truth = estimate(name, 0.02, "white", blank)
    assert noise.kind == "white" and abs(noise.sigma / truth - 1) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("blank", [0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "camera", "rocket"])
def test_the_noise_of_photographs(name, blank):
    """The table of tests/noise_table.py."""
    from noise_table import SIGMAS, TREATMENTS, estimate

    for treatment in TREATMENTS:
        for sigma in SIGMAS:
            noise, truth = estimate(name, sigma, treatment, blank)
            if treatment == "white":
                assert abs(noise.sigma / truth - 1) < 0.15, (sigma, noise)
            assert (
                noise.kind in ("coloured", "hidden") or truth / 1.5 < noise.sigma < 1.5 * truth
            ), (treatment, sigma, noise, truth)


def test_pictures_of_one_camera_share_a_batch(here):
    from experiment.runner import batches_of

    for seed in range(12):
        save(f"set/{seed}.png", noisy(0.05, (96, 96), seed))
    assert len(batches_of(photographs("set"), 12)) <= 4


def test_a_grey_photographs_noise_is_estimated_in_one_channel(look):
    from skimage import data

    grey = data.gravel()[:256, :256] / 127.5 - 1
    noise = 0.05 * np.random.default_rng(0).standard_normal(grey.shape)
    noisy_grey = ((grey + noise + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    sigmas = []
    for file, array in (("l.png", noisy_grey), ("rgb.png", np.dstack([noisy_grey] * 3))):
        save(file, array)
        sigmas.append(look(file).problem.sigma)
    assert sigmas[0] == sigmas[1] and 0.04 < sigmas[0] < 0.07  # gravel has grain of its own


def tinted_jpeg(path, quality=50):
    """A grey scene whose RGB JPEG has channels some steps apart, as after a change of profile."""
    grey = scene((96, 128))[..., :1].astype(int)
    tint = np.add.outer(np.arange(96) // 16 % 2, np.arange(128) // 16 % 2) % 2
    colours = grey + tint[..., None] * [2, -1, -2]
    save(path, colours.clip(0, 255).astype(np.uint8), quality=quality)
    return np.ptp(np.asarray(Image.open(path)).astype(int), axis=2)


@pytest.mark.parametrize("file", ["g.png", "g.jpg", "g.webp", "wide.png", "opaque.png"])
def test_a_grey_photograph_saved_as_rgb_stays_grey(run, file):
    grey = np.dstack([noisy()[..., 0]] * 3)
    if file == "g.jpg":
        apart = tinted_jpeg(file)
        assert 2 < apart.max() <= 8 and apart.mean() > 0.5
    elif file == "wide.png":
        from util.images import write_png16

        write_png16(file, grey.astype(np.uint16) * 257, {})
    elif file == "opaque.png":  # what is transparent has no colour
        grey[holed() == 0] = [255, 0, 0]
        save(file, np.dstack([grey, holed()]))
    else:
        save(file, grey, **({"lossless": True} if file == "g.webp" else {}))
    result = run(file, "--sigma", 0.02)
    assert ": 128 x 96" in result.out or ": 64 x 48" in result.out
    assert "grey, " in result.out
    assert result.result(file.split(".")[0]).mode in ("L", "I;16")


@pytest.mark.parametrize("kind", ["colours", "one red dot", "dark colours", "sepia"])
def test_what_is_not_grey_keeps_its_colours(look, kind):
    array = np.dstack([scene()[..., 0]] * 3).astype(int)
    if kind == "colours":
        array = noisy().astype(int)
    elif kind == "one red dot":
        array[5, 5] += [40, 0, 0]
    elif kind == "dark colours":
        array = scene().astype(int) // 32
    else:
        array = array + [14, 0, -14]
    save("p.png", array.clip(0, 255).astype(np.uint8))
    assert "RGB, 8 bits" in look("p.png").out


# Masks.


def test_the_share_missing_is_reported_and_an_inverted_mask_is_suspected(look):
    save("m.png", holed())
    result = look("a.png", "--mask", "m.png")
    assert "4.9% missing" in result.out and "--invert-mask" not in result.err
    save("m.png", 255 - holed())
    warning = look("a.png", "--mask", "m.png").err
    assert "m.png: 95% of a.png is missing" in warning and "--invert-mask" in warning
    inverted = look("a.png", "--mask", "m.png", "--invert-mask")
    assert "4.9% missing" in inverted.out and inverted.missing == pytest.approx(SHARE)


def painted(colour):
    """A layer on which the hole is painted."""
    layer = np.zeros((*SIZE, 4), np.uint8)
    layer[holed() == 0] = (*colour, 255)
    return layer


@pytest.mark.parametrize(
    "file, array, options",
    [
        ("m.png", holed() // 255, {}),
        ("m.png", holed() > 0, {}),
        ("m.png", holed().astype(np.uint16) * 257, {}),
        ("m.tif", (holed() > 0).astype(np.float32), {}),
        ("m.npy", holed() > 0, {}),
        ("m.jpg", holed(), {"quality": 90}),
        ("m.png", painted((0, 0, 0)), {}),
        ("m.png", np.dstack([scene(), holed()]), {}),
        ("m.png", "palette", {}),
        ("m.gif", holed(), {}),
    ],
    ids=[
        "0 and 1",
        "1 bit",
        "16 bits",
        "float TIFF",
        "npy",
        "JPEG",
        "black on a layer",
        "a photograph with a hole",
        "palette",
        "GIF",
    ],
)
def test_a_masks_values_are_what_they_mean(look, file, array, options):
    if isinstance(array, str):  # as annotation programs save classes
        image = Image.fromarray((holed() > 0).astype(np.uint8)).convert("P")
        image.putdata((holed() > 0).astype(np.uint8).ravel())
        image.putpalette([0, 0, 0, 128, 0, 0])
        image.save(file)
    else:
        save(file, array, **options)
    assert look("a.png", "--mask", file).missing == pytest.approx(SHARE, rel=0.15)


@pytest.mark.parametrize(
    "values", [np.full(SIZE, 128, np.uint8), scene(seed=3)], ids=["grey", "a photograph"]
)
def test_what_is_no_mask_is_refused(look, values):
    save("m.png", values)
    assert "m.png: " in look("a.png", "--mask", "m.png", code=2).err
    assert "--mask a.png: " in look("a.png", "--mask", "a.png", code=2).err
    Image.fromarray(holed()).save("p.tif", save_all=True, append_images=[Image.fromarray(holed())])
    assert "p.tif: has 2 pages" in look("a.png", "--mask", "p.tif", code=2).err


def test_of_a_soft_edge_nothing_that_is_half_scratch_is_measured_and_a_hole_can_grow(look):
    row = np.full(SIZE, 255, np.uint8)
    row[:, 20:30], row[:, 30:33] = 0, (100, 180, 230)
    save("m.png", row)
    assert look("a.png", "--mask", "m.png").missing == 13 / 64
    assert look("a.png", "--mask", "m.png", "--grow", 2).missing == 17 / 64


@pytest.mark.parametrize("mask", ["a_mask.png", "a_mask001.png", "a-mask.jpg"])
def test_masks_beside_their_photographs_are_recognised_by_their_names(look, mask):
    save("set/a.png", noisy())
    save(f"set/{mask}", holed())
    result = look("set", "--mask", "set")
    assert result.images.names == ["a"] and result.missing == pytest.approx(SHARE, rel=0.15)


def test_several_masks_for_a_picture_are_named(look):
    save("set/a.png", noisy())
    for n in (0, 1):
        save(f"set/a_mask00{n}.png", holed())
    error = look("set", "--mask", "set", code=2).err
    assert "set/a.png (a_mask000.png, a_mask001.png)" in error


def test_what_is_transparent_is_missing(run):
    save("a.png", np.dstack([np.where(holed()[..., None] == 0, 255, noisy()), holed()]))
    result = run("a.png", "--inner", 60)
    assert "inpainting" in result.out and "4.9% missing, transparent" in result.out
    filled = np.asarray(result.result("a"), float)
    # Not the white of the hole's colour.
    assert filled.shape == (*SIZE, 3) and np.abs(filled - scene())[holed() == 0].mean() < 20
    save("m.png", np.flipud(holed()))
    assert "9.8% missing, transparent" in run("a.png", "--mask", "m.png").out


def test_observed_px_can_be_kept_as_they_are(run):
    save("m.png", holed())
    result = np.asarray(run("a.png", "--mask", "m.png", "--keep-observed").result("a"))
    assert np.array_equal(result[holed() > 0], noisy()[holed() > 0])
    assert not np.array_equal(result, noisy())
    assert "--keep-observed: " in run("a.png", "--keep-observed", code=2).err


@pytest.mark.parametrize("grey", [False, True])
def test_of_a_large_photograph_that_is_kept_only_the_holes_are_restored(run, grey):
    image, mask = noisy(size=(200, 300)), holed((200, 300))
    image = image[..., 0] if grey else image
    save("p.png", image)
    save("m.png", mask)
    result = run("p.png", "--mask", "m.png", "--keep-observed")
    assert "p: 300 x 200, inpainting" in result.out and "0.2% missing" in result.out
    assert "67 x 52 around the holes restored, the rest left as it is" in result.out
    filled = np.asarray(result.result("p"))
    assert filled.shape == image.shape and not np.array_equal(filled, image)
    assert np.array_equal(filled[mask > 0], image[mask > 0])
    y = np.load(result.folder / "images" / "p" / "measurement.npy")
    assert y.shape == (3, 52, 67)


def test_of_a_large_photograph_what_is_far_from_small_holes_is_denoised_once(look, tiny_model):
    mask = holed((200, 300))
    save("p.png", noisy(size=(200, 300)))
    save("m.png", mask)
    result = look("p.png", "--mask", "m.png")
    assert "67 x 52 around the holes restored, the rest denoised once" in result.out
    assert result.problem.size == (52, 67)
    photograph = result.batch.sources[0].whole
    rest = surroundings(result.batch, AnySize(tiny_model), 0)
    timestep = timestep_of(result.problem.sigma)
    z = timestep.abar**0.5 * photograph[None]
    eps = AnySize(tiny_model, 256)(z, torch.full((1,), timestep.t))
    assert torch.allclose(rest, predict_x0(z, eps, timestep.abar)[0], atol=1e-5)
    assert not torch.equal(rest, photograph)
    mask[100:190:30] = 0  # holes all over: all of it is restored
    save("m.png", mask)
    assert "around the holes" not in look("p.png", "--mask", "m.png").out


@pytest.mark.usefixtures("tiny_prior", "short_searches")
def test_samples_of_a_photograph_with_a_small_hole_have_its_size_and_place(script, here):
    mask = holed((200, 300))
    save("p.png", noisy(size=(200, 300)))
    save("m.png", mask)
    command = "restore.py p.png --mask m.png --samples 3 --keep-observed -l runs --name r --cuda -1"
    result = script(command)
    assert result.code == 0, result.err
    pictures, window = here / "runs/r/run/images/p", (slice(0, 52), slice(0, 67))

    def load(name):
        return np.asarray(Image.open(pictures / f"{name}.png"))

    kept = np.delete(np.arange(200), range(52))  # rows far from the hole
    for which in ("mean", "sample_0", "sample_2", "result"):
        assert load(which).shape == (200, 300, 3)
        assert np.array_equal(load(which)[kept], noisy(size=(200, 300))[kept])
    spread = load("spread")
    assert spread.shape == (200, 300) and spread[window].max() == 255
    spread = spread.copy()
    spread[window] = 0
    assert not spread.any()
    interval = np.load(pictures / "interval.npz")
    for bound in ("low", "high"):
        assert interval[bound].shape == (3, 200, 300)
        inside = ~np.isnan(interval[bound])
        assert inside[(..., *window)].all() and inside.sum() == 3 * 52 * 67
    assert np.array_equal(np.asarray(Image.open("runs/r/p.png")), load("mean"))
    assert not np.array_equal(load("mean"), load("sample_0"))
    assert "the restored picture is the mean of 3 samples" in result.out
    summary = json.loads((here / "runs/r/run/summary.json").read_text())
    assert summary["samples"]["result"] == "mean"


def test_the_seconds_of_a_photograph_include_what_lies_around_its_window(run, monkeypatch):
    def slowly(batch, model, i):
        time.sleep(0.4)
        return surroundings(batch, model, i)

    monkeypatch.setattr("experiment.restoration.surroundings", slowly)
    save("p.png", noisy(size=(200, 300)))
    save("m.png", holed((200, 300)))
    result = run("p.png", "--mask", "m.png", "--sigma", 0.02)
    assert json.loads((result.folder / "record" / "p.json").read_text())["seconds"] > 0.4


def speckled(size, *corners):
    """A mask with specks of 6 x 6 px at these (row, column)."""
    mask = np.full(size, 255, np.uint8)
    for row, column in corners:
        mask[row : row + 6, column : column + 6] = 0
    return mask


@pytest.mark.parametrize("corners", [[(4, 5), (250, 380)], [(4, 380), (150, 200), (290, 5)]])
def test_holes_far_apart_are_restored_each_with_its_surroundings(look, tiny_model, corners):
    size = 300, 400
    save("p.png", noisy(size=size))
    save("m.png", speckled(size, *corners))
    result = look("p.png", "--mask", "m.png")
    assert "around the holes restored, the rest denoised" in result.out
    height, width = result.problem.size
    assert height * width < 0.3 * size[0] * size[1] and height <= 70
    source, mask = result.batch.sources[0], result.batch.operator_state["mask"]
    assert (mask == 0).sum() == 36 * len(corners)
    # What is cut out returns to its position.
    marked = source.pasted(torch.zeros(1, *size), 1 - mask[0])[0]
    assert np.array_equal(marked.numpy() == 1, speckled(size, *corners) == 0)
    y = source.pasted(torch.zeros(3, *size), result.problem.y[0])
    inside = y != 0
    assert torch.equal(y[inside], source.whole[inside]) and inside.any()
    # The network does not look across their borders.
    eps, t, x = AnySize(tiny_model), torch.ones(1), torch.randn(1, 3, height, width)
    separate = Separately(eps, result.batch.widths)(x, t)
    first = result.batch.widths[0]
    assert (
        torch.equal(separate[..., :first], eps(x[..., :first], t))
        and sum(result.batch.widths) == width
    )


def test_two_specks_in_opposite_corners_cost_twice_one(look):
    size, sides = (1500, 2000), []
    save("p.png", np.tile(scene((150, 200)), (10, 10, 1)))
    for corners in ([(20, 30)], [(20, 30), (1470, 1960)], [(20, 30), (700, 90)]):
        save("m.png", speckled(size, *corners))
        result = look("p.png", "--mask", "m.png", "--sigma", 0.02)
        sides.append(result.problem.size[0] * result.problem.size[1])
    assert sides[1] <= 2.5 * sides[0] and sides[2] <= 3.5 * sides[0]  # the middle one is no corner


@pytest.mark.usefixtures("tiny_prior", "short_searches")
@pytest.mark.parametrize("preset", ["quick", "fast", "posterior --samples 2"])
def test_a_photograph_with_holes_far_apart_is_whole_again(script, here, preset):
    size, corners = (200, 300), [(4, 5), (180, 280)]
    save("p.png", noisy(size=size))
    save("m.png", speckled(size, *corners))
    command = f"restore.py p.png --mask m.png --preset {preset} -l runs --name r --cuda -1"
    for _ in range(2):  # resumed
        result = script(command + " --keep-observed")
        assert result.code == 0, result.err
    restored = np.asarray(Image.open("runs/r/p.png"))
    same = (restored == noisy(size=size)).all(2)
    assert same[speckled(size, *corners) == 255].all() and not same[4:10, 5:11].all()
    assert not same[180:186, 280:286].all()


# Kernels.


def shake():
    kernel = np.zeros((9, 9))
    kernel[4, 1:8] = [1, 2, 3, 4, 3, 2, 1]
    return kernel


@pytest.mark.parametrize(
    "file, array",
    [
        ("k.tif", (shake() / shake().sum()).astype(np.float32)),
        ("k.tif", (7500 * shake()).astype(np.float32)),
        ("k.tif", (7500 * shake()).astype(np.uint16)),
        ("k.npy", shake()[None]),
        ("k.png", np.dstack([np.full((9, 9, 3), 255), 63 * shake()]).astype(np.uint8)),
        ("k.png", np.dstack([np.zeros((9, 9, 3)), 63 * shake()]).astype(np.uint8)),
        ("k.png", np.dstack([63 * shake()] * 3).astype(np.uint8)),
        ("k.tif", "float64"),
    ],
    ids=[
        "float TIFF, sum 1",
        "float TIFF, 30000",
        "16 bits",
        "npy with a dimension of 1",
        "white on nothing",
        "black on nothing",
        "RGB",
        "float64 TIFF",
    ],
)
def test_a_kernels_values_are_what_they_are(look, file, array):
    if isinstance(array, str):
        import tifffile

        tifffile.imwrite(file, shake())
    else:
        save(file, array)
    result = look("a.png", "--kernel", file)
    assert (
        np.abs(result.kernel - shake()[4:5, 1:8] / 4).max() < 0.02
        and "warning: k" not in result.err
        and "kernel 7 x 1, trimmed from 9 x 9" in result.out
    )


@pytest.mark.parametrize(
    "file, message",
    [
        ("k.npy", "k.npy: is a stack, 5 x 9 x 9"),
        ("k.tif", "k.tif: is a stack of 5 pages"),
        ("k.fits", "k.fits: is FITS"),
        ("k.mat", "k.mat: cannot be read"),
        ("c.npy", "its numbers are complex"),
    ],
)
def test_what_is_no_single_kernel_is_one_true_line(look, file, message):
    stack = [shake().astype(np.float32)] * 5
    if file == "k.tif":
        Image.fromarray(stack[0]).save(
            file, save_all=True, append_images=[Image.fromarray(one) for one in stack[1:]]
        )
    elif file.endswith(".npy"):
        np.save(file, np.stack(stack) if file == "k.npy" else shake() + 0j)
    else:
        open(file, "wb").write(b"SIMPLE  =                    T")
    assert message in look("a.png", "--kernel", file, code=2).err


def coloured():
    from matplotlib import colormaps

    return (255 * colormaps["viridis"](shake() / 4)[..., :3]).astype(np.uint8)


@pytest.mark.parametrize(
    "make, warning",
    [
        (coloured, "it is coloured"),
        (coloured, "its border is not dark (14% "),
        (lambda: (255 - 63 * shake()).astype(np.uint8), "its border is not dark (100% "),
        (lambda: (30 + 50 * shake()).astype(np.uint8), "its border is not dark (13% "),
    ],
    ids=["colour map", "colour map's border", "black on white", "background"],
)
def test_what_would_count_as_blur_and_is_none_is_warned_of(look, make, warning):
    save("k.png", make())
    assert f"warning: k.png: {warning}" in look("a.png", "--kernel", "k.png").err


def test_a_kernel_off_its_middle_is_warned_of_and_can_be_centred(look):
    save("k.npy", np.roll(shake(), (2, -1), (0, 1)))
    assert "2.0 px below and 1.0 px left" in look("a.png", "--kernel", "k.npy").err
    centred = look("a.png", "--kernel", "k.npy", "--centre-kernel")
    assert "centre of mass" not in centred.err
    kernel = centred.kernel
    rows, columns = (
        np.average(np.arange(side) - side // 2, weights=kernel.sum(axis))
        for side, axis in zip(kernel.shape, (1, 0))
    )
    assert abs(rows) < 0.05 and abs(columns) < 0.05


def test_a_picture_blurred_and_reduced_is_restored_so(here):
    from guided_diffusion.measurements import reducing

    save("k.npy", shake())
    batch = photographs("a.png", kernel="k.npy", scale=2).batch(["a"], None, "cpu")
    problem = batch.problem
    assert problem.size == (2 * 48, 2 * 64 + 6)  # the kernel is one row of 7 px
    x = torch.rand(1, 3, *problem.size) * 2 - 1
    kernel = torch.from_numpy(shake()[4:5, 1:8] / shake().sum()).float()[None]
    torch.testing.assert_close(
        problem.operator(x), reducing((96, 128), 2, "cpu")(correlating(kernel, problem.size)(x))
    )
    assert batch.output(x).shape[-2:] == (96, 128)


# Reduction, light.


def reference(name, x):
    """x, (1, 3, H, W), reduced by 4 by another library."""
    if name in ("cubic", "nearest"):
        return torch.nn.functional.interpolate(
            x, scale_factor=0.25, mode={"cubic": "bicubic"}.get(name, name)
        )
    how = {"bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS, "area": Image.BOX}[name]
    return torch.stack(
        [
            torch.from_numpy(np.array(Image.fromarray(one.numpy()).resize((16, 12), how)))
            for one in x[0]
        ]
    )[None]


@pytest.mark.parametrize("name", ["bicubic", "lanczos", "area", "cubic", "nearest"])
def test_the_filter_of_a_reduction_is_that_of_other_programs(here, name):
    save("small.png", noisy(size=(12, 16)))
    images = photographs("small.png", scale=4, filter=name, sigma=0.02, prior_size=32)
    x = torch.rand(1, 3, 48, 64) * 2 - 1
    inside = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(
        images.batch(["small"], None, "cpu").problem.operator(x)[inside],
        reference(name, x)[inside],
        atol=1e-5,
        rtol=0,
    )
    assert f"--filter {name}" in images.report[0]


def test_a_residual_larger_than_the_noise_is_a_warning_at_the_end(run):
    array = scene((160, 160)).astype(int)
    array[::2] += 20  # rows that no reduction leaves from a picture that fits
    save("p.png", array.clip(0, 255).astype(np.uint8))
    result = run("p.png", "--kernel", save("k.npy", np.ones((9, 9))), "--sigma", 0.01)
    assert "times the noise" in result.err


def test_alpha_is_enlarged_along(run):
    save(
        "a.png",
        np.dstack(
            [noisy(size=(16, 20)), np.where(np.arange(20) > 9, 128, 255)[None].repeat(16, 0)]
        ).astype(np.uint8),
    )
    result = run("a.png", "--scale", 4, "--sigma", 0.02)
    alpha = np.asarray(result.result("a"))[..., 3]
    assert (
        alpha.shape == (64, 80)
        and alpha[0, 0] == 255
        and alpha[0, -1] == 128
        and "RGB with opacity" in result.out
    )
    assert Image.open(os.path.join(result.folder, "grid.png")).mode == "RGB"


def test_a_grey_picture_of_16_bits_with_opacity_stays_one(here):
    from photographs.reading import read_photograph
    from util.images import write_png16

    wide = np.random.default_rng(0).integers(0, 65536, (*SIZE, 2)).astype(np.uint16)
    write_png16("w.png", wide, {})
    photo = read_photograph("w.png")
    assert (photo.grey, photo.bits, photo.remarks) == (True, 16, [])
    assert np.abs((photo.x[0].double().numpy() + 1) / 2 * 65535 - wide[..., 0]).max() < 0.1
    assert np.abs(photo.alpha * 65535 - wide[..., 1]).max() < 0.1


@pytest.mark.parametrize("file, grey", [("w.tif", False), ("w.png", True), ("w.png", False)])
def test_16_bits_stay_16(run, file, grey):
    wide = (scene().astype(np.uint16) << 8) + np.random.default_rng(0).integers(
        0, 256, (*SIZE, 3)
    ).astype(np.uint16)
    if grey:
        save(file, wide[..., 0])
    elif file.endswith(".tif"):
        import tifffile

        tifffile.imwrite(file, wide, photometric="rgb")
    else:
        from util.images import write_png16

        write_png16(file, wide, {})
    y = photographs(file).batch(["w"], None, "cpu").problem.y[0]
    assert np.abs((y[0].double().numpy() + 1) / 2 * 65535 - wide[..., 0]).max() < 0.1
    save("m.png", holed())
    result = run(file, "--mask", "m.png", "--keep-observed")
    assert f"{'grey' if grey else 'RGB'}, 16 bits" in result.out
    from photographs.reading import read_photograph

    again = read_photograph(str(result.top / "w.png"))
    assert again.bits == 16 and again.grey == grey
    kept = holed() > 0
    assert np.abs((again.x[0, 0].double().numpy() + 1) / 2 * 65535 - wide[..., 0])[kept].max() < 1


def test_blur_in_linear_light_is_restored_in_linear_light(here):
    from photographs.reading import from_linear, to_linear

    truth = torch.from_numpy(scene((64, 80)) / 127.5 - 1).permute(2, 0, 1).float()[None]
    kernel = torch.from_numpy(shake() / shake().sum()).float()[None]
    y = from_linear(correlating(kernel, (64, 80))(to_linear(truth)))
    save("p.png", ((y[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8))
    save("k.npy", shake())
    images = photographs("p.png", kernel="k.npy", linear=True, prior_size=32)
    batch = images.batch(["p"], None, "cpu")
    problem = batch.problem
    x = to_linear(truth[..., 4:-4, 1:-1])  # the kernel is one row of 7 px
    assert (problem.operator(x) - problem.y).abs().max() < 2.5 / 127.5
    assert (batch.output(x) - truth[..., 4:-4, 4:-4]).abs().max() < 1e-4


def test_the_light_of_a_lamp_brighter_than_white_is_left_out_and_a_page_is_not(look):
    whole = torch.from_numpy(scene((72, 88)) / 127.5 - 1).permute(2, 0, 1).float()[None]
    whole[..., 20:23, 20:23] = 30  # a lamp
    whole[..., 40:, 50:] = 1  # a page
    kernel = torch.ones(1, 9, 9) / 81
    y = correlating(kernel, (72, 88))(whole).clamp(-1, 1)
    save("p.png", ((y[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8))
    save("k.npy", kernel[0].numpy())
    result = look("p.png", "--kernel", "k.npy")
    mask = result.batch.operator_state["mask"][0, 0]
    assert "lit by lamps brighter than white and left out of the measurement" in result.out
    assert not mask[12:23, 12:23].any() and mask[36:, 46:].all() and mask[:, 40:].all()


# Files and folders.


def wide_gamut():
    """A profile that is not sRGB: sRGB with red and green exchanged, under another name."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    table = {
        bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i
        for i in range(int.from_bytes(profile[128:132], "big"))
    }
    red, green = table[b"rXYZ"], table[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "Swap".encode("utf-16-be"))


def test_colours_are_converted_to_srgb_and_resolution_and_date_go_along(run):
    exif = Image.Exif()
    exif[306], exif[274] = "2026:01:02 03:04:05", 1
    save("a.png", noisy(), icc_profile=wide_gamut(), dpi=(300, 300), exif=exif)
    result = run("a.png")
    assert "profile Swap" in result.out and "converted to sRGB" in result.out
    image = result.result("a")
    values = np.asarray(image, float)
    exchanged = values[..., [1, 0, 2]]
    assert np.abs(exchanged - noisy()).mean() < 12 < np.abs(values - noisy()).mean()
    assert round(image.info["dpi"][0]) == 300 and image.getexif()[306] == "2026:01:02 03:04:05"


def test_a_profile_that_cannot_be_used_is_reported(look):
    save("a.png", noisy(), icc_profile=b"x" * 200)
    assert "its colour profile cannot be used" in look("a.png").out
    Image.fromarray(noisy()).convert("CMYK").save("c.jpg")
    assert "CMYK without a profile" in look("c.jpg").out


def test_what_is_not_read_is_named(look):
    save("set/a.png", noisy())
    for name in ("b.HEIC", "c.NEF"):
        open(f"set/{name}", "w").write("x")
    assert "set: not read: b.HEIC, c.NEF (" in look("set").err
    os.makedirs("empty")
    err = look("empty", code=2).err
    assert "empty: no images in it" in err and "--data" not in err


def test_a_raw_file_is_not_its_thumbnail(look):
    Image.fromarray(noisy()).save("c.NEF", "TIFF")  # as which Pillow reads it
    assert "c.NEF: is a camera's raw file" in look("c.NEF", code=2).err


@pytest.mark.parametrize("file", ["p.tif", "p.png", "p.webp", "p.gif"])
def test_pages_left_out_are_reported(look, file):
    Image.fromarray(noisy()).save(
        file, save_all=True, append_images=[Image.fromarray(noisy(seed=one)) for one in range(1, 5)]
    )
    assert "1 of 5 pages" in look(file).out


@pytest.mark.parametrize(
    "given", [["cam"], ["cam/100", "cam/101"], ["cam/100/I.png", "cam/101/I.png"]]
)
def test_pictures_that_are_called_alike_go_by_their_paths(run, given):
    for folder in ("100", "101"):
        save(f"cam/{folder}/I.png", noisy())
        save(f"masks/{folder}/I.png", holed())
    result = run(*given, "--mask", "masks")
    assert {"100", "101"} < set(os.listdir(result.top)) and "101/I: 64 x 48" in result.out


def test_a_bad_file_ends_no_run_and_is_named_at_its_end(run):
    for seed in range(3):
        save(f"set/{seed}.png", noisy(seed=seed))
    whole = io.BytesIO()
    Image.fromarray(noisy(size=(200, 200))).save(whole, "JPEG")
    open("set/bad.jpg", "wb").write(whole.getvalue()[: len(whole.getvalue()) // 2])
    result = run("set", code=1)
    assert (
        "warning: bad has failed: set/bad.jpg: cannot be read as an image"
        in result.err.splitlines()[-1]
    )
    summary = json.load(open(os.path.join(result.folder, "summary.json")))
    assert summary["images"] == 3 and list(summary["failed"]) == ["bad"]
    assert "set/bad.jpg: cannot be read" in run("set/bad.jpg", code=2).err


def test_a_file_that_was_mended_is_restored_by_the_same_command(script, here):
    save("set/0.png", noisy())
    open("set/1.png", "wb").write(b"x")
    command = "restore.py set --method least_squares --inner 2 -l runs --name r --cuda -1"
    assert script(command).code == 1
    save("set/1.png", noisy())
    assert script(command).code == 0 and os.path.exists("runs/r/1.png")


def test_what_is_wrong_with_one_mask_of_many_fails_that_photograph(run):
    for name in ("a", "b"):
        save(f"set/{name}.png", noisy())
        save(f"masks/{name}.png", holed())
    open("masks/b.png", "wb").write(b"x")
    result = run("set", "--mask", "masks", code=1)
    assert "warning: b has failed: masks/b.png: " in result.err
    assert (result.top / "a.png").exists() and not (result.top / "b.png").exists()


def test_pictures_are_read_when_their_turn_comes(here):
    """What is held of each at the beginning is less than a hundredth of its array."""
    import pickle

    for seed in range(4):
        save(f"set/{seed}.png", noisy(seed=seed))
    held = photographs("set", mask=save("m.png", holed()))
    assert len(pickle.dumps([held.keys, held.digests, held.report, held.paths])) < 4 * 500


@pytest.mark.slow
def test_many_photographs_are_batches_for_a_method_without_a_network_too(run, monkeypatch):
    for seed in range(12):
        save(f"set/{seed}.png", noisy(seed=0))
    sizes, batch = [], Photographs.batch

    def count(self, names, *arguments):
        sizes.append(len(names))
        return batch(self, names, *arguments)

    monkeypatch.setattr(Photographs, "batch", count)
    run("set")
    assert sum(sizes) == 12 and max(sizes) <= 4 * 64 * 64 // (48 * 64)


@pytest.mark.parametrize(
    "given, message",
    [
        (["--invert-mask"], "--invert-mask: requires --mask"),
        (["--grow", 2], "--grow: requires --mask"),
        (["--filter", "area"], "--filter: requires --scale"),
        (["--centre-kernel"], "--centre-kernel: requires --kernel"),
        (["--linear"], "--linear: requires --kernel or --blind or --scale"),
        (["--scale", 2, "--mask", "a.png"], "--scale: not with --mask"),
        (["--scale", 2, "--blind", 5], "--scale: not with --blind"),
    ],
)
def test_options_that_mean_nothing_alone_are_one_line(run, given, message):
    assert message in run("a.png", *given, code=2).err


# Several jobs, folders with results.


def test_results_below_the_album_are_no_input(script, here):
    for folder in ("june", "july"):
        save(f"album/{folder}/a.png", noisy())
    command = (
        "restore.py album --method least_squares --inner 2 --sigma 0.02 -l album/done --cuda -1"
    )
    names = []
    for name in ("first", "second"):
        result = script(f"{command} --name {name}")
        assert result.code == 0, result.err
        names.append(sorted(os.listdir(f"album/done/{name}/run/images")))
    assert names == [["july", "june"]] * 2 and "2 images" in result.out
    assert "album: not read: done/first/ (results of a run)" in result.err
    again = script(
        "restore.py album/done/first/july --method least_squares --inner 2 --cuda -1 -l x"
    )
    assert again.code == 0  # named by the user


def test_two_jobs_of_one_second_have_two_folders(script, here, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "2026-01-01_00-00-00")
    for folder in "ab":
        save(f"{folder}/scan.png", noisy(seed=ord(folder)))
        command = f"restore.py {folder}/scan.png --method least_squares --inner 2 --cuda -1 -l runs"
        assert script(command).code == 0
    assert sorted(os.listdir("runs")) == ["2026-01-01_00-00-00", "2026-01-01_00-00-00-2"]
    assert all(os.path.exists(f"runs/{one}/scan.png") for one in os.listdir("runs"))


def test_of_two_jobs_in_one_folder_the_later_one_is_checked_against_the_first(here, monkeypatch):
    """Both find no settings; the other one writes its own before this one does."""
    from experiment import folder

    exists = os.path.exists

    os.makedirs("runs/r")
    calls = iter([True])

    def once(path):
        if str(path).endswith("settings.json") and next(calls, False):
            with open(path, "w") as f:
                json.dump({"format": folder.FORMAT, "seed": 1, "tile": 64}, f)
            return False
        return exists(path)

    monkeypatch.setattr(folder.os.path, "exists", once)
    with pytest.raises(UserError, match="runs/r: was created with seed 1, now it is 2"):
        folder.open_run("runs/r", {"seed": 2}, {"tile": None}, {})
    assert json.load(open("runs/r/settings.json"))["seed"] == 1
    assert folder.open_run("runs/r", {"seed": 1}, {"tile": None}, {}) == {"tile": 64}


def test_settings_that_another_job_is_writing_are_waited_for(here):
    import threading

    from experiment import folder

    os.makedirs("runs/r")
    open("runs/r/settings.json", "w").close()
    text = json.dumps({"format": folder.FORMAT, "seed": 1})
    timer = threading.Timer(0.3, lambda: open("runs/r/settings.json", "w").write(text))
    timer.start()
    assert folder.open_run("runs/r", {"seed": 1}, {}, {}) == {}
    timer.join()


# Transparency of some, names, kernels.


def test_one_transparent_file_does_not_change_what_is_done_with_the_others(run):
    save("set/a.png", noisy())
    save("set/cut.png", np.dstack([noisy(), holed()]))
    result = run("set", code=1)
    assert "a: 64 x 48, denoising" in result.out and (result.top / "a.png").exists()
    assert "cut.png: has transparent areas, which others of these files lack" in result.err
    os.rename("set/a.png", "a.png")
    assert "cut: 64 x 48, inpainting" in run("set").out


@pytest.mark.parametrize("given, found_as", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("suffix", ["", "_mask"])
def test_names_are_paired_however_their_accents_are_composed(look, given, found_as, suffix):
    from unicodedata import normalize

    photo, other = (normalize(form, "Mühle") for form in (given, found_as))
    assert photo != other
    save(f"set/{photo}.png", noisy())
    save(f"masks/{other}{suffix}.png", holed())
    assert look("set", "--mask", "masks").missing == pytest.approx(SHARE)
    save(f"set/{other}{suffix or '_mask'}.png", holed())  # beside it: no photograph
    assert len(look("set", "--mask", "set").images.names) == 1
    if not suffix:
        save(f"kernels/{other}.npy", shake())
        assert look(f"set/{photo}.png", "--kernel", "kernels").kernel is not None


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1, 9), (9, 1, 1)])
def test_a_kernel_of_one_row_is_one(look, shape):
    save("k.npy", np.ones(shape))
    h, w = shape[-2:] if shape[0] == 1 or len(shape) == 2 else shape[:2]
    assert look("a.png", "--kernel", "k.npy").kernel.shape == (h, w)


def test_several_kernels_for_a_picture_are_named_and_other_files_are_none(look):
    save("kernels/a.npy", shake())
    for name in ("a.json", "a.txt.bak", "a.md"):
        open(f"kernels/{name}", "w").write("{}")
        open(f"kernels/{name.replace('a', 'a_mask')}", "w").write("{}")
    assert look("a.png", "--kernel", "kernels").kernel is not None
    save("kernels/a_mask.png", holed())
    assert look("a.png", "--mask", "kernels", code=2).err.count("a.npy") == 1  # a mask could be one
    os.unlink("kernels/a_mask.png")
    save("kernels/a.png", (63 * shake()).astype(np.uint8))
    error = look("a.png", "--kernel", "kernels", code=2).err
    assert "has several kernels for a.png (a.npy, a.png); leave one there" in error


# TIFF of other channels, codecs, EXIF, FITS, true reasons.


def wide_scene(channels=3):
    """(H, W, channels) uint16; the fourth channel is dark in a spot, as infrared at dust."""
    wide = scene().astype(np.uint16) * 257
    infrared = np.full(SIZE, 60000, np.uint16)
    infrared[10:14, 20:24] = 300
    return np.dstack([wide, *[infrared] * (channels - 3)])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", [0, None, "planar", "five"])
def test_a_channel_that_is_no_opacity_is_left_out_and_said(look, bits, kind):
    import tifffile

    wide = wide_scene(5 if kind == "five" else 4)
    array = wide if bits == 16 else (wide >> 8).astype(np.uint8)
    extra = {None: None, "five": [0, 0]}.get(kind, [0])
    options = {"photometric": "rgb", "extrasamples": extra}
    if kind == "planar":
        array = np.moveaxis(array, -1, 0)
        options["planarconfig"] = "separate"
    tifffile.imwrite("i.tif", array, **options)
    if kind is None:  # tifffile always writes the tag: here another number
        tag, other = (struct.pack("<HHI", number, 3, 1) for number in (338, 65000))
        data = open("i.tif", "rb").read()
        open("i.tif", "wb").write(data.replace(tag, other))
        assert tag in data
    if (kind, bits) in (("five", 16), ("planar", 8)):
        assert "i.tif: " in look("i.tif", code=2).err
        return
    result = look("i.tif")
    assert (
        f"RGB, {bits} bits, its 4th channel is not used; if it is infrared, --infrared"
        in result.out
    )
    assert "denoising" in result.out and result.missing == 0
    y = (result.problem.y[0].permute(1, 2, 0).double().numpy() + 1) / 2
    assert np.abs(y - wide_scene() / 65535).max() < (1e-4 if bits == 16 else 3e-3)


def test_opacity_of_a_16_bit_tiff_is_still_opacity(look):
    import tifffile

    wide = wide_scene(4)
    wide[..., 3] = holed().astype(np.uint16) * 257
    tifffile.imwrite("o.tif", wide, photometric="rgb", extrasamples=["unassalpha"])
    assert look("o.tif").missing == pytest.approx(SHARE)


def test_cmyk_of_16_bits_is_refused_in_a_true_line(look):
    import tifffile

    tifffile.imwrite("c.tif", wide_scene(4), photometric="separated")
    assert "c.tif: is CMYK of 16 bits; convert it to RGB" in look("c.tif", code=2).err


@pytest.mark.parametrize("codec", ["lzw", "zstd", "deflate", "packbits"])
def test_a_compressed_tiff_of_16_bits_keeps_them_or_says_what_to_install(look, monkeypatch, codec):
    import tifffile

    pytest.importorskip("imagecodecs")
    wide = wide_scene()
    wide[..., 0] += 3  # lost in 8 bits
    tifffile.imwrite("z.tif", wide, photometric="rgb", compression=codec)
    result = look("z.tif")
    y = (result.problem.y[0, 0].double().numpy() + 1) / 2 * 65535
    assert np.abs(y - wide[..., 0]).max() < 0.1 and "RGB, 16 bits" in result.out
    assert "bits" not in result.err

    def without(*arguments, **options):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile, "imread", without)
    result = look("z.tif")
    assert "z.tif: only the upper 8 of its 16 bits are read" in result.err
    assert "pip install imagecodecs" in result.err


@pytest.mark.parametrize("kind", ["miniswhite", "signed"])
def test_16_bits_of_another_white_are_read_as_they_are_meant(look, kind):
    import tifffile

    grey = wide_scene()[..., 1]
    if kind == "signed":
        tifffile.imwrite("g.tif", (grey >> 1).astype(np.int16), photometric="minisblack")
    else:
        tifffile.imwrite("g.tif", 65535 - grey, photometric=kind)
    y = (look("g.tif").problem.y[0, 0].double().numpy() + 1) / 2 * 65535
    assert np.abs(y - grey).max() < 3


def test_a_tiff_that_cannot_be_decoded_is_refused_with_its_compression(look):
    import tifffile

    tifffile.imwrite("j.tif", wide_scene(), photometric="rgb", compression="jpeg2000")
    assert "3 channels of uint16, compressed by JPEG2000; save it" in look("j.tif", code=2).err


def exif_of_a_camera():
    exif = Image.Exif()
    for tag, value in {270: "The mill", 271: "Maker", 315: "A. Photographer"}.items():
        exif[tag] = value
    exif[33432], exif[306], exif[274] = "(c) 2026", "2026:02:02 03:04:05", 1
    exif[34665] = {36867: "2026:01:02 03:04:05", 36881: "+01:00", 37386: 50.0}
    exif[34853] = {1: "N", 2: (52.0, 30.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)}
    return exif


@pytest.mark.parametrize("bits", [8, 16])
def test_author_caption_place_and_date_of_exposure_are_kept_where_they_belong(run, bits):
    if bits == 8:
        save("a.jpg", noisy(), exif=exif_of_a_camera())
        file = "a.jpg"
    else:
        from util.images import write_png16

        file = "w.png"
        write_png16(file, wide_scene(), {"exif": exif_of_a_camera().tobytes()})
    exif = run(file, "--sigma", 0.02).result(file[0]).getexif()
    assert [exif[tag] for tag in (270, 315, 33432)] == ["The mill", "A. Photographer", "(c) 2026"]
    exposure, place = exif.get_ifd(34665), exif.get_ifd(34853)
    assert exposure[36867] == "2026:01:02 03:04:05" and exposure[36881] == "+01:00"
    assert 37386 not in exposure and 36867 not in dict(exif)  # what is not known to be true still
    assert place[1] == "N" and [float(one) for one in place[2]] == [52, 30, 0]


def test_fits_is_refused_for_its_rows_and_offsets(look):
    """Pillow ignores BZERO and turns the rows."""
    header = ["SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 64", "NAXIS2  = 48"]
    header += ["BZERO   = 32768", "BSCALE  = 1", "END"]
    cards = [f"{line[:9]} {line[9:].strip():>20}" if "=" in line else line for line in header]
    text = "".join(card.ljust(80) for card in cards).ljust(2880)
    values = (wide_scene()[..., 0].astype(int) - 32768).astype(">i2").tobytes()
    for file in ("f.fits", "hidden.png"):
        open(file, "wb").write(text.encode() + values.ljust(-(-len(values) // 2880) * 2880, b"\0"))
        error = look(file, code=2).err
        assert f"{file}: is FITS" in error and "rows run from the bottom up" in error
    for option in ("--kernel", "--mask"):
        assert "f.fits: is FITS" in look("a.png", option, "f.fits", code=2).err


def test_an_unreadable_file_is_told_its_true_reason(look):
    import tifffile

    Image.new("1", (13500, 13500)).save("big.tif", compression="group4")
    assert (
        "big.tif: has 182 megapixels, 178 at most; crop or reduce it" in look("big.tif", code=2).err
    )
    open("h.jpg", "wb").write(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99)
    error = look("h.jpg", code=2).err
    assert "h.jpg: is HEIC" in error and "cannot identify" not in error
    tifffile.imwrite("f.tif", wide_scene().astype(np.float32) / 65535, photometric="rgb")
    assert (
        "f.tif: is a TIFF of 3 channels of float32; save it uncompressed, 8 or 16 bits"
        in look("f.tif", code=2).err
    )


def test_heic_is_read_where_pillow_heif_is(tmp_path):
    """In a process of its own: the plug-in registers itself once."""
    pytest.importorskip("pillow_heif")
    code = "import util.images as i; assert '.heic' in i.SUFFIXES; i.Image.registered_extensions()"
    code += "['.heic']"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("side, place", [(48, 24), (47, 23), (33, 16)])
def test_a_kernels_dark_border_is_trimmed(look, side, place):
    padded = np.zeros((side, side))
    padded[place - 4 : place + 5, place - 4 : place + 5] = shake()
    padded[0, 0] = 1e-5
    save("wide.npy", padded)
    save("k.npy", shake())
    wide, narrow = (look("a.png", "--kernel", file) for file in ("wide.npy", "k.npy"))
    assert np.array_equal(wide.kernel, narrow.kernel) and narrow.kernel.shape == (1, 7)
    assert f"kernel 7 x 1, trimmed from {side} x {side}" in wide.out
    assert wide.problem.size == narrow.problem.size


def test_a_kernel_that_is_too_large_is_called_by_its_files_size(look):
    save("k.npy", np.ones((60, 60)))
    assert (
        "k.npy: this kernel, 60 x 60, is larger than a.png"
        in look("a.png", "--kernel", "k.npy", code=2).err
    )
