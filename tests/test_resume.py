"""Runs that are killed, split, spoilt or too big: what is finished stays, and the rest ends as it would have."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import put_tiny_prior
from PIL import Image

import experiment.recorder
import experiment.restoration

pytestmark = pytest.mark.usefixtures("tiny_prior")  # whatever the network has learnt


def contents(folder):
    """Every file of a run that does not tell the time: pictures as bytes, records without their seconds."""
    found = {}
    for directory, _, files in os.walk(folder):
        for file in files:
            path = os.path.join(directory, file)
            name = os.path.relpath(path, folder)
            if file.endswith((".png", ".npy")):
                found[name] = open(path, "rb").read()
            elif "/record/" in f"/{name}" and name.endswith(".json"):
                record = json.load(open(path))
                found[name] = {
                    key: value for key, value in record.items() if key not in ("seconds", "elapsed")
                }
            else:
                found[name] = None
    return found


def dying_after(saves, save):
    """A Restoration.save with which the run dies as it is about to save its n-th state."""
    left = [saves]

    def dying(self, state):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        save(self, state)

    return dying


RUNS = [
    ("dmilo.py", "inpainting", ["--outer", 3, "--inner", 2, "--eta", 0.5]),
    ("dmilo-pgd.py", "super_resolution", ["--outer", 3, "--inner", 2]),
    ("dmilo.py", "extreme_inpainting", ["--preset", "fast"]),
    ("dmilo.py", "motion_deblur", ["--outer", 1, "--inner", 2, "--samples", 3]),
    ("dmilo.py", "super_resolution", ["--preset", "quick", "--samples", 3]),
    ("baselines.dmplug", "inpainting", ["--outer", 3, "--inner", 2]),
    ("baselines.dps", "inpainting", ["--outer", 3, "-c", 2]),
    ("baselines.diffpir", "inpainting", ["--outer", 3, "-c", 2]),
    ("dmilo.py", "inpainting", ["--preset", "sharp"]),
    ("dmilo.py", "super_resolution", ["--preset", "sharp", "--outer", 3]),
    ("baselines.reddiff", "inpainting", ["--outer", 3, "-c", 2]),
    ("baselines.daps", "inpainting", ["--outer", 3, "-c", 2]),
    ("baselines.total_variation", "inpainting", ["--outer", 3, "--inner", 2]),
]


@pytest.mark.usefixtures("short_searches")
@pytest.mark.parametrize(
    "name, task, options", RUNS, ids=[f"{name} {task}" for name, task, _ in RUNS]
)
def test_a_killed_run_ends_as_an_uninterrupted_one(
    script, tmp_path, monkeypatch, name, task, options
):
    def run(logdir):
        return script(
            name,
            "-t",
            task,
            "-l",
            tmp_path / logdir,
            "--name",
            "r",
            "--batch-size",
            1,
            "--cuda",
            -1,
            *options,
        )

    assert run("whole").code == 0
    save = experiment.restoration.Restoration.save
    for saves in (2, 3, 3):  # the second image, too, begins before it ends
        monkeypatch.setattr(experiment.restoration.Restoration, "save", dying_after(saves, save))
        killed = run("killed")
        monkeypatch.setattr(experiment.restoration.Restoration, "save", save)
        assert (
            killed.code == 130
            and "interrupted; what was finished is on disk, the same command" in killed.err
        )
    assert any(file.endswith(".state") for file in contents(tmp_path / "killed"))
    assert run("killed").code == 0
    whole, killed = (
        contents(tmp_path / folder / "demo" / task / "r") for folder in ("whole", "killed")
    )
    assert whole == killed


def test_two_batches_of_which_each_was_killed_go_on_in_one_process(script, tmp_path, monkeypatch):
    def run():
        return script(
            "dmilo.py",
            "-t",
            "inpainting",
            "-l",
            tmp_path,
            "--name",
            "r",
            "--batch-size",
            1,
            "--cuda",
            -1,
            "--outer",
            3,
            "--inner",
            1,
            "-c",
            1,
        )

    save = experiment.restoration.Restoration.save
    states = tmp_path / "states"
    os.makedirs(states)
    for name, saves in (("astronaut", 2), ("grace_hopper", 4)):  # as two slices leave them
        monkeypatch.setattr(experiment.restoration.Restoration, "save", dying_after(saves, save))
        assert run().code == 130
        shutil.copy(tmp_path / "demo/inpainting/r/record" / f"{name}.state", states)
        monkeypatch.setattr(experiment.restoration.Restoration, "save", save)
    record = tmp_path / "demo/inpainting/r/record"
    os.unlink(record / "astronaut.json")
    shutil.copy(states / "astronaut.state", record)
    assert run().code == 0


def test_a_finished_run_is_not_run_again(run_method):
    first = run_method("dmilo", "inpainting")
    stamp = os.path.getmtime(first.folder / "images" / "astronaut" / "final.png")
    again = run_method("dmilo", "inpainting")
    assert os.path.getmtime(again.folder / "images" / "astronaut" / "final.png") == stamp
    assert again.summary["final"] == first.summary["final"]


@pytest.mark.parametrize(
    "option, said",
    [
        (("--seed", 7), "was begun with seed 123, now it is 7"),
        (("--stop", "whiteness"), "was begun with stop None, now it is whiteness"),
        (("--inner", 3), "was begun with hyperparameters.inner 1, now it is 3"),
        (("--precision", "bf16"), "was begun with precision fp32, now it is bf16"),
    ],
)
def test_other_settings_under_the_same_name_are_refused(script, run_method, tmp_path, option, said):
    short = ("--outer", 1, "--inner", 1)
    run_method("dmilo", "inpainting", "-n", 1, iterations=short)
    again = script(
        "dmilo.py",
        "-t",
        "inpainting",
        "-l",
        tmp_path / "dmilo",
        "--name",
        "run",
        "--cuda",
        -1,
        *short,
        *option,
    )
    assert again.code == 2 and said in again.err and len(again.err.splitlines()) == 1


def test_a_run_begun_before_there_was_a_setting_goes_on(script, run_method, tmp_path):
    short = ("--outer", 1, "--inner", 1)
    path = run_method("dmilo", "inpainting", "-n", 1, iterations=short).folder / "settings.json"
    settings = json.loads(path.read_text())
    assert settings["hyperparameters"]["aim"].pop("start_share") == 0
    del settings["hyperparameters"]["decay"]
    path.write_text(json.dumps(settings))
    run_method("dmilo", "inpainting", "-n", 1, iterations=short)
    settings["hyperparameters"]["aim"]["variance"] = 0.5
    path.write_text(json.dumps(settings))
    again = script(
        "dmilo.py",
        "-t",
        "inpainting",
        "-n",
        1,
        "-l",
        tmp_path / "dmilo",
        "--name",
        "run",
        "--cuda",
        -1,
        *short,
    )
    assert (
        again.code == 2
        and "was begun with hyperparameters.aim.variance 0.5, now it is 0.0" in again.err
    )


def test_another_picture_under_the_same_name_is_refused(script, run_method, tmp_path):
    short = ("--outer", 1, "--inner", 1, "--data", tmp_path / "faces")
    os.makedirs(tmp_path / "faces")
    shutil.copy("data/demo/astronaut.png", tmp_path / "faces" / "a.png")
    run_method("dmilo", "inpainting", iterations=short)
    Image.open("data/demo/astronaut.png").rotate(180).save(tmp_path / "faces" / "a.png")
    again = script(
        "dmilo.py",
        "-t",
        "inpainting",
        "-l",
        tmp_path / "dmilo",
        "--name",
        "run",
        "--cuda",
        -1,
        *short,
    )
    assert again.code == 2 and len(again.err.splitlines()) == 1
    assert (
        "a/origin.png: is not the picture that a is now; rename the new one or choose another --name NAME"
        in again.err
    )


def test_slices_know_each_others_names(script, tmp_path):
    os.makedirs(tmp_path / "faces")
    for name in ("a.png", "a.webp", "b.png"):
        Image.open("data/demo/astronaut.png").save(tmp_path / "faces" / name)
    result = script(
        "dmilo.py",
        "-t",
        "inpainting",
        "--data",
        tmp_path / "faces",
        "-l",
        tmp_path,
        "-en",
        1,
        "--cuda",
        -1,
    )
    assert result.code == 2 and "a.webp: would share its folder of results with" in result.err


def test_a_folder_of_something_else_is_refused(script, tmp_path):
    os.makedirs(tmp_path / "demo" / "inpainting" / "r" / "holiday")
    result = script("dmilo.py", "-t", "inpainting", "-l", tmp_path, "--name", "r", "--cuda", -1)
    assert result.code == 2 and "is no run of this program" in result.err


@pytest.mark.parametrize(
    "file, content, said",
    [
        ("settings.json", b"{", "settings.json: cannot be read ("),
        (
            "settings.json",
            b"[]",
            "settings.json: does not hold a run's settings; choose another --name NAME",
        ),
        ("record/astronaut.json", b"", "record/astronaut.json: cannot be read ("),
        (
            "record/astronaut.state",
            b"x",
            "record/astronaut.state: is not the state of a run; remove it to begin its images anew",
        ),
    ],
)
def test_a_spoilt_file_of_a_run_is_named(script, run_method, tmp_path, file, content, said):
    short = ("--outer", 1, "--inner", 1)
    run = run_method("dmilo", "inpainting", "-n", 1, iterations=short)
    if file.endswith(".state"):
        os.remove(run.folder / "record" / "astronaut.json")
    (run.folder / file).write_bytes(content)
    again = script(
        "dmilo.py",
        "-t",
        "inpainting",
        "-n",
        1,
        "-l",
        tmp_path / "dmilo",
        "--name",
        "run",
        "--cuda",
        -1,
        *short,
    )
    assert again.code == 2 and said in again.err.splitlines()[-1] and "Traceback" not in again.err


def test_slices_under_one_name_make_one_run(script, run_method):
    short = ("--outer", 1, "--inner", 1)
    run_method("dmilo", "inpainting", "-en", 1, iterations=short)
    second = run_method("dmilo", "inpainting", "-bn", 1, iterations=short)
    assert second.summary["images"] == 2
    os.remove(second.folder / "summary.json")
    summarised = run_method("dmilo", "inpainting", "--summarize", iterations=short)
    assert (
        summarised.summary["images"] == 2 and summarised.summary["final"] == second.summary["final"]
    )


def test_summarize_without_anything_finished(script, tmp_path):
    result = script(
        "dmilo.py", "-t", "inpainting", "-l", tmp_path, "--name", "r", "--cuda", -1, "--summarize"
    )
    assert result.code == 2 and "no finished image" in result.err


def test_two_processes_give_what_one_gives(script, workspace, port, one_thread, monkeypatch):
    put_tiny_prior(workspace)
    monkeypatch.setattr(
        "util.devices.git_revision", lambda: None
    )  # the other two find none in the workspace
    os.makedirs(workspace / "faces")
    for name in "abc":
        Image.open("data/demo/astronaut.png").rotate("abc".index(name) * 90).save(
            workspace / "faces" / f"{name}.png"
        )
    options = [
        "-t",
        "inpainting",
        "--data",
        "faces",
        "--name",
        "r",
        "--batch-size",
        1,
        "--outer",
        2,
        "--inner",
        2,
        "--cuda",
        -1,
    ]
    one = script("dmilo.py", *options, "-l", "one")
    assert one.code == 0, one.err
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        port,
        "--",
        "dmilo.py",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*torchrun, *map(str, options), "-l", "two"],
        env=environment,
        check=True,
        capture_output=True,
    )
    one, two = (
        contents(workspace / folder / "demo" / "inpainting" / "r") for folder in ("one", "two")
    )
    assert len(one) == 3 * 9 + 3 + 5 and one == two
    summaries = [
        json.load(open(workspace / f / "demo" / "inpainting" / "r" / "summary.json"))
        for f in ("one", "two")
    ]
    assert summaries[0]["final"] == summaries[1]["final"]


def test_an_image_that_is_not_finite_stops_alone(script, tmp_path, monkeypatch):
    draw_latents = experiment.restoration.draw_latents

    def spoilt(*arguments):
        latents = draw_latents(*arguments)
        latents[0][0] = float("nan")
        return latents

    options = (
        "-t",
        "inpainting",
        "--name",
        "r",
        "--batch-size",
        2,
        "--outer",
        2,
        "--inner",
        2,
        "--cuda",
        -1,
    )
    script("dmilo.py", *options, "-l", tmp_path / "sound")
    monkeypatch.setattr(experiment.restoration, "draw_latents", spoilt)
    result = script("dmilo.py", *options, "-l", tmp_path / "spoilt")
    assert result.code == 1 and "astronaut: init is not finite" in result.err
    folder = tmp_path / "spoilt" / "demo" / "inpainting" / "r"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["images"] == 1 and list(summary["failed"]) == ["astronaut"]
    assert "not finite" in json.loads((folder / "record" / "astronaut.json").read_text())["failed"]
    assert (folder / "images" / "grace_hopper" / "final.png").read_bytes() == (
        tmp_path / "sound" / "demo" / "inpainting" / "r" / "images" / "grace_hopper" / "final.png"
    ).read_bytes()


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
    run = run_method("dmilo", "inpainting", *options, iterations=("--outer", 1, "--inner", 1))
    assert (
        run.summary["images"] == 5
        and "3 images do not fit into memory, going on with 1 at once" in run.err
    )
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
    command = (
        "dmilo.py",
        "-t",
        "inpainting",
        "-l",
        tmp_path,
        "--name",
        "r",
        "--batch-size",
        1,
        "--outer",
        1,
        "--inner",
        1,
        "--cuda",
        -1,
    )
    result = script(*command)
    assert (
        result.code == 1
        and "warning: astronaut: does not fit into the device's memory" in result.err
    ), result.err
    folder = tmp_path / "demo" / "inpainting" / "r"
    summary = json.loads((folder / "summary.json").read_text())
    assert (
        summary["images"] == 1
        and "does not fit into the device's memory" in summary["failed"]["astronaut"]
    )
    assert (
        "does not fit" in json.loads((folder / "record" / "astronaut.json").read_text())["failed"]
        and "astronaut: failed" in (folder / "log.txt").read_text()
    )
    assert script(*command).code == 0 and len(tried) == 3
    assert json.loads((folder / "summary.json").read_text())["images"] == 2


def test_a_full_disk_is_one_line(script, tmp_path, monkeypatch):
    def full(path, x):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(experiment.recorder, "save_image", full)
    result = script("dmilo.py", "-t", "inpainting", "-l", tmp_path, "-n", 1, "--cuda", -1)
    assert (
        result.code == 2
        and len(result.err.splitlines()) == 1
        and "No space left on device" in result.err
    )


def test_resize_takes_images_of_any_size(run_method, tmp_path):
    os.makedirs(tmp_path / "photos")
    Image.open("data/demo/astronaut.png").resize((150, 100)).save(tmp_path / "photos" / "wide.png")
    run = run_method(
        "dmilo",
        "inpainting",
        "--data",
        tmp_path / "photos",
        "--resize",
        iterations=("--outer", 1, "--inner", 1),
    )
    assert Image.open(run.folder / "images" / "wide" / "origin.png").size == (64, 64)
