"""Runs that are killed, split, spoilt or too large: what is finished stays, and the rest ends as it
would have."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import put_tiny_prior
from PIL import Image

import experiment.recorder
import experiment.restoration
from experiment.restoration import Restoration
from guided_diffusion.errors import FREQUENCIES

pytestmark = pytest.mark.usefixtures("tiny_prior")
SHORT = ("--outer", 1, "--inner", 1)
COMMAND = "dmilo.py -t inpainting --name r --cuda -1"  # to follow: -l DIR


def contents(folder):
    """Every file of a run without times: pictures as bytes, records without their seconds."""
    files = {}
    for directory, _, names in os.walk(folder):
        for file in names:
            path = os.path.join(directory, file)
            name = os.path.relpath(path, folder)
            files[name] = None
            if file.endswith((".png", ".npy")):
                files[name] = open(path, "rb").read()
            elif "/record/" in f"/{name}" and name.endswith(".json"):
                record = json.load(open(path))
                times = ("seconds", "elapsed")
                files[name] = {key: value for key, value in record.items() if key not in times}
    return files


def dying_after(saves, save):
    """A Restoration.save that kills the run in place of saving its n-th state."""
    left = [saves]

    def dying(self, state):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        save(self, state)

    return dying


RUNS = [
    "dmilo.py -t inpainting --outer 3 --inner 2 --eta 0.5",
    "dmilo-pgd.py -t super_resolution --outer 3 --inner 2",
    "dmilo.py -t extreme_inpainting --preset fast",
    "dmilo.py -t motion_deblur --outer 1 --inner 2 --samples 3",
    "dmilo.py -t blind_deblur --outer 3 --inner 1",
    "dmilo.py -t inpainting --preset sharp",
    "dmilo.py -t super_resolution --preset sharp --outer 3",
    "samplers.antithetic -t super_resolution --samples 3",
    "samplers.posterior -t inpainting --samples 3",
    "samplers.pnp -t motion_deblur --samples 3",
    "baselines.dmplug -t inpainting --outer 3 --inner 2",
    "baselines.dps -t inpainting --outer 3 -c 2",
    "baselines.diffpir -t inpainting --outer 3 -c 2",
    "baselines.reddiff -t inpainting --outer 3 -c 2",
    "baselines.daps -t inpainting --outer 3 -c 2",
    "baselines.fast_dips -t inpainting --outer 3",
    "baselines.admm -t inpainting --outer 3",
    "baselines.total_variation -t inpainting --outer 3 --inner 2",
]


@pytest.mark.usefixtures("short_searches")
@pytest.mark.parametrize("command", RUNS)
def test_a_killed_run_ends_as_an_uninterrupted_one(script, tmp_path, monkeypatch, command):
    def run(logdir):
        return script(f"{command} --name r --batch-size 1 --cuda -1 -l", tmp_path / logdir)

    assert run("whole").code == 0
    save = Restoration.save
    for saves in (2, 3, 3):  # also between the two images
        monkeypatch.setattr(Restoration, "save", dying_after(saves, save))
        killed = run("killed")
        monkeypatch.setattr(Restoration, "save", save)
        assert killed.code == 130 and "interrupted" in killed.err
    assert any(file.endswith(".state") for file in contents(tmp_path / "killed"))
    assert run("killed").code == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_killed_photographs_are_resumed_by_the_settings_at_the_top(script, tmp_path, monkeypatch):
    def run(name):
        options = "--method dmilo --preset paper --outer 3 --inner 1 --scale 2 --cuda -1"
        photo = "data/photo/small.png"
        return script(f"restore.py {photo} {options} --name {name} -l", tmp_path)

    assert run("whole").code == 0
    save = Restoration.save
    monkeypatch.setattr(Restoration, "save", dying_after(3, save))
    assert run("killed").code == 130
    top = tmp_path / "killed"
    assert sorted(os.listdir(top)) == ["run", "settings.json"]
    assert (top / "run" / "record" / "small.state").exists()
    monkeypatch.setattr(Restoration, "save", save)
    assert run("killed").code == 0
    assert contents(top) == contents(tmp_path / "whole")
    assert sorted(os.listdir(top)) == ["report.html", "run", "settings.json", "small.png"]


def test_two_batches_of_which_each_was_killed_go_on_in_one_process(script, tmp_path, monkeypatch):
    def run():
        return script(f"{COMMAND} --batch-size 1 --outer 3 --inner 1 -c 1 -l", tmp_path)

    save, record = Restoration.save, tmp_path / "demo/inpainting/r/record"
    os.makedirs(tmp_path / "states")
    for name, saves in (("astronaut", 2), ("grace_hopper", 4)):  # as left by two slices
        monkeypatch.setattr(Restoration, "save", dying_after(saves, save))
        assert run().code == 130
        shutil.copy(record / f"{name}.state", tmp_path / "states")
        monkeypatch.setattr(Restoration, "save", save)
    os.unlink(record / "astronaut.json")
    shutil.copy(tmp_path / "states" / "astronaut.state", record)
    assert run().code == 0


def test_a_finished_run_is_not_run_again(run_method):
    first = run_method("dmilo", "inpainting")
    stamp = os.path.getmtime(first.folder / "images" / "astronaut" / "final.png")
    again = run_method("dmilo", "inpainting")
    assert os.path.getmtime(again.folder / "images" / "astronaut" / "final.png") == stamp
    assert again.summary["final"] == first.summary["final"]


@pytest.mark.parametrize(
    "options, key",
    [
        ("--seed 7", "seed"),
        ("--stop whiteness", "stop"),
        ("--inner 3", "hyperparameters.inner"),
        ("--precision bf16", "precision"),
    ],
)
def test_other_settings_under_the_same_name_are_refused(script, tmp_path, options, key):
    command = f"{COMMAND} -n 1 --outer 1 --inner 1"
    assert script(f"{command} -l", tmp_path).code == 0
    again = script(f"{command} {options} -l", tmp_path)
    assert again.code == 2 and f" {key} " in again.err and len(again.err.splitlines()) == 1


def test_a_run_created_before_there_was_a_setting_goes_on(script, run_method, tmp_path):
    path = run_method("dmilo", "inpainting", "-n", 1, iterations=SHORT).folder / "settings.json"
    settings = json.loads(path.read_text())
    assert settings["hyperparameters"]["restarts"].pop("count") == 1
    del settings["hyperparameters"]["decay"]
    path.write_text(json.dumps(settings))
    run_method("dmilo", "inpainting", "-n", 1, iterations=SHORT)
    settings["hyperparameters"]["restarts"]["count"] = 2
    path.write_text(json.dumps(settings))
    command = "dmilo.py -t inpainting -n 1 --name run --cuda -1 --outer 1 --inner 1 -l"
    again = script(command, tmp_path / "dmilo")
    assert again.code == 2 and "hyperparameters.restarts.count 2" in again.err


def test_a_run_of_an_older_version_is_refused_in_one_line(script, tmp_path):
    for folder in ("demo/inpainting/r", "r"):
        os.makedirs(tmp_path / folder)
        (tmp_path / folder / "settings.json").write_text('{"method": "dmilo", "measured": true}')
    for command in (COMMAND, "restore.py data/photo/small.png --scale 2 --name r --cuda -1"):
        result = script(f"{command} -l", tmp_path)
        assert result.code == 2 and len(result.err.splitlines()) == 1
        assert "older version" in result.err and "--name" in result.err


def test_another_image_under_the_same_name_is_refused(script, tmp_path):
    os.makedirs(tmp_path / "faces")
    shutil.copy("data/demo/astronaut.png", tmp_path / "faces" / "a.png")
    options = (*SHORT, "--data", tmp_path / "faces", "-l", tmp_path)
    assert script(COMMAND, *options).code == 0
    Image.open("data/demo/astronaut.png").rotate(180).save(tmp_path / "faces" / "a.png")
    again = script(COMMAND, *options)
    assert again.code == 2 and len(again.err.splitlines()) == 1 and "a/origin.png" in again.err


def test_slices_know_each_others_names(script, tmp_path):
    os.makedirs(tmp_path / "faces")
    for name in ("a.png", "a.webp", "b.png"):
        Image.open("data/demo/astronaut.png").save(tmp_path / "faces" / name)
    result = script(f"{COMMAND} -en 1", "-l", tmp_path, "--data", tmp_path / "faces")
    assert result.code == 2 and "a.webp: would share its folder" in result.err


def test_a_folder_of_something_else_is_refused(script, tmp_path):
    os.makedirs(tmp_path / "demo" / "inpainting" / "r" / "holiday")
    result = script(f"{COMMAND} -l", tmp_path)
    assert result.code == 2 and "is no run of this program" in result.err


@pytest.mark.parametrize(
    "file, content",
    [
        ("settings.json", b"{"),
        ("settings.json", b"[]"),
        ("record/astronaut.json", b""),
        ("record/astronaut.state", b"x"),
    ],
)
def test_a_spoilt_file_of_a_run_is_named(script, run_method, tmp_path, file, content):
    run = run_method("dmilo", "inpainting", "-n", 1, iterations=SHORT)
    if file.endswith(".state"):
        os.remove(run.folder / "record" / "astronaut.json")
    (run.folder / file).write_bytes(content)
    command = "dmilo.py -t inpainting -n 1 --name run --cuda -1 --outer 1 --inner 1 -l"
    again = script(command, tmp_path / "dmilo")
    assert again.code == 2 and f"{file}: " in again.err.splitlines()[-1]
    assert "Traceback" not in again.err


def test_slices_under_one_name_make_one_run(run_method):
    run_method("dmilo", "inpainting", "-en", 1, iterations=SHORT)
    second = run_method("dmilo", "inpainting", "-bn", 1, iterations=SHORT)
    assert second.summary["images"] == 2
    os.remove(second.folder / "summary.json")
    again = run_method("dmilo", "inpainting", "--summarize", iterations=SHORT)
    assert again.summary["images"] == 2 and again.summary["final"] == second.summary["final"]


def test_summarize_without_anything_finished(script, tmp_path):
    result = script(f"{COMMAND} --summarize -l", tmp_path)
    assert result.code == 2 and "no finished image" in result.err


def test_two_processes_give_what_one_gives(script, workspace, port, one_thread, monkeypatch):
    put_tiny_prior(workspace)
    # The other two find none in the workspace.
    monkeypatch.setattr("util.devices.git_revision", lambda: None)
    os.makedirs(workspace / "faces")
    for turns, name in enumerate("abc"):
        face = Image.open("data/demo/astronaut.png").rotate(turns * 90)
        face.save(workspace / "faces" / f"{name}.png")
    command = f"{COMMAND} --data faces --batch-size 1 --outer 2 --inner 2"
    one = script(f"{command} -l one")
    assert one.code == 0, one.err
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run(
        [*torchrun, "--master-port", port, "--", *f"{command} -l two".split()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    folders = [workspace / folder / "demo" / "inpainting" / "r" for folder in ("one", "two")]
    one, two = map(contents, folders)
    assert len(one) == 3 * 9 + 3 + 5 and one == two
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert summaries[0]["final"] == summaries[1]["final"]


def test_an_image_that_is_not_finite_stops_alone(script, tmp_path, monkeypatch):
    draw_latents = experiment.restoration.draw_latents

    def spoilt(*arguments):
        latents = draw_latents(*arguments)
        latents[0][0] = float("nan")
        return latents

    command = f"{COMMAND} --batch-size 2 --outer 2 --inner 2 -l"
    script(command, tmp_path / "sound")
    monkeypatch.setattr(experiment.restoration, "draw_latents", spoilt)
    result = script(command, tmp_path / "spoilt")
    assert result.code == 1 and "astronaut: init is not finite" in result.err
    sound, spoilt = (tmp_path / f / "demo" / "inpainting" / "r" for f in ("sound", "spoilt"))
    summary = json.loads((spoilt / "summary.json").read_text())
    assert summary["images"] == 1 and list(summary["failed"]) == ["astronaut"]
    assert "not finite" in json.loads((spoilt / "record" / "astronaut.json").read_text())["failed"]
    final = "images/grace_hopper/final.png"
    assert (spoilt / final).read_bytes() == (sound / final).read_bytes()


def test_batches_that_do_not_fit_are_halved_from_then_on(run_method, monkeypatch, tmp_path):
    search, sizes = experiment.restoration.search, []

    def scarce(solver, g, operator, y, *more):
        sizes.append(len(y))
        if len(y) > 1:
            raise torch.OutOfMemoryError("no memory")
        return search(solver, g, operator, y, *more)

    os.makedirs(tmp_path / "faces")
    for name in "abcde":
        shutil.copy("data/demo/astronaut.png", tmp_path / "faces" / f"{name}.png")
    monkeypatch.setattr(experiment.restoration, "search", scarce)
    options = ("--data", tmp_path / "faces", "--batch-size", 3)
    run = run_method("dmilo", "inpainting", *options, iterations=SHORT)
    assert run.summary["images"] == 5 and "going on with 1 at once" in run.err
    assert sizes == [3, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no memory"), RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED")]
)
def test_an_image_that_does_not_fit_fails_alone_and_is_tried_again(
    script, tmp_path, monkeypatch, error
):
    search, tried = experiment.restoration.search, []

    def full_at_first(*arguments):
        tried.append(arguments)
        if len(tried) == 1:
            raise error
        return search(*arguments)

    monkeypatch.setattr(experiment.restoration, "search", full_at_first)
    command = f"{COMMAND} --batch-size 1 --outer 1 --inner 1 -l"
    result = script(command, tmp_path)
    assert result.code == 1 and "warning: astronaut: does not fit" in result.err, result.err
    folder = tmp_path / "demo" / "inpainting" / "r"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["images"] == 1 and "does not fit" in summary["failed"]["astronaut"]
    assert "astronaut: failed" in (folder / "log.txt").read_text()
    assert script(command, tmp_path).code == 0 and len(tried) == 3
    assert json.loads((folder / "summary.json").read_text())["images"] == 2


def test_a_full_disk_is_one_line(script, tmp_path, monkeypatch):
    def full(path, x):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(experiment.recorder, "save_image", full)
    result = script(f"{COMMAND} -n 1 -l", tmp_path)
    assert result.code == 2 and len(result.err.splitlines()) == 1 and "No space left" in result.err


def test_resize_accepts_images_of_any_size(run_method, tmp_path):
    os.makedirs(tmp_path / "faces")
    Image.open("data/demo/astronaut.png").resize((150, 100)).save(tmp_path / "faces" / "wide.png")
    options = ("--data", tmp_path / "faces", "--resize")
    run = run_method("dmilo", "inpainting", *options, iterations=SHORT)
    assert Image.open(run.folder / "images" / "wide" / "origin.png").size == (64, 64)


def test_another_table_of_errors_is_refused(script, workspace, one_alexnet):
    table = workspace / "models/demo_errors.csv"
    rows = [[sigma, c, *[0.1] * len(FREQUENCIES)] for sigma in (0.1, 1.0) for c in range(3)]
    np.savetxt(table, rows, delimiter=",")
    command = "samplers.pnp -t inpainting -n 1 --cuda -1 --name r -l runs --summarize"
    folder = workspace / "runs/demo/inpainting/r"
    assert "no finished image" in script(command).err
    first = script(command.replace(" --summarize", ""))
    assert first.code == 0, first.err
    assert script(command).code == 0
    np.savetxt(table, [[one[0], one[1], *[0.2] * len(FREQUENCIES)] for one in rows], delimiter=",")
    result = script(command)
    assert result.code == 2 and "was created with errors " in result.err
    settings = json.loads((folder / "settings.json").read_text())
    del settings["errors"]  # of a run before the setting
    (folder / "settings.json").write_text(json.dumps(settings))
    assert script(command).code == 0
