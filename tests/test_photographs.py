"""benchmark.py photographs: what it damages, what it calls, and what it leaves."""

import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import correlate

from bench import rivals
from bench.photo_benchmark import load_photograph, photo_run
from bench.photo_damages import DAMAGES
from bench.photo_sets import PHOTOGRAPHS, SETS, cut
from bench.rivals import RIVALS, installed, slug
from util.files import UserError


def psnr(x, truth):
    return -10 * np.log10(np.mean((x.clip(0, 1) - truth) ** 2))


def as_file(x):
    """(C, H, W) in [-1, 1] -> (H, W, 3) or (H, W) in [0, 1], rounded to 8 bits."""
    return np.round((x.clamp(-1, 1).numpy().transpose(1, 2, 0).squeeze() + 1) * 127.5) / 255


def damaged(damage, name, size=80):
    """(truth, measurement, arguments of a rival), in [0, 1]."""
    truth, y, known = DAMAGES[damage].make(load_photograph(name, size), np.random.default_rng(0))
    known.pop("impulses", None)
    given = {"hole": ~known["mask"]} if "mask" in known else dict(known)
    if DAMAGES[damage].sigma:
        given["sigma"] = DAMAGES[damage].sigma / 255
    return as_file(truth), as_file(y), given


def test_no_photograph_is_in_two_sets():
    names = sum(SETS.values(), [])
    assert len(names) == len(set(names)) and set(names) == set(PHOTOGRAPHS)


def test_what_is_cut_out_lies_within_the_picture():
    picture = np.arange(20 * 30).reshape(20, 30)
    assert np.array_equal(cut(picture, (10, 15), 4), picture[8:12, 13:17])
    assert np.array_equal(cut(picture, (1, 29), 4), picture[:4, 26:])
    assert np.array_equal(cut(picture, (10, 15), 25), picture[:, 3:28])


@pytest.mark.parametrize("name", ["astronaut", "page"])
def test_damages_do_what_they_say(name):
    truth, y, given = damaged("noise25", name)
    middling = (truth > 0.3) & (truth < 0.7)  # not clipped
    assert (y - truth)[middling].std() == pytest.approx(25 / 255, rel=0.1)
    truth, y, given = damaged("scratches", name)
    assert (
        0.05 < given["hole"].mean() < 0.4
        and (y[given["hole"]] == 1).all()
        and np.array_equal(y[~given["hole"]], truth[~given["hole"]])
    )
    truth, y, given = damaged("blur", name)
    assert truth.shape == y.shape == (68, 68, *y.shape[2:])
    kernel = given["kernel"] if y.ndim == 2 else given["kernel"][..., None]
    inner = (slice(6, -6), slice(6, -6))
    # The noise is 2.5 of 255.
    assert np.abs(correlate(truth, kernel)[inner] - y[inner]).mean() < 0.015
    truth, y, given = damaged("reduced", name)
    assert (
        y.shape[:2] == (20, 20)
        and np.abs(truth.reshape(20, 4, 20, 4, -1).mean((1, 3)).squeeze() - y).mean() < 0.05
    )


CALLED = [
    (damage, rival)
    for damage in ("noise25", "scratches", "blur", "reduced")
    for rival in RIVALS[DAMAGES[damage].option]
]


@pytest.mark.parametrize("damage, rival", CALLED, ids=lambda one: getattr(one, "name", one))
@pytest.mark.parametrize("name", ["astronaut", "page"])
def test_each_rival_restores(damage, rival, name):
    if rival.package:
        pytest.importorskip(rivals.IMPORTED_AS[rival.package])
    truth, y, given = damaged(damage, name)
    x = rival.call(y, **given)
    assert x.shape == truth.shape
    nearest = y.repeat(4, 0).repeat(4, 1) if damage == "reduced" else y
    if rival.call is not rivals.real_esrgan:  # a generative model
        assert psnr(x, truth) > psnr(nearest, truth) + 0.3


@pytest.mark.parametrize("rival", RIVALS["defects"], ids=slug)
def test_each_rival_removes_impulses(rival):
    """From a photograph: a median of text is worse than the impulses in it."""
    if rival.package:
        pytest.importorskip(rivals.IMPORTED_AS[rival.package])
    truth, y, _ = damaged("impulses", "astronaut")
    assert psnr(rival.call(y), truth) > psnr(y, truth) + 3


def test_programs_that_are_not_installed_are_skipped(monkeypatch, capsys):
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    left = installed([rival for option in (None, "mask") for rival in RIVALS[option]])
    first, second = capsys.readouterr().out.splitlines()
    assert "pip install bm3d" in first and "pip install opencv-python-headless" in second
    assert [slug(rival) for rival in left] == ["non-local-means", "total-variation", "biharmonic"]


def test_a_missing_scikit_learn_is_one_line(script, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    command = "benchmark.py photographs --photographs china --cuda -1 --out"
    result = script(command, tmp_path)
    [line] = result.err.splitlines()
    assert result.code == 2 and "pip install scikit-learn" in line


@pytest.mark.parametrize("text", ["fastest", "bm4d", "dmilo/quick"])
def test_unknown_runs_are_refused(text):
    with pytest.raises(UserError, match=text):
        photo_run(text)


@pytest.mark.usefixtures("tiny_prior", "short_searches", "commands_in_process")
def test_the_table_judges_what_everyone_wrote(script, tmp_path, monkeypatch):
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    command = "benchmark.py photographs --dataset demo --photographs page --size 80 --cuda -1 --out"
    result = script(command, tmp_path)
    assert result.code == 0, result.err
    lines = (tmp_path / "photographs.md").read_text().splitlines()
    assert lines[0] == "| damage | method | page | mean | LPIPS | seconds |"
    rows = [line.strip("| ").split(" | ") for line in lines[2:]]
    ours = [row[1] for row in rows if row[1].startswith("fast")]
    assert ours == ["fast (denoiser/tuned)"] + 3 * ["fast (dmilo/fast)"]
    assert len(rows) == 4 + 2 + 1 + 3 + 1
    assert all(line in result.out for line in lines)
    lanczos = next(row for row in rows if row[1] == "Lanczos")

    def load(*path):
        return np.asarray(Image.open(tmp_path.joinpath("reduced-80", *path))) / 255

    expected = psnr(load("lanczos", "page.png"), load("truth", "page.png"))
    assert lanczos[2] == lanczos[3] == f"{expected:.2f}"
    holes = np.asarray(Image.open(tmp_path / "scratches-80" / "mask" / "page.png")) == 0
    filled, truth = (
        np.asarray(Image.open(tmp_path / "scratches-80" / kind / "page.png")) / 255
        for kind in ("biharmonic", "truth")
    )
    biharmonic = next(row for row in rows if row[1] == "biharmonic")
    assert biharmonic[2] == f"{psnr(filled[holes], truth[holes]):.2f}"
    only = script(command, tmp_path, "--damages", "scratches", "--runs", "biharmonic")
    assert only.code == 0 and "fast" not in only.out and "| biharmonic |" in only.out
    assert Image.open(tmp_path / "photographs.png").width > 4 * 80


@pytest.mark.usefixtures("tiny_prior", "commands_in_process")
@pytest.mark.parametrize("name", ["page", "astronaut"])  # grey and in colour
def test_jpegs_are_written_once_and_read_by_all(script, tmp_path, name):
    pytest.importorskip("jpeglib")
    command = f"benchmark.py photographs --damages jpeg10 --photographs {name} --size 80 --cuda -1"
    result = script(f"{command} --out", tmp_path)
    assert result.code == 0, result.err
    rows = (tmp_path / "photographs.md").read_text().splitlines()[2:]
    labels = [row.split(" | ")[1] for row in rows]
    jpegqs = ["jpegqs"] if shutil.which("jpegqs") else []
    assert labels == ["decoder", *jpegqs, "fast (quantised/tuned)"]
    folder = tmp_path / "jpeg10-80"
    assert sorted(os.listdir(folder / "measured")) == [f"{name}.jpg"]

    def load(*path):
        return np.asarray(Image.open(folder.joinpath(*path)).convert("RGB")) / 255

    compressed, truth = load("measured", f"{name}.jpg"), load("truth", f"{name}.png")
    assert np.array_equal(load("decoder", f"{name}.png"), compressed)
    assert float(rows[0].split(" | ")[2]) == pytest.approx(psnr(compressed, truth), abs=0.006)
    if jpegqs:
        assert psnr(load("jpegqs", f"{name}.png"), truth) > psnr(compressed, truth) + 0.02
