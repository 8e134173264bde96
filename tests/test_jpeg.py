"""JPEGs as their own measurement: reading, the operator, its intervals, restoring."""

import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import stats
from test_inputs import wide_gamut

from experiment.library import restore
from guided_diffusion.errors import errors_of_natural_images, idct
from guided_diffusion.jpeg import HALF, JPEG, Component, ReducedJPEG, tables
from guided_diffusion.kernels import area_matrix, bicubic_matrix
from photographs.jpeg import quality_of, read_jpeg
from samplers.quantised import quantised
from solvers.least_squares import adjoint, silent
from solvers.quantised import QuantisedTask, explained_share, noise_levels, truncated_moments
from util.files import PictureError, UserError

jpeglib = pytest.importorskip("jpeglib")

SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2, "4:4:0": None, "grey": None}


def picture(height, width, grey=False, seed=0):
    """A smooth picture with some texture, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 215, (7, 9, 3), np.uint8))
    values = np.asarray(coarse.resize((width, height), Image.BICUBIC), float)
    values += rng.normal(0, 6, (height, width, 3))
    values = np.clip(values, 0, 255).round().astype(np.uint8)
    return np.repeat(values[..., :1], 3, -1) if grey else values


def write(path, values, sampling, quality=20, **options):
    image = Image.fromarray(values)
    if sampling == "grey":
        image.convert("L").save(path, quality=quality, **options)
    elif sampling == "4:4:0":  # Pillow has none
        spatial = jpeglib.from_spatial(values)
        spatial.samp_factor = sampling
        spatial.write_spatial(str(path), qt=quality, flags=["PROGRESSIVE_MODE"] if options else [])
    else:
        image.save(path, quality=quality, subsampling=SAMPLINGS[sampling], **options)


def padded(values, size):
    """As an encoder extends a picture to whole MCUs: (1, 3, *size) in [-1, 1]."""
    missing = [(0, whole - had) for whole, had in zip(size, values.shape)]
    whole = np.pad(values, (*missing, (0, 0)), mode="edge")
    return torch.from_numpy(whole.transpose(2, 0, 1).copy()).float()[None] / 127.5 - 1


def outside(jpeg, values, shape):
    """By how much, in steps, measurements of the blocks within the picture leave their intervals:
    the largest excess. shape: (H, W), px of whole MCUs."""
    mcu = jpeg.operator.mcu
    rows, columns = (side // n for side, n in zip(shape, mcu))
    apart = (jpeg.operator(padded(values, jpeg.operator.size)) - jpeg.y).abs()
    return (apart - HALF)[..., :rows, :columns].max().item()


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("size", [(64, 48), (45, 61)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_the_compressed_picture_is_within_the_files_intervals(tmp_path, sampling, size, options):
    values, path = picture(*size, grey=sampling == "grey"), str(tmp_path / "a.jpg")
    write(path, values, sampling, **options)
    jpeg = read_jpeg(path)
    assert jpeg.size == size and jpeg.sampling == sampling and jpeg.grey == (sampling == "grey")
    assert jpeg.quality == 20
    assert outside(jpeg, values, size) < 0.1
    assert outside(jpeg, picture(*size, seed=1), size) > 1


def test_what_the_operator_inverts_is_what_a_decoder_shows(tmp_path):
    path = str(tmp_path / "a.jpg")
    write(path, picture(40, 56), "4:4:4")
    jpeg = read_jpeg(path)
    decoded = padded(np.asarray(Image.open(path)), (40, 56))
    assert ((jpeg.operator.inverse(jpeg.y) - decoded) * 127.5).abs().max() < 3


def test_a_colour_jpeg_without_colours_is_grey(tmp_path):
    write(tmp_path / "a.jpg", picture(40, 40, grey=True), "4:2:0")
    jpeg = read_jpeg(tmp_path / "a.jpg")
    assert jpeg.grey and jpeg.sampling == "4:2:0" and jpeg.y.shape == (1, 64, 5, 5)


@pytest.mark.parametrize(
    "name, what",
    [
        ("cmyk.jpg", "CMYK"),
        ("arithmetic.jpg", "arithmetic coding"),
        ("rgb.jpg", "other colours"),
        ("lossless.jpg", "lossless"),
        ("png.jpg", "is PNG, no JPEG"),
        ("text.jpg", "cannot be read"),
        ("none.jpg", "cannot be read"),
    ],
)
def test_what_it_cannot_use_is_refused_in_one_line(tmp_path, name, what):
    image, path = Image.fromarray(picture(40, 40)), tmp_path / name
    if name == "png.jpg":
        image.save(path, "PNG")
    elif name == "text.jpg":
        path.write_text("no picture")
    elif name == "rgb.jpg":
        image.save(path, keep_rgb=True)
    elif name != "none.jpg":
        (image.convert("CMYK") if name == "cmyk.jpg" else image).save(path)
    if name in ("arithmetic.jpg", "lossless.jpg"):
        frame = b"\xff\xc9" if name == "arithmetic.jpg" else b"\xff\xc3"
        path.write_bytes(path.read_bytes().replace(b"\xff\xc0", frame, 1))
    with pytest.raises(PictureError, match=what) as error:
        read_jpeg(str(path))
    assert "\n" not in str(error.value)


def test_without_jpeglib_it_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "a.jpg", picture(40, 40), "4:2:0")
    monkeypatch.setitem(sys.modules, "jpeglib", None)
    with pytest.raises(UserError, match="pip install jpeglib"):
        read_jpeg(tmp_path / "a.jpg")


def coloured(quality, sampling=(2, 2), size=(48, 64)):
    luma, chroma = tables(quality)
    blocks = Component(luma, sampling), Component(chroma, (1, 1)), Component(chroma, (1, 1))
    return JPEG(blocks, size)


def normal(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


GREY = JPEG((Component(tables(30)[0], (1, 1)),), (48, 64))
OPERATORS = {
    "colour": coloured(30),
    "grey": GREY,
    "4:2:2": coloured(30, (1, 2)),
    "reduced": ReducedJPEG(coloured(30, size=(32, 32)), 2, bicubic_matrix),
    "reduced grey": ReducedJPEG(GREY, 3, area_matrix),
}


@pytest.mark.parametrize("A", OPERATORS.values(), ids=OPERATORS)
def test_inverse_and_adjoint(A):
    x = normal((2, 3, *A.size))
    y = A(x)
    v = normal(y.shape, 1)
    torch.testing.assert_close(A(A.inverse(v)), v, rtol=0, atol=1e-4)
    # Without what is measured there is nothing to measure.
    torch.testing.assert_close(A(x - A.inverse(y)), 0 * y, rtol=0, atol=1e-4)
    assert (v * y).sum().item() == pytest.approx((adjoint(A, x)(v) * x).sum().item(), rel=1e-3)
    one = torch.zeros_like(y[:1])
    one[0, 5, 1, 1] = 1
    if isinstance(A, JPEG):
        assert A.inverse(one).square().sum().item() == pytest.approx(A.gains[5].item(), rel=1e-4)


@pytest.mark.parametrize(
    "A",
    [
        coloured(30, size=(192, 192)),
        ReducedJPEG(coloured(30, size=(96, 96)), 2, bicubic_matrix),
    ],
    ids=["stored", "reduced"],
)
def test_the_error_of_a_coefficient_is_that_of_its_frequency(A):
    errors = errors_of_natural_images()
    deviation = errors.deviation(0.1, A.size, torch.device("cpu"))
    simulated = A(idct(deviation * normal((24, 3, *A.size)))).square().mean((0, 2, 3)).sqrt()
    expected = A.deviation(errors, 0.1).flatten()
    assert (simulated / expected - 1).abs().max() < 0.12
    assert (simulated / expected - 1).abs().mean() < 0.03


@pytest.mark.parametrize("mean", [-40.0, -3.0, -0.4, 0.0, 0.45, 2.0, 60.0])
@pytest.mark.parametrize("deviation", [0.01, 0.3, 5.0, 1000.0])
def test_truncated_moments(mean, deviation):
    a, b = (-0.5 - mean) / deviation, (0.5 - mean) / deviation
    m, v = truncated_moments(*map(torch.tensor, (mean, deviation)), -0.5, 0.5)
    assert -0.5 <= m <= 0.5 and 0 < v <= deviation**2
    if abs(mean) < 5 or deviation > 1:  # farther away scipy underflows
        expected = stats.truncnorm(a, b, mean, deviation)
        assert m.item() == pytest.approx(expected.mean(), abs=2e-4)
        assert v.item() == pytest.approx(expected.var(), rel=0.03, abs=1.1e-3 * deviation**2)
    if deviation == 0.01 and abs(mean) > 0.5:  # next to the nearer end
        assert m.item() == pytest.approx(0.5 * np.sign(mean), abs=0.01)


def test_noise_levels_fall_with_the_quality_and_explain_what_they_should():
    errors, tops = errors_of_natural_images(), []
    for quality in (5, 10, 40, 90, 100):
        sigmas = noise_levels(coloured(quality), errors, 4, 0.2, 0.01)
        assert sigmas == sorted(sigmas, reverse=True) and len(sigmas) == 4
        if quality < 90:
            shares = [explained_share(coloured(quality), errors, one) for one in sigmas[::3]]
            assert shares == pytest.approx([0.2, 0.01], rel=0.01)
        tops.append(sigmas[0])
    assert tops == sorted(tops, reverse=True)


def test_a_picture_is_moved_into_the_intervals_and_one_within_stays():
    A, x = coloured(20), (0.4 * normal((1, 3, 48, 64))).clamp(-0.9, 0.9)
    task = QuantisedTask(A, A(x).round(), x)
    assert ((A(task.within(0 * x)) - task.y).abs() <= HALF).all()
    inside = task.within(0 * x)
    torch.testing.assert_close(task.within(inside), inside, rtol=0, atol=1e-5)


def test_other_measurements_are_refused():
    with pytest.raises(UserError, match="JPEGs, only"):
        next(quantised(None, lambda x: x, None, None, None, silent))


SHIPPED = ("quick", "fast")


@pytest.mark.parametrize("preset", SHIPPED)
def test_from_python_it_is_nearer_to_the_truth_than_the_decoded_picture(tmp_path, preset):
    truth = np.asarray(Image.open("data/demo/astronaut.png").convert("RGB"))
    write(tmp_path / "a.jpg", truth, "4:2:0", 10)
    jpeg = read_jpeg(tmp_path / "a.jpg")
    A = jpeg.operator
    x = restore(jpeg.y, A, jpeg.sigma, size=A.size, task="jpeg", preset=preset)
    assert ((A(x) - jpeg.y).abs() <= HALF).all()

    def psnr(x):
        return -10 * np.log10(np.mean((np.asarray(x, float) - truth) ** 2) / 255**2)

    restored = (x[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert psnr(restored) > psnr(Image.open(tmp_path / "a.jpg")) + 1


@pytest.mark.usefixtures("tiny_prior")
@pytest.mark.parametrize("sampling, quality", [("4:2:0", 10), ("4:4:4", 40), ("grey", 10)])
@pytest.mark.parametrize("turn", [1, 5, 6, 7, 8])
def test_restore_keeps_the_files_coefficients_and_its_rotation(
    tmp_path, script, sampling, quality, turn
):
    values, exif = picture(45, 61, grey=sampling == "grey"), Image.Exif()
    exif[274] = turn
    path = str(tmp_path / "a.jpg")
    write(path, values, sampling, quality, exif=exif)
    command = "restore.py --jpeg --preset quick --cuda -1 --name r -l"
    run = script(command, tmp_path, path)
    assert run.code == 0, run.err
    kind = "grey" if sampling == "grey" else "RGB"
    assert f"a: {'61 x 45' if turn == 1 else '45 x 61'}, jpeg, sigma 0.2887" in run.out
    assert f"quality {quality}, {sampling}, {kind}, 8 bits" in run.out
    record = json.loads((tmp_path / "r/run/record/a.json").read_text())
    assert record["misfit"][-1] < HALF and record["nfe"] == [10]
    result = Image.open(tmp_path / "r" / "a.png")
    assert result.mode == ("L" if sampling == "grey" else "RGB")
    assert result.size == ImageOps.exif_transpose(Image.open(path)).size
    # Turned as the file says, it is the stored picture again.
    back = {1: None, 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}[turn]
    stored = result.transpose(Image.Transpose[back]) if back else result
    jpeg, stored = read_jpeg(path), np.asarray(stored.convert("RGB"))
    assert outside(jpeg, stored, (45, 61)) < 0.02


@pytest.mark.usefixtures("tiny_prior")
def test_jpegs_of_several_kinds_at_once_and_one_that_is_none(tmp_path, script):
    os.makedirs(tmp_path / "p")
    write(tmp_path / "p/a.jpg", picture(48, 64), "4:2:0", 10)
    write(tmp_path / "p/b.jpg", picture(48, 64), "4:2:0", 30)
    write(tmp_path / "p/c.jpg", picture(48, 64, seed=1), "4:2:0", 10)
    Image.fromarray(picture(40, 40)).save(tmp_path / "p/d.png")
    options = "restore.py --jpeg --preset quick --cuda -1 --batch-size 4 --name r -l"
    run = script(options, tmp_path, tmp_path / "p")
    assert run.code == 1 and "d.png: is PNG, no JPEG" in run.err
    for name in "abc":
        jpeg = read_jpeg(tmp_path / f"p/{name}.jpg")
        result = np.asarray(Image.open(tmp_path / f"r/{name}.png"))
        assert outside(jpeg, result, (48, 64)) < 0.02


@pytest.mark.parametrize(
    "options, what",
    [
        ("--jpeg --sigma 0.1", "--sigma: not with --jpeg"),
        ("--jpeg --filter area", "--filter: requires"),
        ("--jpeg --mask m.png", "not allowed with"),
        ("--jpeg --method pnp --preset none", "none"),
        ("--jpeg --scale 2 --linear", "--linear: not with --jpeg"),
    ],
)
def test_contradictions_are_refused(tmp_path, script, options, what):
    write(tmp_path / "a.jpg", picture(40, 40), "4:2:0")
    run = script(f"restore.py {options} -l", tmp_path, tmp_path / "a.jpg")
    assert run.code == 2 and what in run.err and len(run.err.strip().splitlines()) == 1


def test_the_task_simulates_jpegs(run_method):
    run = run_method("quantised", "jpeg", "-n", 1, iterations=())
    record = json.loads(next((run.folder / "record").glob("*.json")).read_text())
    assert record["misfit"][-1] < HALF and record["psnr"][-1] > 22


@pytest.mark.usefixtures("tiny_prior")
def test_a_small_jpeg_is_enlarged(tmp_path, script):
    values, exif = picture(45, 61), Image.Exif()
    exif[274] = 6
    write(tmp_path / "a.jpg", values, "4:2:0", 20, exif=exif)
    options = "restore.py --jpeg --scale 2 --filter area --cuda -1 --name r -l"
    run = script(options, tmp_path, tmp_path / "a.jpg")
    assert run.code == 0, run.err
    assert "45 x 61, jpeg, sigma 0.2887" in run.out and "--filter area" in run.out
    result = Image.open(tmp_path / "r/a.png")
    assert result.size == (90, 122)
    stored = np.asarray(result.transpose(Image.Transpose.ROTATE_90).convert("RGB"), float)
    stored = stored.reshape(45, 2, 61, 2, 3).mean((1, 3))
    assert outside(read_jpeg(tmp_path / "a.jpg"), stored, (45, 61)) < 0.02


@pytest.mark.usefixtures("tiny_prior")
def test_the_result_keeps_the_files_colour_profile(tmp_path, script):
    values, profile = picture(40, 40), wide_gamut()
    write(tmp_path / "a.jpg", values, "4:4:4", 40, icc_profile=profile)
    run = script("restore.py --jpeg --cuda -1 --name r -l", tmp_path, tmp_path / "a.jpg")
    assert run.code == 0 and "profile Swap" in run.out, run.err
    assert "copied to the result" in run.out
    result = Image.open(tmp_path / "r/a.png")
    assert result.info["icc_profile"] == profile
    assert outside(read_jpeg(tmp_path / "a.jpg"), np.asarray(result), (40, 40)) < 0.02


def test_the_quality_is_that_of_libjpegs_table(tmp_path):
    for quality in (20, 50, 75, 95):
        write(tmp_path / "a.jpg", picture(16, 16), "4:2:0", quality)
        assert abs(quality_of(tmp_path / "a.jpg") - quality) <= 1
    Image.fromarray(picture(16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.tif").write_bytes(b"no picture")
    assert quality_of(tmp_path / "a.png") is None and quality_of(tmp_path / "a.tif") is None


@pytest.mark.usefixtures("tiny_prior")
@pytest.mark.parametrize("quality, hint", [(30, True), (90, False)])
def test_a_coarse_jpeg_is_told_of_its_option(tmp_path, script, quality, hint):
    write(tmp_path / "a.jpg", picture(40, 40), "4:4:4", quality)
    run = script("restore.py --cuda -1 --name r -l", tmp_path, tmp_path / "a.jpg")
    assert run.code == 0 and ("a JPEG of quality 30; try --jpeg" in run.out) == hint, run.err
