"""Inputs, options and machines from the field that once broke."""

import argparse
import glob
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import ROOT, edit
from PIL import Image

import experiment.progress
import experiment.restoration
from bench.jobs import run_command
from experiment.fid import frechet_distance
from experiment.folder import differences
from experiment.metrics import Metrics
from experiment.presets import load_presets, row_of
from experiment.progress import Progress
from guided_diffusion import prior
from guided_diffusion.measurements import load_measurement, load_task
from guided_diffusion.prior import load_model_config, load_prior
from util.cli import run_script
from util.config import load_yaml
from util.files import UserError, atomic, read_state_dict, write_text
from util.images import SUFFIXES, find_images, image_names, list_images, natural, open_rgb
from util.rng import BatchRandom

HERE = os.path.abspath(ROOT)
DEMO = "configs/model_config_demo.yaml"
RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


@pytest.fixture
def least_squares(script, tmp_path):
    """least_squares("--data", …) restores images without a network -> as `script` does, and the
    run's folder."""

    def run(*arguments):
        command = "baselines.least_squares -t inpainting --inner 2 --name r --cuda -1"
        result = script(command, "-l", tmp_path / "runs", *arguments)
        result.folder = tmp_path / "runs" / "demo" / "inpainting" / "r"
        return result

    return run


def put_images(folder, *names):
    """Copies of a demo picture under these names, in the format of their suffix."""
    for name in names:
        path = os.path.join(folder, os.fsdecode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.open("data/demo/astronaut.png").save(path)


# The prior's options.


@pytest.mark.parametrize(
    "change, hint",
    [
        ({}, None),
        ({"num_head_channels": -1}, None),  # four heads, too
        ({"use_new_attention_order": True}, "use_new_attention_order: False"),
        ({"num_head_channels": 64}, "num_head_channels: 32"),
        ({"num_head_channels": -1, "num_heads": 1}, "num_head_channels: 32"),
        ({"norm_groups": 4}, "norm_groups: 8"),
        ({"norm_groups": 32}, "norm_groups: 8"),
    ],
)
def test_an_option_that_changes_no_shape_is_inferred_from_predictions(
    monkeypatch, capsys, change, hint
):
    tried = [{"norm_groups": 8}, {"use_new_attention_order": False}, {"num_head_channels": 32}]
    assert all(any(one.items() <= other.items() for other in prior.TRIED) for one in tried)
    monkeypatch.setattr(prior, "TRIED", tried)  # fewer, to be fast
    load_prior({**load_model_config(DEMO), **change}, DEMO, "cpu")
    err = capsys.readouterr().err
    assert bool(err) == bool(hint) and (not hint or hint in err)
    assert not hint or err.startswith("warning: ") and len(err.splitlines()) == 1


@pytest.mark.parametrize("spread", [None, 0.05], ids=["initial", "random"])
def test_random_weights_are_a_warning(workspace, monkeypatch, capsys, spread):
    monkeypatch.setattr(prior, "TRIED", [{"norm_groups": 32}])
    config = load_model_config(DEMO)
    torch.manual_seed(0)
    model = prior.build_model(config, DEMO)
    for parameter in model.parameters() if spread else []:
        torch.nn.init.normal_(parameter, std=spread)
    torch.save(model.state_dict(), "models/demo.pt")
    load_prior(config, DEMO, "cpu")
    assert capsys.readouterr().err.startswith("warning: models/demo.pt ")


# Images.


@pytest.mark.parametrize(
    "values, options",
    [
        (RAMP.astype(np.float32), {}),
        ((255 * RAMP).astype(np.float32), {}),
        ((255 * RAMP).astype(np.int32), {}),
        ((255 * RAMP).astype(np.uint16), {}),
        ((4095 * RAMP).astype(np.uint16), {}),
        ((65535 * RAMP).astype(np.uint16), {}),
        ((65535 * RAMP).astype(np.int32), {}),
        ((4000 * RAMP).astype(np.uint16), {"tiffinfo": {281: 4000}}),
    ],
    ids=[
        "F 1",
        "F 255",
        "int32 255",
        "uint16 255",
        "uint16 4095",
        "uint16 65535",
        "int32 65535",
        "uint16 MaxSampleValue",
    ],
)
def test_a_ramp_of_any_known_range_is_full(tmp_path, values, options):
    Image.fromarray(values).save(tmp_path / "ramp.tif", **options)
    ramp = np.asarray(open_rgb(str(tmp_path / "ramp.tif"), "ramp.tif"), float)[..., 0]
    assert ramp.min() == 0 and ramp.max() == 255 and np.abs(ramp - 255 * RAMP).max() < 1.6


@pytest.mark.parametrize(
    "values, suffix",
    [
        ((3000 * RAMP).astype(np.uint16), "tif"),
        ((3000 * RAMP).astype(np.uint16), "png"),
        ((70000 * RAMP).astype(np.int32), "tif"),
        ((2 * RAMP - 1).astype(np.float32), "tif"),
        ((7 * RAMP).astype(np.float32), "tif"),
        (np.full((8, 8), np.nan, np.float32), "tif"),
        (np.ones((8, 8), np.int32), "tif"),
    ],
)
def test_an_unknown_range_is_one_line(tmp_path, values, suffix):
    path = str(tmp_path / f"a.{suffix}")
    Image.fromarray(values).save(path)
    with pytest.raises(UserError, match=rf"a\.{suffix}: its values.*white"):
        open_rgb(path, path)


# A grey photograph.


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_picture_comes_back_grey_from_a_simulated_task(least_squares, tmp_path, mode):
    put_images(tmp_path / "m", "colours.png")
    grey = Image.open(tmp_path / "m" / "colours.png").convert("L")
    grey.convert(mode).save(tmp_path / "m" / "grey.png")
    result = least_squares("--data", tmp_path / "m", "--batch-size", 2)
    assert result.code == 0, result.err
    for which in ("origin", "0_after", "final", "result"):
        assert Image.open(result.folder / "images" / "grey" / f"{which}.png").mode == "L"
        assert Image.open(result.folder / "images" / "colours" / f"{which}.png").mode == "RGB"
    origin = Image.open(result.folder / "images" / "grey" / "origin.png")
    assert np.array_equal(origin, grey)
    y = np.load(result.folder / "images" / "grey" / "measurement.npy")
    assert (y == y[:1]).all()  # one channel, one noise
    record = json.loads((result.folder / "record" / "grey.json").read_text())
    assert record["psnr"][-1] > 10 and 0 < record["ssim"][-1] < 1 and record["lpips_alex"][-1] > 0


# Which images there are.


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_pillow_reads_is_read(tmp_path, suffix):
    put_images(tmp_path, f"a{suffix}")
    (path,) = list_images(tmp_path)
    original = np.asarray(Image.open("data/demo/astronaut.png"), float)
    difference = np.abs(np.asarray(open_rgb(path, path), float) - original).mean()
    assert difference < (120 if suffix in (".pbm", ".pgm") else 12)  # black and white, grey; lossy


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("L", (8, 8), grey) for grey in (50, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(open_rgb(str(tmp_path / "a.gif"), "a.gif"))[0, 0].tolist() == [50, 50, 50]


def test_files_that_are_not_read_are_named_in_one_line(least_squares, tmp_path):
    put_images(tmp_path / "m", "a.png", "d.jfif", "e.gif", "old/f.png", ".hidden.png")
    for name in ("b.HEIC", "c.txt", "README.md", "Thumbs.db"):
        (tmp_path / "m" / name).write_bytes(b"x")
    result = least_squares("--data", tmp_path / "m")
    assert result.code == 0 and sorted(os.listdir(result.folder / "images")) == ["a", "d", "e"]
    (line,) = [line for line in result.err.splitlines() if "not read" in line]
    assert f"{tmp_path}/m: not read: b.HEIC, c.txt, old/ (" in line


def test_what_cannot_be_read_at_all_holds_nothing_up(tmp_path):
    put_images(tmp_path, "b.png", "c.png/d.txt.png")
    os.mkfifo(tmp_path / "a.png")  # reading it would wait for ever
    os.symlink("/nowhere/e.png", tmp_path / "e.png")
    assert find_images(tmp_path) == (["b.png"], ["a.png", "c.png/", "e.png"])


def test_images_in_folders_below_are_called_by_their_paths(least_squares, tmp_path):
    put_images(tmp_path / "m", "00000/a.png", "00000/b.png", "00001/a.png", "00002/.hidden/c.png")
    os.symlink(tmp_path / "m", tmp_path / "m" / "circle")
    result = least_squares("--data", tmp_path / "m")
    assert result.code == 0, result.err
    for name in ("00000/a", "00000/b", "00001/a"):
        assert (result.folder / "images" / name / "final.png").exists()
        assert (result.folder / "record" / f"{name}.json").exists()
        assert f"{name}: final psnr" in (result.folder / "log.txt").read_text()
    assert json.loads((result.folder / "summary.json").read_text())["images"] == 3
    final = result.folder / "images" / "00001/a" / "final.png"
    stamp = os.path.getmtime(final)
    assert least_squares("--data", tmp_path / "m").code == 0
    assert os.path.getmtime(final) == stamp  # it knows what is finished


def test_names_are_sorted_1_2_10_and_their_number_is_printed(least_squares, tmp_path):
    names = [f"{n}.png" for n in range(12)]
    put_images(tmp_path / "m", *names)
    assert find_images(tmp_path / "m")[0] == names
    result = least_squares("--data", tmp_path / "m")
    assert "10 of 12 images (-n)" in result.out
    images = sorted(os.listdir(result.folder / "images"), key=natural)
    assert images == [str(n) for n in range(10)]
    again = least_squares("--data", tmp_path / "m", "-n", 12, "-bn", 10)
    assert "2 of 12 images (-n, -bn, -en)" in again.out


@pytest.mark.parametrize(
    "names",
    [
        ["00001.png", "00002.png", "00010.png"],
        ["a-1.png", "a.png", "a1.png", "a_1.png", "b.png"],
        ["B.png", "a.png"],
    ],
)
def test_other_names_are_sorted_as_published(names):
    assert sorted(names, key=natural) == sorted(names) == names


# Names and disks.


@pytest.mark.parametrize(
    "name",
    [
        b"caf\351.png",
        b"a b's (1) $HOME.png",
        "grüße 😀.png".encode(),
        b"-n.png",
        b"x" * 245 + b".png",
    ],
)
def test_any_file_name_is_restored_and_written_escaped(least_squares, tmp_path, name):
    put_images(str(tmp_path / "m"), name)
    result = least_squares("--data", tmp_path / "m")
    assert result.code == 0, result.err
    stem = os.fsdecode(name[:-4])
    log = (result.folder / "log.txt").read_text(encoding="utf-8")
    assert f"{stem.encode('utf-8', 'backslashreplace').decode()}: final psnr" in log
    assert os.path.exists(result.folder / "images" / stem / "final.png")
    assert least_squares("--data", tmp_path / "m").code == 0  # the run can go on


def test_a_state_keeps_any_name(script, tmp_path, monkeypatch):
    put_images(str(tmp_path / "m"), b"caf\351.png")
    command = "dmilo.py -t inpainting --name r --cuda -1 --outer 2 --inner 1"
    options = "--data", tmp_path / "m", "-l", tmp_path

    def interrupt(self, ends_outer):
        if ends_outer:
            raise KeyboardInterrupt  # no signal, which background jobs may ignore

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_iterate", interrupt)
        assert script(command, *options).code == 130
    assert glob.glob(str(tmp_path / "demo/inpainting/r/record/*.state"))
    assert script(command, *options).code == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_knows_few_letters(monkeypatch, encoding):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    run_script(lambda: print("caf\udce9: … 30 dB"))
    # At once, not buffered until a job ends.
    assert sys.stdout.buffer.getvalue().startswith(rb"caf\udce9: ")


def test_a_name_too_long_for_a_runs_files_is_one_line_at_once(tmp_path):
    with pytest.raises(UserError, match="longer than 249 bytes"):
        image_names([f"{tmp_path}/{'x' * 250}.png"], tmp_path)


def test_a_disk_that_refuses_modes_is_written_and_others_follow_the_umask(tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(1, "Operation not permitted")

    for name in ("chmod", "fchmod", "chown", "utime"):
        monkeypatch.setattr(os, name, refused)
    for umask in (0o022, 0o077, 0o002):
        before = os.umask(umask)
        try:
            write_text(tmp_path / "new" / f"{umask}.txt", "text")
        finally:
            os.umask(before)
        assert os.stat(tmp_path / "new" / f"{umask}.txt").st_mode & 0o777 == 0o666 & ~umask
    with pytest.raises(ValueError), atomic(tmp_path / "new" / "18.txt") as tmp:
        open(tmp, "w").write("half")
        raise ValueError
    assert (tmp_path / "new" / "18.txt").read_text() == "text"
    assert len(os.listdir(tmp_path / "new")) == 3


# YAMLs.


@pytest.mark.parametrize(
    "text, message",
    [
        ("noise:\n  sigma: 0.01\n  sigma: 0.1\n", "sigma, line 3, .* line 2"),
        ("a: {b: 1, b: 2}\n", "b, line 1, .* line 1"),
        ("a: 1\nb: 2\na: 3\n", "a, line 3, .* line 1"),
        ("a: !!int x\n", "is not valid YAML"),
        ("a: 2026-99-99\n", "is not valid YAML"),
        ("a: " + "[" * 3000, "is not valid YAML"),
    ],
)
def test_a_duplicate_key_is_named_with_its_lines(tmp_path, text, message):
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(UserError, match=f"task.yaml: .*{message}"):
        load_yaml(tmp_path / "task.yaml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_merged_mappings_are_no_duplicate_keys(tmp_path, encoding):
    text = (
        "a: &a {k: 1, l: 2}\nb: &b {<<: *a, k: 3}\nc: {<<: [*a, *b], l: 4}\nd: {<<: *a, <<: *b}\n"
    )
    (tmp_path / "a.yaml").write_bytes(text.encode(encoding))  # as editors and shells write it
    content = load_yaml(tmp_path / "a.yaml")
    assert content["b"] == {"k": 3, "l": 2} and content["c"] == {"k": 1, "l": 4}


SHIPPED = ("gaussian_deblur", "motion_deblur", "inpainting", "super_resolution", "box_inpainting")


@pytest.mark.parametrize("shipped", SHIPPED)
def test_a_task_under_a_new_name_uses_the_row_of_what_it_is(workspace, shipped):
    text = (workspace / f"configs/tasks/{shipped}_config.yaml").read_text()
    (workspace / "configs/tasks/my_own_config.yaml").write_text(text.replace("0.01", "0.03"))
    for method, presets in ((method, load_presets(method)) for method in ("dmilo", "daps")):
        for preset, table in presets.items():
            row = shipped if shipped in table else "default"
            assert row_of(shipped, table) == row, (method, preset)
            assert row_of("my_own", table) == row, (method, preset)


def test_the_row_of_another_task_is_reported(workspace, script):
    blur = (workspace / "configs/tasks/demo/gaussian_deblur_config.yaml").read_text()
    (workspace / "configs/tasks/my_blur_config.yaml").write_text(blur)
    command = "baselines.total_variation --inner 1 -n 1 --cuda -1 -t"
    result = script(command, "my_blur")
    assert result.code == 0 and "no row my_blur, its row gaussian_deblur is used" in result.out
    assert "default" not in script(command, "denoising").out  # that row is for all tasks


def test_a_task_without_published_hyperparameters_is_reported(tiny_prior, script, tmp_path):
    command = "dmilo.py -t denoising --outer 1 --inner 1 -n 1 --cuda -1 -l"
    result = script(command, tmp_path)
    assert result.code == 0 and "no row denoising, its row default is used" in result.out


DPS_FILE = """
conditioning:
  method: ps
  params:
    scale: 0.3
data:
  name: ffhq
  root: ./data/samples
measurement:
  operator:
    name: {operator}
  {more}
  noise:
    name: gaussian
    sigma: 0.05
"""
IN_OPERATOR = "\n    "


@pytest.mark.parametrize(
    "operator, more",
    [
        (f"gaussian_blur{IN_OPERATOR}kernel_size: 61{IN_OPERATOR}intensity: 3.0", ""),
        (f"motion_blur{IN_OPERATOR}kernel_size: 61{IN_OPERATOR}intensity: 0.5", ""),
        (
            f"super_resolution{IN_OPERATOR}in_shape: !!python/tuple [1, 3, 64, 64]"
            f"{IN_OPERATOR}scale_factor: 4",
            "",
        ),
        (f"phase_retrieval{IN_OPERATOR}oversample: 2.0", ""),
        (
            "inpainting",
            "mask_opt: {mask_type: random, mask_prob_range: !!python/tuple [0.3, 0.7], "
            "mask_len_range: !!python/tuple [8, 9], image_size: 64}",
        ),
        ("noise", ""),
    ],
)
def test_task_files_of_the_dps_repository_run(tmp_path, capsys, operator, more):
    path = str(tmp_path / "dps_config.yaml")
    (tmp_path / "dps_config.yaml").write_text(DPS_FILE.format(operator=operator, more=more))
    task = load_task(path)
    assert "conditioning and data " in capsys.readouterr().out and set(task) == {"measurement"}
    built, noise = load_measurement(task, path, (64, 64), 64)
    assert noise.sigma == 0.05
    if "_blur" in operator:
        intensity = 3.0 if "gaussian" in operator else 0.5
        ours = {"kernel": operator.split("_")[0], "kernel_size": 61, "intensity": intensity}
        measurement = {**task["measurement"], "operator": {"name": "blind_blur"}}
        same, _ = load_measurement({**ours, "measurement": measurement}, path, (64, 64), 64)
        kernels = (one.draw(BatchRandom([1]), "cpu")[1]["kernel"] for one in (built, same))
        assert torch.equal(*kernels)


def test_a_dps_blur_uses_the_row_of_the_blur_and_turbulence_is_another(workspace, script):
    path = workspace / "configs/tasks/theirs_config.yaml"
    blur = f"motion_blur{IN_OPERATOR}kernel_size: 21{IN_OPERATOR}intensity: 0.5"
    path.write_text(DPS_FILE.format(operator=blur, more=""))
    command = "baselines.least_squares -t theirs --inner 1 -n 1 --cuda -1 --name r"
    result = script(command)
    assert result.code == 0 and "its row motion_deblur is used" in result.out
    path.write_text(DPS_FILE.format(operator="turbulence", more=""))
    result = script(command)
    assert result.code == 2 and "operator.tilt is missing" in result.err.splitlines()[-1]


# Checkpoints.

STATE = {"a.weight": torch.ones(2, 3), "b": torch.zeros(1)}


class Trainer:
    """An object that a training program might put into its checkpoint."""


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {}}},
        {"model": {"a.weight": torch.zeros(1)}, "ema": STATE},
        {"model": {"state_dict": STATE}},
        {f"module.{name}": x for name, x in STATE.items()},
        {"state_dict": {f"module._orig_mod.{name}": x for name, x in STATE.items()}},
        {f"_orig_mod.{name}": x for name, x in STATE.items()},
    ],
    ids=[
        "bare",
        "state_dict",
        "model",
        "ema first",
        "nested twice",
        "module.",
        "both",
        "_orig_mod.",
    ],
)
def test_a_state_dict_within_a_training_checkpoint_is_read(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    state = read_state_dict(str(tmp_path / "a.pt"))
    assert list(state) == list(STATE)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(
    "thing, name",
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (np.float64(1), "numpy._core.multiarray.scalar"),
        (Trainer(), "test_cases.Trainer"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ],
)
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_foreign_class_is_named_with_how_to_extract_the_state_dict(tmp_path, thing, name, is_zip):
    path = str(tmp_path / "a.pt")
    torch.save({"state_dict": STATE, "args": thing}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UserError, match=f"of the class {name}") as error:
        read_state_dict(path)
    code, bare = re.search(r'python -c "(.*)"', str(error.value))[1], str(tmp_path / "bare.pt")
    exec(code.replace("'bare.pt'", repr(bare)))  # the command that it recommends
    assert list(read_state_dict(bare)) == list(STATE)


@pytest.mark.parametrize(
    "content, name, message",
    [
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "a.pt", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a.pt", "Git LFS pointer"),
        (b"\x08\0\0\0\0\0\0\0{}", "a.safetensors", "safetensors format"),
        (b"PK\3\4" + b"x" * 99, "a.pt", "cannot be read as a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_what_it_is(tmp_path, content, name, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_state_dict(str(tmp_path / name))


@pytest.mark.parametrize(
    "content, message",
    [
        ([STATE, STATE], "holds no state dict"),
        ({**STATE, "epoch": 3}, "holds no state dict"),
        ({1: torch.zeros(1)}, "holds no state dict"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a is sparse or without values"),
        ({"a": torch.ones(2, device="meta")}, "a is sparse or without values"),
        ("itself", "holds no state dict"),
    ],
)
def test_a_checkpoint_without_weights_is_one_line(tmp_path, content, message):
    if content == "itself":
        content = {}
        content["model"] = content
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=message):
        read_state_dict(str(tmp_path / "a.pt"))


@pytest.mark.parametrize(
    "old, new, difference",
    [
        ("channels: 32", "channels: 64", "time_embed.0.weight is (128, 32), (256, 64) "),
        ("updown: True", "updown: False", "input_blocks.2.0.op.weight, (32, 32, 3, 3) "),
        (
            "learn_sigma: True",
            "learn_sigma: False",
            "out.2.weight is (6, 32, 3, 3), (3, ",
        ),
        ('"1,1,2,4"', '"1,1,2"', "middle_block.0.in_layers.0.weight is (128,), (64,) "),
    ],
)
def test_the_first_difference_of_a_checkpoint_is_named(workspace, old, new, difference):
    edit(workspace / DEMO, old, new)
    with pytest.raises(UserError) as error:
        load_prior(load_model_config(DEMO), DEMO, "cpu")
    assert "models/demo.pt: does not fit configs/model_config_demo.yaml" in str(error.value)
    assert difference in str(error.value)


# GPUs, compilers.

NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nmore"
OLD_DRIVER = "The NVIDIA driver on your system is too old (version 11040). Please update it\nby …"


def raising(error):
    def function(*arguments, **options):
        raise error

    return function


@pytest.mark.parametrize(
    "where, error, message",
    [
        ("set_device", torch.AcceleratorError(NO_KERNEL), "for execution on the device)"),
        ("set_device", RuntimeError(OLD_DRIVER), "driver on your system is too old"),
        ("set_device", AssertionError("Torch not compiled with CUDA"), "not compiled with CUDA"),
        ("init", RuntimeError(OLD_DRIVER), "driver on your system is too old"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_one_line(
    script, tmp_path, monkeypatch, where, error, message
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(where == "set_device"))
    monkeypatch.setattr(torch.cuda, where, raising(error))
    result = script("dmilo.py -t inpainting -l", tmp_path / "runs")
    assert result.code == 2 and len(result.err.splitlines()) == 1 and message in result.err
    assert not os.path.exists(tmp_path / "runs")
    photo = script("restore.py data/photo/noisy.png --preset quick --name r -l", tmp_path)
    assert photo.code == 0 and photo.err == ""  # on the CPU, without a warning


def test_a_gpu_that_fails_meanwhile_is_one_line(script, tmp_path, monkeypatch):
    error = torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")
    monkeypatch.setattr(experiment.restoration, "search", raising(error))
    result = script("dmilo.py -t inpainting -n 1 --cuda -1 -l", tmp_path)
    assert result.code == 2
    assert "(CUDA error: unspecified launch failure)" in result.err.splitlines()[-1]


@pytest.mark.parametrize(
    "command", ["dmilo.py -t inpainting -l", f"train.py --config {DEMO} --data data/demo --out"]
)
def test_what_cannot_be_compiled_is_one_line(script, tmp_path, monkeypatch, command):
    error = RuntimeError("InvalidCxxCompiler: No working C++ compiler\nmore")
    monkeypatch.setattr(torch, "compile", raising(error))
    result = script(command, tmp_path / "out", "--compile", "--cuda", -1)
    line = result.err.splitlines()[-1]
    assert result.code == 2 and "--compile: " in line and "(InvalidCxxCompiler: " in line


COMPILE = """
import torch
from util.devices import compile_network
from util.files import UserError
try:
    compile_network(torch.sin, 'cpu')
except UserError as e:
    print(e)
"""


@pytest.mark.slow
def test_without_a_compiler_compile_is_one_line():
    """In a process of its own, as PyTorch searches for a compiler once."""
    options = dict(capture_output=True, text=True)
    options["env"] = {**os.environ, "CXX": "/bin/false", "CC": "/bin/false"}
    result = subprocess.run([sys.executable, "-c", COMPILE], **options)
    assert result.stdout.startswith("--compile: ") and len(result.stdout.splitlines()) == 1


# Folders, elsewhere.


@pytest.mark.parametrize(
    "command, code",
    [
        ("dmilo.py --help", 0),
        ("dmilo-pgd.py --help", 0),
        ("restore.py --help", 0),
        ("train.py --help", 0),
        ("benchmark.py --help", 0),
        ("reproduce.py --help", 0),
        ("dmilo.py -t inpainting --outer 1 --inner 1 --cuda -1 --name r", 0),
        (f"train.py --config {DEMO} --data nowhere --out a.pt --cuda -1", 2),
        ("benchmark.py loss -n 1 --cuda -1", 0),
        (
            "reproduce.py configs/tables/demo.yaml --only inpainting least_squares/tuned "
            "--dry-run --cuda -1",
            0,
        ),
    ],
)
def test_a_program_runs_from_anywhere(script, tmp_path, monkeypatch, command, code):
    monkeypatch.chdir(tmp_path)
    result = script(f"{HERE}/{command}")
    assert result.code == code and "cannot be read" not in result.err, result.err
    if "--outer" in command:
        assert os.path.exists("dmilo/demo/inpainting/r/summary.json")  # in the current folder


def test_a_users_paths_are_relative_to_the_current_folder(script, tmp_path, monkeypatch):
    put_images(tmp_path / "mine", "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE)
    command = "dmilo.py --data mine -l out -t inpainting --outer 1 --inner 1 --cuda -1 --name r"
    assert script(f"{HERE}/{command}").code == 0
    assert os.listdir("out/demo/inpainting/r/images") == ["a"]


def test_a_tables_programs_find_the_projects_modules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command([sys.executable, "-c", "import baselines, util"]) == 0


@pytest.mark.slow
def test_a_table_runs_its_programs_from_anywhere(tmp_path):
    options = "configs/tables/demo.yaml --only inpainting least_squares/tuned --cuda -1"
    result = subprocess.run(
        [sys.executable, f"{HERE}/reproduce.py", *options.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "TORCH_HOME": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "results/demo/table.md").exists()


@pytest.mark.parametrize(
    "before, now",
    [
        ("data/demo", "data/demo/"),
        ("data/demo/", "./data/demo"),
        ("data/demo", f"{HERE}/data/demo"),
        (f"{HERE}/data/demo", "data/../data/demo"),
    ],
)
def test_the_same_folder_is_the_same_folder(before, now):
    new = {"data": now, "seed": 1}
    assert not list(differences({"data": before, "seed": 1}, new))
    assert list(differences({"data": "data", "seed": 1}, new)) == [("data", "data", now)]
    assert list(differences({"data": before, "seed": 2}, new)) == [("seed", 2, 1)]


def test_a_run_goes_on_with_its_folder_written_otherwise(least_squares, tmp_path):
    os.symlink(f"{HERE}/data/demo", tmp_path / "link")
    for data in ("data/demo", "data/demo/", f"{HERE}/data/demo", tmp_path / "link"):
        assert least_squares("--data", data).code == 0
    put_images(tmp_path / "other", "b.png")
    again = least_squares("--data", tmp_path / "other")
    assert again.code == 2 and " data data/demo, now it is " in again.err


# WORLD_SIZE without torchrun.


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
        {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"},
        {"RANK": "1"},
        {"WORLD_SIZE": "four"},
    ],
    ids=" ".join,
)
def test_a_batch_systems_variables_alone_start_no_group(least_squares, monkeypatch, variables):
    for key in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(key, raising=False)
        if key in variables:
            monkeypatch.setenv(key, variables[key])
    result = least_squares("-n", 1)
    assert result.code == 0, result.err
    assert "1 image: PSNR" in result.out


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_waits_for_others_in_vain_is_one_line(
    least_squares, monkeypatch, port, rank
):
    monkeypatch.setattr("experiment.runner.PATIENCE", 2)
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for key, value in {**variables, "RANK": str(rank)}.items():
        monkeypatch.setenv(key, value)
    result = least_squares("-n", 1)
    assert result.code == 2 and len(result.err.splitlines()) == 1
    assert f"WORLD_SIZE is 2, but the other process has not come to 127.0.0.1:{port}" in result.err


# Logs, torchrun, SciPy, words.


def test_without_a_terminal_there_is_a_line_an_outer_iteration(run_method, monkeypatch):
    short = {"iterations": ("-n", 1, "--outer", 2, "--inner", 1)}
    several = {"iterations": ("-n", 2, "--outer", 1, "--inner", 1, "--batch-size", 1)}
    out = run_method("dmilo", "inpainting", name="short", **short).out
    assert "outer iteration" not in out  # under a minute
    monkeypatch.setattr(experiment.progress, "LINE_EVERY", 0)
    out = run_method("dmilo", "inpainting", name="long", **short).out
    lines = [line for line in out.splitlines() if "outer iteration" in line]
    assert len(lines) == 2 and all(f"iteration {n} of 2" in lines[n - 1] for n in (1, 2))
    out = run_method("dmilo", "inpainting", name="several", **several).out
    assert "image 2 of 2: " in out and "about 0 min left" in out


def test_torchrun_leaves_every_option_alone(script):
    from torch.distributed.run import get_args_parser

    options = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", script("dmilo.py", "--help").out))
    assert {"--name", "--run", "--task", "-n"} <= options
    # --run, the old name of --name, is an option of torchrun's own.
    for option in sorted(options - {"--run"}):
        args = get_args_parser().parse_args(["--nproc-per-node", "2", "dmilo.py", option])
        assert args.training_script_args == [option]


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("--data", "", "argument --data: "),
        ("--logdir", "", "argument -l/--logdir: "),
        ("--data", "~/no-such-folder", f"{os.path.expanduser('~')}/no-such-folder: "),
    ],
)
def test_a_path_as_a_shell_leaves_it(script, option, value, message):
    result = script("dmilo.py -t inpainting --cuda -1", option, value)
    assert result.code == 2 and message in result.err and len(result.err.splitlines()) == 1


def test_closed_streams_stop_nothing(monkeypatch):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
    run_script(lambda: print("to nobody"))


@pytest.mark.parametrize("option", ["--name", "--run"])
def test_both_names_of_a_runs_name_are_understood(script, tmp_path, option):
    result = script(f"dmilo.py -t inpainting {option} r --summarize --cuda -1 -l", tmp_path)
    assert result.code == 2 and "inpainting/r: has no finished image" in result.err


@pytest.mark.parametrize("has_disp", [True, False], ids=["SciPy 1.17", "SciPy 1.18"])
def test_the_frechet_distance_with_either_scipy(monkeypatch, capsys, has_disp):
    sqrtm = scipy.linalg.sqrtm

    def newest(A):
        return sqrtm(A)

    def older(A, disp=True, blocksize=64):
        if disp:
            print("Matrix is singular")
        return sqrtm(A) if disp else (sqrtm(A), 0.0)

    monkeypatch.setattr(scipy.linalg, "sqrtm", older if has_disp else newest)
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    distance = frechet_distance(np.zeros(3), np.diag(a), np.ones(3), np.diag(b))
    assert distance == pytest.approx(3 + ((a**0.5 - b**0.5) ** 2).sum())
    assert capsys.readouterr().out == ""


def test_the_ssim_is_what_the_documents_say():
    """Uniform 7 x 7 windows, sample covariance, the mean over channels and windows; not rounded."""
    x, y = (np.random.RandomState(seed).rand(3, 20, 24) for seed in (1, 2))
    view = np.lib.stride_tricks.sliding_window_view
    u, v = (view(image, (7, 7), axis=(1, 2)).reshape(3, 14, 18, 49) for image in (x, y))
    mean_u, mean_v, n = u.mean(-1), v.mean(-1), 49
    covariance = (u * v).mean(-1) * n / (n - 1) - mean_u * mean_v * n / (n - 1)
    c1, c2 = 0.01**2, 0.03**2
    ssim = (
        (2 * mean_u * mean_v + c1)
        * (2 * covariance + c2)
        / ((mean_u**2 + mean_v**2 + c1) * (u.var(-1, ddof=1) + v.var(-1, ddof=1) + c2))
    )
    metrics = Metrics.__new__(Metrics)
    metrics.device, metrics.lpips = "cpu", lambda *pair: torch.zeros(1)
    figures = metrics(*(2 * torch.from_numpy(image).float() - 1 for image in (x, y)))
    assert figures["ssim"] == pytest.approx(ssim.mean(), abs=1e-5)
    assert figures["psnr"] == pytest.approx(-10 * np.log10(np.square(x - y).mean()), abs=1e-4)
