"""What inputs, options and machines from the field once broke: a test a case, parametrised over its kind."""

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

import experiment.restoration
from bench.jobs import run_command
from experiment.fid import frechet_distance
from experiment.folder import differences
from experiment.metrics import Metrics
from experiment.presets import load_presets, row_of
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
    """least_squares("--data", …) restores images without a network -> as `script` does, and the run's folder."""

    def run(*arguments):
        result = script(
            "baselines.least_squares",
            "-t",
            "inpainting",
            "--inner",
            2,
            "-l",
            tmp_path / "runs",
            "--name",
            "r",
            "--cuda",
            -1,
            *arguments,
        )
        result.folder = tmp_path / "runs" / "demo" / "inpainting" / "r"
        return result

    return run


def put_images(folder, *names):
    """Copies of a demo picture under these names, in the format of their suffix."""
    for name in names:
        os.makedirs(
            os.path.dirname(os.path.join(os.fsencode(folder), os.fsencode(name))), exist_ok=True
        )
        Image.open("data/demo/astronaut.png").save(os.path.join(folder, os.fsdecode(name)))


# ------------------------------------------------------------------------------------------------ 5: the prior's options


@pytest.mark.parametrize(
    "change, hint",
    [
        ({}, None),
        ({"num_head_channels": -1}, None),  # four heads, too
        ({"use_new_attention_order": True}, "use_new_attention_order: False would do better"),
        ({"num_head_channels": 64}, "num_head_channels: 32 would do better"),
        ({"num_head_channels": -1, "num_heads": 1}, "num_head_channels: 32 would do better"),
        ({"norm_groups": 4}, "norm_groups: 8 would do better"),
        ({"norm_groups": 32}, "norm_groups: 8 would do better"),
    ],
)
def test_an_option_that_changes_no_shape_is_found_by_what_the_network_predicts(
    monkeypatch, capsys, change, hint
):
    tried = [{"norm_groups": 8}, {"use_new_attention_order": False}, {"num_head_channels": 32}]
    assert all(any(one.items() <= other.items() for other in prior.TRIED) for one in tried)
    monkeypatch.setattr(prior, "TRIED", tried)  # for the time
    load_prior({**load_model_config(DEMO), **change}, DEMO, "cpu")
    err = capsys.readouterr().err
    assert bool(err) == bool(hint) and (not hint or hint in err)
    assert not hint or (
        err.startswith("warning: ")
        and all(option in err for option in prior.SHAPELESS)
        and len(err.splitlines()) == 1
    )


@pytest.mark.parametrize("spread", [None, 0.05], ids=["as first drawn", "random"])
def test_random_weights_are_a_warning(workspace, monkeypatch, capsys, spread):
    monkeypatch.setattr(prior, "TRIED", [{"norm_groups": 32}])
    config = load_model_config(DEMO)
    torch.manual_seed(0)
    model = prior.build_model(config, DEMO)
    for parameter in model.parameters() if spread else []:
        torch.nn.init.normal_(parameter, std=spread)
    torch.save(model.state_dict(), "models/demo.pt")
    load_prior(config, DEMO, "cpu")
    assert "models/demo.pt predicts noise badly" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ 6: images


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
def test_a_ramp_of_any_range_that_can_be_told_is_full(tmp_path, values, options):
    Image.fromarray(values).save(tmp_path / "ramp.tif", **options)
    pixels = np.asarray(open_rgb(str(tmp_path / "ramp.tif"), "ramp.tif"), float)[..., 0]
    assert pixels.min() == 0 and pixels.max() == 255 and np.abs(pixels - 255 * RAMP).max() < 1.6


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
def test_a_range_that_cannot_be_told_is_one_line(tmp_path, values, suffix):
    path = str(tmp_path / f"a.{suffix}")
    Image.fromarray(values).save(path)
    with pytest.raises(UserError, match="a.* do not tell what white is; scale them"):
        open_rgb(path, path)


# ------------------------------------------------------------------------------------------------ 7: a grey photograph


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
    assert (
        np.asarray(Image.open(result.folder / "images" / "grey" / "origin.png")) == np.asarray(grey)
    ).all()
    y = np.load(result.folder / "images" / "grey" / "measurement.npy")
    assert (y == y[:1]).all()  # one channel, one noise
    record = json.loads((result.folder / "record" / "grey.json").read_text())
    assert record["psnr"][-1] > 10 and 0 < record["ssim"][-1] < 1 and record["lpips_alex"][-1] > 0


# ------------------------------------------------------------------------------------- 8, 9, 53: which images there are


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_pillow_reads_is_read(tmp_path, suffix):
    put_images(tmp_path, f"a{suffix}")
    (path,) = list_images(tmp_path)
    difference = np.abs(
        np.asarray(open_rgb(path, path), float)
        - np.asarray(Image.open("data/demo/astronaut.png"), float)
    ).mean()
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
    assert f"{tmp_path}/m: not read: b.HEIC, c.txt, old/ (read are .png" in line


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
        assert (result.folder / "images" / name / "final.png").exists() and (
            result.folder / "record" / f"{name}.json"
        ).exists()
        assert f"{name}: final psnr" in (result.folder / "log.txt").read_text()
    assert json.loads((result.folder / "summary.json").read_text())["images"] == 3
    stamp = os.path.getmtime(result.folder / "images" / "00001/a" / "final.png")
    assert least_squares("--data", tmp_path / "m").code == 0
    assert (
        os.path.getmtime(result.folder / "images" / "00001/a" / "final.png") == stamp
    )  # it knows what is finished


def test_names_are_sorted_1_2_10_and_how_many_are_taken_is_said(least_squares, tmp_path):
    names = [f"{n}.png" for n in range(12)]
    put_images(tmp_path / "m", *names)
    assert find_images(tmp_path / "m")[0] == names
    result = least_squares("--data", tmp_path / "m")
    assert "10 of 12 images (-n)" in result.out and sorted(
        os.listdir(result.folder / "images"), key=natural
    ) == [str(n) for n in range(10)]
    assert list(json.loads((result.folder / "summary.json").read_text())["failed"]) == []
    assert (
        "2 of 12 images (-n, -bn, -en)"
        in least_squares("--data", tmp_path / "m", "-n", 12, "-bn", 10).out
    )


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


# --------------------------------------------------------------------------------------------- 10, 11: names and disks


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
    options = [
        "-t",
        "inpainting",
        "--data",
        tmp_path / "m",
        "-l",
        tmp_path,
        "--name",
        "r",
        "--cuda",
        -1,
        "--outer",
        2,
        "--inner",
        1,
    ]

    def interrupt(self, ends_outer):
        if ends_outer:
            raise KeyboardInterrupt  # no signal, which a job in the background may be told to ignore

    with monkeypatch.context() as patch:
        patch.setattr(experiment.restoration.Progress, "on_iterate", interrupt)
        assert script("dmilo.py", *options).code == 130
    assert glob.glob(str(tmp_path / "demo/inpainting/r/record/*.state"))
    assert script("dmilo.py", *options).code == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_knows_few_letters(monkeypatch, encoding):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    run_script(lambda: print("caf\udce9: … 30 dB"))
    assert sys.stdout.buffer.getvalue().startswith(
        rb"caf\udce9: "
    )  # at once: in a job's log nothing waits for the end


def test_a_name_too_long_for_a_runs_files_is_one_line_at_once(tmp_path):
    with pytest.raises(UserError, match="its name is longer than 249 bytes; rename it"):
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
    assert (tmp_path / "new" / "18.txt").read_text() == "text" and len(
        os.listdir(tmp_path / "new")
    ) == 3


# ---------------------------------------------------------------------------------------------------- 12, 14, 15: YAMLs


@pytest.mark.parametrize(
    "text, said",
    [
        ("noise:\n  sigma: 0.01\n  sigma: 0.1\n", "sigma, line 3, stands in line 2 already"),
        ("a: {b: 1, b: 2}\n", "b, line 1, stands in line 1 already"),
        ("a: 1\nb: 2\na: 3\n", "a, line 3, stands in line 1 already"),
        ("a: !!int x\n", "is not valid YAML"),
        ("a: 2026-99-99\n", "is not valid YAML"),
        ("a: " + "[" * 3000, "is not valid YAML"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_lines(tmp_path, text, said):
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(UserError, match=f"task.yaml: .*{said}"):
        load_yaml(tmp_path / "task.yaml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_merged_mappings_are_no_keys_that_stand_twice(tmp_path, encoding):
    text = (
        "a: &a {k: 1, l: 2}\nb: &b {<<: *a, k: 3}\nc: {<<: [*a, *b], l: 4}\nd: {<<: *a, <<: *b}\n"
    )
    (tmp_path / "a.yaml").write_bytes(text.encode(encoding))  # as editors and shells write it
    assert load_yaml(tmp_path / "a.yaml")["b"] == {"k": 3, "l": 2} and load_yaml(
        tmp_path / "a.yaml"
    )["c"] == {"k": 1, "l": 4}


@pytest.mark.parametrize(
    "shipped, row",
    [
        ("gaussian_deblur", "gaussian_deblur"),
        ("motion_deblur", "motion_deblur"),
        ("inpainting", "inpainting"),
        ("denoising", "denoising"),
        ("super_resolution", "super_resolution"),
        ("poisson_denoising", "poisson_denoising"),
        ("box_inpainting", "default"),
    ],
)
def test_a_task_under_a_new_name_takes_the_row_of_what_it_is(workspace, shipped, row):
    text = (workspace / f"configs/tasks/{shipped}_config.yaml").read_text()
    (workspace / "configs/tasks/my_own_config.yaml").write_text(text.replace("0.01", "0.03"))
    table = load_yaml("configs/dmilo.yaml")["fast"]
    assert row_of("my_own", table) == row and row_of(shipped, table) == (
        shipped if shipped in table else "default"
    )


@pytest.mark.parametrize(
    "method",
    ["dmilo", "dmilo-pgd", "dps", "least_squares", "dmplug", "reddiff", "daps", "total_variation"],
)
def test_shipped_tasks_take_the_rows_that_they_always_took(method):
    tasks = {
        os.path.basename(path)[: -len("_config.yaml")]
        for path in glob.glob("configs/tasks/**/*_config.yaml", recursive=True)
    }
    for preset, table in load_presets(method).items():
        wanted = {task: task if task in table else "default" for task in tasks}
        if wanted["inpainting"] == "inpainting":  # but for what is missing without noise, too
            wanted["clean_inpainting"] = "inpainting"
        assert {task: row_of(task, table) for task in tasks} == wanted, preset


def test_whose_row_a_task_takes_is_said(workspace, script):
    (workspace / "configs/tasks/my_blur_config.yaml").write_text(
        (workspace / "configs/tasks/demo/gaussian_deblur_config.yaml").read_text()
    )
    for task, row in (("my_blur", "gaussian_deblur"), ("denoising", "default")):
        result = script(
            "baselines.total_variation", "-t", task, "--inner", 1, "-n", 1, "--cuda", -1
        )
        assert (
            result.code == 0
            and f"configs/total_variation.yaml: tuned has no row {task}, its row {row} is used"
            in result.out
        )


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
            f"super_resolution{IN_OPERATOR}in_shape: !!python/tuple [1, 3, 64, 64]{IN_OPERATOR}scale_factor: 4",
            "",
        ),
        (f"phase_retrieval{IN_OPERATOR}oversample: 2.0", ""),
        (
            "inpainting",
            "mask_opt: {mask_type: random, mask_prob_range: !!python/tuple [0.3, 0.7], mask_len_range: !!python/tuple [8, 9], image_size: 64}",
        ),
        ("noise", ""),
    ],
)
def test_task_files_of_the_dps_repository_run(tmp_path, capsys, operator, more):
    path = str(tmp_path / "dps_config.yaml")
    (tmp_path / "dps_config.yaml").write_text(DPS_FILE.format(operator=operator, more=more))
    task = load_task(path)
    assert (
        "conditioning and data passed over; --preset and --data say that here"
        in capsys.readouterr().out
        and set(task) == {"measurement"}
    )
    built, noise = load_measurement(task, path, (64, 64), 64)
    assert noise.sigma == 0.05
    if "_blur" in operator:
        ours = {
            "kernel": operator.split("_")[0],
            "kernel_size": 61,
            "intensity": 3.0 if "gaussian" in operator else 0.5,
        }
        same, _ = load_measurement(
            {**ours, "measurement": {**task["measurement"], "operator": {"name": "blind_blur"}}},
            path,
            (64, 64),
            64,
        )
        assert torch.equal(
            *(one.draw(BatchRandom([1]), "cpu")[1]["kernel"] for one in (built, same))
        )


def test_a_dps_blur_takes_the_row_of_the_blur_and_turbulence_is_another(workspace, script):
    (workspace / "configs/tasks/theirs_config.yaml").write_text(
        DPS_FILE.format(
            operator=f"motion_blur{IN_OPERATOR}kernel_size: 21{IN_OPERATOR}intensity: 0.5", more=""
        )
    )
    result = script(
        "baselines.least_squares",
        "-t",
        "theirs",
        "--inner",
        1,
        "-n",
        1,
        "--cuda",
        -1,
        "--name",
        "r",
    )
    assert result.code == 0 and "its row motion_deblur is used" in result.out
    (workspace / "configs/tasks/theirs_config.yaml").write_text(
        DPS_FILE.format(operator="turbulence", more="")
    )
    result = script("baselines.least_squares", "-t", "theirs", "--cuda", -1)
    assert (
        result.code == 2
        and "measurement.operator.tilt is missing (pixels, 0 or more" in result.err.splitlines()[-1]
    )


# ---------------------------------------------------------------------------------------------------- 18, 19: checkpoints

STATE = {"a.weight": torch.ones(2, 3), "b": torch.zeros(1)}


class Trainer:
    """What a training program might have put into its checkpoint."""


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
def test_a_state_dict_is_found_within_a_training(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    found = read_state_dict(str(tmp_path / "a.pt"))
    assert list(found) == list(STATE) and all(
        torch.equal(found[name], STATE[name]) for name in STATE
    )


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
    with pytest.raises(UserError) as said:
        read_state_dict(path)
    assert f"holds an object of the class {name}" in str(said.value)
    code = re.search(r'python -c "(.*)", or', str(said.value))[1].replace(
        "'bare.pt'", repr(str(tmp_path / "bare.pt"))
    )
    exec(code)  # what it tells the user to do
    assert list(read_state_dict(str(tmp_path / "bare.pt"))) == list(STATE)


@pytest.mark.parametrize(
    "content, name, said",
    [
        (
            b"<!DOCTYPE html><title>Quota exceeded</title>",
            "a.pt",
            "is a web page, not a checkpoint",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a.pt",
            "is a Git LFS pointer (git lfs pull), not a checkpoint",
        ),
        (b"\x08\0\0\0\0\0\0\0{}", "a.safetensors", "is in the safetensors format"),
        (b"PK\3\4" + b"x" * 99, "a.pt", "cannot be read as a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_what_it_is(tmp_path, content, name, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(said)):
        read_state_dict(str(tmp_path / name))


@pytest.mark.parametrize(
    "content, said",
    [
        ([STATE, STATE], "holds no state dict"),
        ({**STATE, "epoch": 3}, "holds no state dict"),
        ({1: torch.zeros(1)}, "holds no state dict"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a is sparse or without values"),
        ({"a": torch.ones(2, device="meta")}, "a is sparse or without values"),
        ("itself", "holds no state dict"),
    ],
)
def test_a_checkpoint_without_weights_is_one_line(tmp_path, content, said):
    if content == "itself":
        content = {}
        content["model"] = content
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=said):
        read_state_dict(str(tmp_path / "a.pt"))


@pytest.mark.parametrize(
    "old, new, said",
    [
        (
            "num_channels: 32",
            "num_channels: 64",
            "time_embed.0.weight is (128, 32), (256, 64) by configs/model_config_demo.yaml",
        ),
        (
            "resblock_updown: True",
            "resblock_updown: False",
            "input_blocks.2.0.op.weight, (32, 32, 3, 3) by configs/model_config_demo.yaml, is missing",
        ),
        (
            "learn_sigma: True",
            "learn_sigma: False",
            "out.2.weight is (6, 32, 3, 3), (3, 32, 3, 3) by configs/model_config_demo.yaml",
        ),
        (
            'channel_mult: "1,1,2,4"',
            'channel_mult: "1,1,2"',
            "middle_block.0.in_layers.0.weight is (128,), (64,) by configs/model_config_demo.yaml",
        ),
    ],
)
def test_the_first_difference_of_a_checkpoint_is_named(workspace, old, new, said):
    edit(workspace / DEMO, old, new)
    with pytest.raises(UserError) as error:
        load_prior(load_model_config(DEMO), DEMO, "cpu")
    assert (
        "models/demo.pt: does not fit configs/model_config_demo.yaml; it fits none of the shipped configs: "
        in str(error.value)
    )
    assert said in str(error.value)


# ------------------------------------------------------------------------------------------------- 20, 21: GPUs, compilers

NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be asynchronously reported"
OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver\nby …"


def raising(error):
    def function(*arguments, **options):
        raise error

    return function


@pytest.mark.parametrize(
    "where, error, said",
    [
        (
            "set_device",
            torch.AcceleratorError(NO_KERNEL),
            "no kernel image is available for execution on the device)",
        ),
        ("set_device", RuntimeError(OLD_DRIVER), "driver on your system is too old"),
        (
            "set_device",
            AssertionError("Torch not compiled with CUDA enabled"),
            "not compiled with CUDA",
        ),
        ("init", RuntimeError(OLD_DRIVER), "driver on your system is too old"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_one_line(script, tmp_path, monkeypatch, where, error, said):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(where == "set_device"))
    monkeypatch.setattr(torch.cuda, where, raising(error))
    result = script("dmilo.py", "-t", "inpainting", "-l", tmp_path / "runs")
    assert (
        result.code == 2
        and len(result.err.splitlines()) == 1
        and "this PyTorch cannot use the GPU (" in result.err
        and said in result.err
    )
    assert not os.path.exists(tmp_path / "runs")


def test_a_gpu_that_fails_meanwhile_is_one_line(script, tmp_path, monkeypatch):
    monkeypatch.setattr(
        experiment.restoration,
        "search",
        raising(torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")),
    )
    result = script("dmilo.py", "-t", "inpainting", "-l", tmp_path, "-n", 1, "--cuda", -1)
    assert (
        result.code == 2
        and "the GPU fails (CUDA error: unspecified launch failure); what was finished is on disk"
        in result.err.splitlines()[-1]
    )


@pytest.mark.parametrize(
    "name, more",
    [
        ("dmilo.py", ["-t", "inpainting", "-l"]),
        ("train.py", ["--config", DEMO, "--data", "data/demo", "--out"]),
    ],
)
def test_what_cannot_be_compiled_is_one_line(script, tmp_path, monkeypatch, name, more):
    monkeypatch.setattr(
        torch,
        "compile",
        raising(RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore")),
    )
    result = script(name, "--compile", "--cuda", -1, *more, tmp_path / "out")
    assert result.code == 2 and len(result.err.splitlines()) == 1
    assert (
        "--compile: nothing can be compiled here (InvalidCxxCompiler: No working C++ compiler found); install"
        in result.err
    )


@pytest.mark.slow
def test_without_a_compiler_compile_is_one_line():
    """In a process of its own, for a compiler is looked for once."""
    code = "import torch\nfrom util.devices import compile_network\nfrom util.files import UserError\ntry:\n    compile_network(torch.sin, 'cpu')\nexcept UserError as e:\n    print(e)"
    environment = {**os.environ, "CXX": "/bin/false", "CC": "/bin/false"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (
        result.stdout.startswith("--compile: nothing can be compiled here (")
        and len(result.stdout.splitlines()) == 1
    ), result.stderr


# --------------------------------------------------------------------------------------------- 51, 52: folders, elsewhere


@pytest.mark.parametrize(
    "name, options, code",
    [
        ("dmilo.py", ["--help"], 0),
        ("dmilo-pgd.py", ["--help"], 0),
        ("train.py", ["--help"], 0),
        ("benchmark.py", ["--help"], 0),
        ("reproduce.py", ["--help"], 0),
        (
            "dmilo.py",
            ["-t", "inpainting", "--outer", 1, "--inner", 1, "--cuda", -1, "--name", "r"],
            0,
        ),
        ("train.py", ["--config", DEMO, "--data", "nowhere", "--out", "a.pt", "--cuda", -1], 2),
        ("benchmark.py", ["loss", "-n", 1, "--cuda", -1], 0),
        (
            "reproduce.py",
            [
                "configs/tables/demo.yaml",
                "--only",
                "inpainting",
                "least_squares/tuned",
                "--dry-run",
                "--cuda",
                -1,
            ],
            0,
        ),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, list) else str(value),
)
def test_a_program_runs_from_anywhere(script, tmp_path, monkeypatch, name, options, code):
    monkeypatch.chdir(tmp_path)
    result = script(f"{HERE}/{name}", *options)
    assert result.code == code and "cannot be read" not in result.err, result.err
    if "--outer" in options:
        assert os.path.exists("dmilo/demo/inpainting/r/summary.json")  # where the user stands


def test_a_users_paths_are_from_where_they_stand(script, tmp_path, monkeypatch):
    put_images(tmp_path / "mine", "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE)
    result = script(
        f"{HERE}/dmilo.py",
        "--data",
        "mine",
        "-l",
        "out",
        "-t",
        "inpainting",
        "--outer",
        1,
        "--inner",
        1,
        "--cuda",
        -1,
        "--name",
        "r",
    )
    assert result.code == 0 and os.listdir("out/demo/inpainting/r/images") == ["a"]


def test_a_tables_programs_find_the_projects_modules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command([sys.executable, "-c", "import baselines, util"]) == 0


@pytest.mark.slow
def test_a_table_runs_its_programs_from_anywhere(tmp_path):
    command = [
        sys.executable,
        f"{HERE}/reproduce.py",
        "configs/tables/demo.yaml",
        "--only",
        "inpainting",
        "least_squares/tuned",
        "--cuda",
        "-1",
    ]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "TORCH_HOME": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "results/demo/table.md").exists()


@pytest.mark.parametrize(
    "begun, again",
    [
        ("data/demo", "data/demo/"),
        ("data/demo/", "./data/demo"),
        ("data/demo", f"{HERE}/data/demo"),
        (f"{HERE}/data/demo", "data/../data/demo"),
    ],
)
def test_the_same_folder_is_the_same_folder(begun, again):
    assert not list(differences({"data": begun, "seed": 1}, {"data": again, "seed": 1}))
    assert list(differences({"data": "data", "seed": 1}, {"data": again, "seed": 1})) == [
        ("data", "data", again)
    ]
    assert list(differences({"data": begun, "seed": 1}, {"data": again, "seed": 2})) == [
        ("seed", 1, 2)
    ]


def test_a_run_goes_on_with_its_folder_written_otherwise(least_squares, tmp_path):
    os.symlink(f"{HERE}/data/demo", tmp_path / "link")
    for data in ("data/demo", "data/demo/", f"{HERE}/data/demo", tmp_path / "link"):
        assert least_squares("--data", data).code == 0
    put_images(tmp_path / "other", "b.png")
    again = least_squares("--data", tmp_path / "other")
    assert again.code == 2 and "was begun with data data/demo, now it is" in again.err


# ------------------------------------------------------------------------------- 54, 57, 58, 27: logs, torchrun, SciPy, words


def test_without_a_terminal_there_is_a_line_an_outer_iteration(run_method, monkeypatch):
    short = {"iterations": ("-n", 1, "--outer", 2, "--inner", 1)}
    several = {"iterations": ("-n", 2, "--outer", 1, "--inner", 1, "--batch-size", 1)}
    assert (
        "outer iteration" not in run_method("dmilo", "inpainting", name="short", **short).out
    )  # under a minute
    monkeypatch.setattr(experiment.restoration, "LINE_EVERY", 0)
    out = run_method("dmilo", "inpainting", name="long", **short).out
    assert [line for line in out.splitlines() if "outer iteration" in line] == [
        f"0 of 1 images finished, outer iteration {n} of 2 of the next, 0 min" for n in (1, 2)
    ]
    out = run_method("dmilo", "inpainting", name="several", **several).out
    assert (
        "1 of 2 images finished, outer iteration 1 of 1 of the next, 0 min, about 0 min left" in out
    )


def test_torchrun_leaves_every_option_alone(script):
    from torch.distributed.run import get_args_parser

    options = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", script("dmilo.py", "--help").out))
    assert {"--name", "--run", "--task", "-n"} <= options
    for option in sorted(
        options - {"--run"}
    ):  # the old name of --name, which torchrun takes for its own
        assert get_args_parser().parse_args(
            ["--nproc-per-node", "2", "dmilo.py", option]
        ).training_script_args == [option]


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("--data", "", "argument --data: must not be empty"),
        ("--logdir", "", "argument -l/--logdir: must not be empty"),
        ("--data", "~/no-such-folder", f"{os.path.expanduser('~')}/no-such-folder: no such folder"),
    ],
)
def test_a_path_as_a_shell_leaves_it(script, option, value, said):
    result = script("dmilo.py", "-t", "inpainting", "--cuda", -1, option, value)
    assert result.code == 2 and said in result.err and len(result.err.splitlines()) == 1


def test_closed_streams_stop_nothing(monkeypatch):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
    run_script(lambda: print("to nobody"))


@pytest.mark.parametrize("option", ["--name", "--run"])
def test_both_names_of_a_runs_name_are_understood(script, tmp_path, option):
    result = script(
        "dmilo.py", "-l", tmp_path, "-t", "inpainting", option, "r", "--summarize", "--cuda", -1
    )
    assert result.code == 2 and "inpainting/r: has no finished image" in result.err


@pytest.mark.parametrize("has_disp", [True, False], ids=["SciPy 1.17", "SciPy 1.18"])
def test_the_frechet_distance_with_either_scipy(monkeypatch, capsys, has_disp):
    sqrtm = scipy.linalg.sqrtm
    newest = lambda A: sqrtm(A)
    older = lambda A, disp=True, blocksize=64: (
        print("Matrix is singular") or sqrtm(A) if disp else (sqrtm(A), 0.0)
    )
    monkeypatch.setattr(scipy.linalg, "sqrtm", older if has_disp else newest)
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    distance = frechet_distance(np.zeros(3), np.diag(a), np.ones(3), np.diag(b))
    assert (
        distance == pytest.approx(3 + ((a**0.5 - b**0.5) ** 2).sum())
        and capsys.readouterr().out == ""
    )


def test_the_ssim_is_what_the_documents_say():
    """A uniform window of 7 x 7, the sample covariance, the mean over the three channels and all windows that lie inside; before rounding."""
    x, y = (np.random.RandomState(seed).rand(3, 20, 24) for seed in (1, 2))
    windows = lambda image: np.lib.stride_tricks.sliding_window_view(
        image, (7, 7), axis=(1, 2)
    ).reshape(3, 14, 18, 49)
    u, v = windows(x), windows(y)
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
    found = metrics(*(2 * torch.from_numpy(image).float() - 1 for image in (x, y)))
    assert found["ssim"] == pytest.approx(ssim.mean(), abs=1e-5)
    assert found["psnr"] == pytest.approx(-10 * np.log10(np.square(x - y).mean()), abs=1e-4)


def test_every_sigma_is_said_in_both_units():
    for path in glob.glob("configs/tasks/**/*.yaml", recursive=True):
        with open(path, encoding="utf-8") as f:
            lines = [line for line in f if "sigma:" in line and "of sums" not in line]
        for line in lines:
            sigma, levels = map(
                float,
                re.search(r"sigma: (\S+)  # in units of \[-1, 1\]: (\S+) of 255", line).groups(),
            )
            assert levels == pytest.approx(sigma * 255 / 2, rel=0.03), path
