"""benchmark.py photographs: what it damages, what it calls, and what it leaves."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate

from bench import rivals
from bench.photo_benchmark import DAMAGES, PHOTOGRAPHS, SETS, cut, evaluated_once, load_photograph
from bench.rivals import RIVALS, installed
from guided_diffusion.ddim import ABAR


def psnr(x, truth):
    return -10 * np.log10(np.mean((x.clip(0, 1) - truth) ** 2))


def pixels(x):
    """(C, H, W) in [-1, 1] -> (H, W, 3) or (H, W) in [0, 1], as a file has it."""
    return np.round((x.clamp(-1, 1).numpy().transpose(1, 2, 0).squeeze() + 1) * 127.5) / 255


def damaged(damage, name, size=80):
    """(what the damage does in [0, 1]: truth, measurement, what a rival is told)."""
    truth, y, known = DAMAGES[damage].make(load_photograph(name, size), np.random.default_rng(0))
    told = {"hole": ~known["mask"]} if "mask" in known else dict(known)
    if DAMAGES[damage].level:
        told["sigma"] = DAMAGES[damage].level / 255
    return pixels(truth), pixels(y), told


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
    truth, y, told = damaged("noise25", name)
    middling = (truth > 0.3) & (truth < 0.7)  # where the file clips nothing
    assert (y - truth)[middling].std() == pytest.approx(25 / 255, rel=0.1)
    truth, y, told = damaged("scratches", name)
    assert (
        0.05 < told["hole"].mean() < 0.4
        and (y[told["hole"]] == 1).all()
        and np.array_equal(y[~told["hole"]], truth[~told["hole"]])
    )
    truth, y, told = damaged("blur", name)
    assert truth.shape == y.shape == (68, 68, *y.shape[2:])
    kernel = told["kernel"] if y.ndim == 2 else told["kernel"][..., None]
    inner = (slice(6, -6), slice(6, -6))
    assert (
        np.abs(correlate(truth, kernel)[inner] - y[inner]).mean() < 0.015
    )  # the noise, 2.5 of 255 levels
    truth, y, told = damaged("reduced", name)
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
    truth, y, told = damaged(damage, name)
    x = rival.restore(y, **told)
    assert x.shape == truth.shape
    nearest = y.repeat(4, 0).repeat(4, 1) if damage == "reduced" else y
    if rival.restore is not rivals.real_esrgan:  # which invents
        assert psnr(x, truth) > psnr(nearest, truth) + 0.3


def test_what_is_not_installed_is_left_out_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    left = installed([None, "kernel", "mask"])
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 2
        and "pip install bm3d" in lines[0]
        and "pip install opencv-python-headless" in lines[1]
    )
    assert [rival.name for rival in left["mask"]] == ["biharmonic"] and len(left["kernel"]) == 3


def test_a_missing_scikit_learn_is_one_line(script, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = script(
        "benchmark.py",
        "photographs",
        "--photographs",
        "china",
        "--runs",
        "--out",
        tmp_path,
        "--cuda",
        -1,
    )
    assert (
        result.code == 2
        and len(result.err.splitlines()) == 1
        and "pip install scikit-learn" in result.err
    )


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_one_evaluation_with_a_network_that_knows_the_noise_gives_the_picture(grey, sigma):
    truth, noise = (
        torch.rand(8, 12, *(() if grey else (3,))).numpy(),
        np.random.default_rng(0).standard_normal((8, 12) if grey else (8, 12, 3)),
    )
    levels = []

    def model(x, t):
        levels.append(((1 - ABAR[int(t)]) / ABAR[int(t)]) ** 0.5)
        clean = torch.from_numpy(np.atleast_3d(2 * truth - 1)).permute(2, 0, 1).float()
        return (x - ABAR[int(t)] ** 0.5 * clean) / (1 - ABAR[int(t)]) ** 0.5

    x = evaluated_once(model, truth + sigma * noise, sigma)
    assert (
        x.shape == truth.shape
        and np.allclose(x, truth, atol=1e-5)
        and levels == [pytest.approx(2 * sigma, rel=0.1)]
    )


@pytest.mark.usefixtures("tiny_prior", "short_searches", "commands_in_process")
def test_the_table_judges_what_everyone_wrote(script, tmp_path, monkeypatch):
    monkeypatch.setattr(rivals.importlib.util, "find_spec", lambda name: None)
    damages = ["noise25", "scratches", "blur", "reduced"]
    result = script(
        "benchmark.py",
        "photographs",
        "--dataset",
        "demo",
        "--photographs",
        "page",
        "--size",
        80,
        "--damages",
        *damages,
        "--runs",
        "dmilo/fast",
        "--out",
        tmp_path,
        "--cuda",
        -1,
    )
    assert result.code == 0, result.err
    lines = (tmp_path / "photographs.md").read_text().splitlines()
    assert lines[0] == "| damage | method | page | mean | LPIPS | seconds |"
    rows = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert [row[1] for row in rows].count("dmilo, fast") == 4 and len(rows) == 4 + 2 + 1 + 3 + 1
    assert all(line in result.out for line in lines)
    lanczos = next(row for row in rows if row[1] == "Lanczos")
    load = lambda *path: np.asarray(Image.open(tmp_path.joinpath("reduced-80", *path))) / 255
    expected = psnr(load("Lanczos", "page.png"), load("truth", "page.png"))
    assert lanczos[2] == lanczos[3] == f"{expected:.2f}"
    holes = np.asarray(Image.open(tmp_path / "scratches-80" / "mask" / "page.png")) == 0
    filled, truth = (
        np.asarray(Image.open(tmp_path / "scratches-80" / kind / "page.png")) / 255
        for kind in ("biharmonic", "truth")
    )
    assert (
        next(row for row in rows if row[1] == "biharmonic")[2]
        == f"{psnr(filled[holes], truth[holes]):.2f}"
    )
    assert Image.open(tmp_path / "photographs.png").width > 4 * 80
