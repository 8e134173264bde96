"""Defects that restore.py finds by itself: --defects, by the network, and --infrared."""

import os

import numpy as np
import pytest
import skimage.data
import tifffile
import torch
from PIL import Image

import solvers.defects
from bench.photo_benchmark import detection
from bench.photo_damages import DAMAGES
from experiment.library import network
from guided_diffusion.ddim import Chain
from guided_diffusion.tiles import AnySize
from solvers.defects import find_defects, seems_defective, with_colours, without_wide
from util.images import save_image
from util.rng import BatchRandom

SPOT = np.s_[30:34, 40:44]  # dust


def picture(side=128):
    crop = skimage.data.astronaut()[60 : 60 + side, 160 : 160 + side]
    return torch.from_numpy(crop.transpose(2, 0, 1).copy()).float() / 127.5 - 1


def hit(x, damage="impulses", seed=0):
    """(x with impulses, (3, H, W); where they are, (H, W) bool)."""
    y = DAMAGES[damage].make(x, np.random.default_rng(seed))[1]
    return y, (y != x).any(0)


def found(y, **options):
    model, _ = network("photo", torch.device("cpu"))
    g, observed = Chain(AnySize(model), 1, BatchRandom([0])), torch.ones_like(y[None, :1])
    return find_defects(g, y[None], observed, 1 / 255, **options)[0, 0] == 0


@pytest.mark.parametrize("damage", ["impulses", "random"])
def test_impulses_are_found_and_hardly_anything_else(damage):
    x = picture()
    y, impulses = hit(x, damage)
    marks = found(y)
    assert (marks & impulses).sum() >= 0.95 * impulses.sum()
    assert (marks & ~impulses).sum() <= 0.002 * (~impulses).sum()


def test_the_network_clears_suspected_px(monkeypatch):
    """As of texture, whose px are far from their median but not from the estimate."""
    y, impulses = hit(picture())
    marks = found(y)
    monkeypatch.setattr(solvers.defects, "ESTIMATE", lambda g, task, sigma, on_step: 9 + task.y)
    by_medians = found(y)
    assert (by_medians & ~impulses).sum() > 2 * (marks & ~impulses).sum()
    assert (marks & by_medians).sum() == marks.sum()


def test_missing_px_are_no_defects():
    y, _ = hit(picture())
    model, _ = network("photo", torch.device("cpu"))
    observed = torch.ones_like(y[None, :1])
    observed[..., 64:] = 0
    mask = find_defects(Chain(AnySize(model), 1, BatchRandom([0])), y[None], observed, 1 / 255)
    assert mask[..., 64:].all() and not mask[..., :64].all()


def test_a_higher_threshold_marks_less():
    y, _ = hit(picture())
    high, usual = found(y, threshold=6), found(y)
    assert high.sum() < usual.sum() and (high & usual).sum() == high.sum()


def test_a_wider_mark_is_found_if_it_is_asked_for():
    y, spot = picture(), np.s_[20:23, 40:43]
    y[:, *spot] = 1.0
    assert found(y)[spot].sum() < 5 and found(y, widest=3)[spot].all()


def test_px_of_a_colour_most_of_which_are_defects_are_defects():
    y = torch.linspace(-0.9, 0.9, 1200).reshape(3, 20, 20)
    marks, weak = np.zeros((20, 20), bool), np.ones((20, 20), bool)
    y[:, 3, :7], y[:, 7, :6], weak[3, 6] = -1.0, 1.0, False
    marks[3, :4] = marks[7, :2] = True
    expected = marks.copy()
    expected[3, 4:6] = True
    assert np.array_equal(with_colours(marks, weak, y), expected)


def test_marks_wider_than_the_widest_are_kept_and_long_ones_are_not():
    marks = np.zeros((40, 40), bool)
    marks[5], marks[:, 30], marks[20:24, 10:14] = True, True, True
    left = without_wide(marks, 1)
    assert not left[20:24, 10:14].any() and left[5].all() and left[:, 30].all()
    assert without_wide(marks, 4)[20:24, 10:14].all()


@pytest.mark.parametrize("damage", ["impulses", "random"])
@pytest.mark.parametrize("share", [0, 0.005])
def test_impulses_are_suspected_without_a_network(monkeypatch, damage, share):
    monkeypatch.setattr("bench.photo_damages.IMPULSES", share)
    assert seems_defective(hit(picture(), damage)[0][None]) == (share > 0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(os.getcwd())
    os.symlink(os.path.abspath("restore.py"), tmp_path / "restore.py")
    y, impulses = hit(picture(96))
    save_image(tmp_path / "hot.png", y)
    save_image(tmp_path / "clean.png", picture(96))
    y = picture(96)
    y[:, 40, 40] = -y[:, 40, 40].mean().sign()
    save_image(tmp_path / "one.png", y)
    monkeypatch.chdir(tmp_path)
    return impulses


def restored(script, *options, code=0):
    result = script("restore.py", *options, "--preset", "quick", "-l", ".", "--name", "r")
    assert result.code == code, result.err
    return result


def test_restore_fills_defects_and_writes_them_as_a_mask(script, here):
    out = restored(script, "hot.png", "--defects", "--cuda", -1).out
    mask = np.asarray(Image.open("r/run/images/hot/mask.png").convert("L"))
    assert "hot: 96 x 96, inpainting, " in out and f" {(mask == 0).sum()} px are defects" in out
    assert (mask == 0)[here.numpy()].mean() > 0.9
    x, y = (np.asarray(Image.open(path), float) / 127.5 - 1 for path in ("r/hot.png", "hot.png"))
    truth = picture(96).permute(1, 2, 0).numpy()
    assert np.square(x - truth).mean() < 0.05 * np.square(y - truth).mean()


def test_the_mask_is_as_large_as_the_photograph_if_only_a_window_is_restored(script, here):
    restored(script, "one.png", "--defects", "--threshold", 4, "--cuda", -1)
    mask = np.asarray(Image.open("r/run/images/one/mask.png").convert("L"))
    assert mask.shape == (96, 96) and mask[40, 40] == 0 and (mask == 0).sum() < 5


def test_the_line_of_a_photograph_with_impulses_names_the_option(script, here):
    out = restored(script, "hot.png", "clean.png", "--cuda", -1).out
    hot, clean = (
        next(line for line in out.splitlines() if line.startswith(f"{name}: 96 x 96"))
        for name in ("hot", "clean")
    )
    assert "--defects" in hot and "--defects" not in clean


@pytest.mark.parametrize(
    "options, message",
    [
        (("--widest", 3), "--widest: requires --defects"),
        (("--threshold", 3), "--threshold: requires --defects"),
        (("--grow", 3), "--grow: requires --mask or --defects or --infrared"),
        (("--defects", "--scale", 2), "--scale: not with --defects"),
        (("--infrared", "--scale", 2), "--scale: not with --infrared"),
        (("--defects", "--mask", "hot.png"), "--mask: not allowed with argument --defects"),
        (("--infrared",), "is no TIFF that can be read; --infrared: needs a TIFF of R, G, B"),
    ],
)
def test_what_contradicts_is_one_line(script, here, options, message):
    err = restored(script, "hot.png", *options, "--cuda", -1, code=2).err
    assert message in err and len(err.splitlines()) == 1


def scan(path, bits=16, extra="unspecified", infrared=True, **options):
    """A scan of 96 x 96 px with dust at SPOT, which infrared light shows; its own brightness is
    that of film, with a gradient, a trace of the picture and noise."""
    x = (picture(96).permute(1, 2, 0).numpy() + 1) / 2
    film = np.linspace(0.8, 0.82, 96)[:, None] + 0.02 * x[..., 0]
    film = film + 0.005 * np.random.default_rng(0).standard_normal(film.shape)
    for plane in (x, film):
        plane[SPOT] = 0.1
    planes = np.dstack([x, film] if infrared else [x])
    values = np.round((2**bits - 1) * planes).astype(f"uint{bits}")
    extra = {"extrasamples": [extra]} if infrared else {}
    tifffile.imwrite(path, values, photometric="rgb", **extra, **options)


@pytest.mark.parametrize("bits", [8, 16])
def test_dust_is_where_infrared_light_is_lost(script, here, bits):
    scan("scan.tif", bits)
    result = restored(script, "scan.tif", "--infrared", "--cuda", -1)
    assert "of its infrared" in result.out and "is not used" not in result.out
    mask = np.asarray(Image.open("r/run/images/scan/mask.png").convert("L")) == 0
    expected = np.zeros((96, 96), bool)
    expected[29:35, 39:45] = True  # and a px around it, partly covered
    assert np.array_equal(mask, expected)
    x = tifffile.imread("r/scan.tif") if os.path.exists("r/scan.tif") else Image.open("r/scan.png")
    x = np.asarray(x, float)
    assert x.shape == (96, 96, 3)
    truth = (picture(96).permute(1, 2, 0).numpy() + 1) / 2
    assert np.abs(x / x.max() * truth.max() - truth)[SPOT].mean() < 0.15


def test_a_turned_scan_and_its_infrared_are_turned_alike(script, here):
    scan("scan.tif", 8, extratags=[(274, "H", 1, 6, True)])
    restored(script, "scan.tif", "--infrared", "--cuda", -1)
    mask = np.asarray(Image.open("r/run/images/scan/mask.png").convert("L")) == 0
    assert mask[40:44, 62:66].all() and mask.sum() == 36


def test_tiffs_without_infrared_are_refused_in_one_line(script, here):
    scan("colours.tif", infrared=False)
    scan("opaque.tif", extra="unassalpha")
    for name in ("colours", "opaque"):
        err = restored(script, f"{name}.tif", "--infrared", "--cuda", -1, code=2).err
        assert f"{name}.tif: has no infrared channel" in err and len(err.splitlines()) == 1


def test_the_share_of_impulses_found_is_that_of_the_masks_written(tmp_path):
    impulses, mask = np.zeros((10, 10), bool), torch.ones(1, 10, 10)
    impulses[0, :4] = True
    mask[0, 0, 1:5] = 0
    save_image(tmp_path / "r/run/images/a/mask.png", 2 * mask - 1)
    assert detection(tmp_path, "r", {"a": {"impulses": impulses}}) == ("75.0", "1.04")
