"""reproduce.py and benchmark.py as a user runs them."""

import csv
import functools
import json
import os
import random
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import no_network
from PIL import Image
from test_resume import contents

import bench.outside
from bench import costs
from bench.quality import fronts
from experiment.methods import load_method
from reproduce import load_table, rows_of
from util.config import Section, load_yaml

SHORT = "--outer 1 --inner 2"
TABLE = {
    "datasets": [{"dataset": "demo", "data": "data/demo", "number": 2}],
    "tasks": ["inpainting", "motion_deblur"],
    "methods": ["least_squares/tuned", "dmilo/paper", "dmilo-pgd/fast"],
    "metrics": ["psnr", "ssim"],
    "published": {"demo": {"inpainting": {"dmilo": {"psnr": 40.0}, "another": {"psnr": 10.5}}}},
}


@pytest.fixture
def table(workspace):
    (workspace / "mine.yaml").write_text(yaml.safe_dump(TABLE))
    return workspace


COMMAND = ["reproduce.py", "mine.yaml", "--cuda", "-1", "--extra", SHORT]


def reproduce_as_a_process(*arguments, **options):
    return subprocess.run(
        [sys.executable, *COMMAND, *arguments], capture_output=True, text=True, **options
    )


@pytest.fixture
def reproduce(script, commands_in_process, tiny_prior):
    """reproduce("--only", …) makes the table in this process; returns what `script` does."""
    return functools.partial(script, *COMMAND)


class SameProcess:
    """A pool of one process that is this one."""

    def __init__(self):
        self.made = []

    def submit(self, function, *arguments):
        costs.MADE = self.made
        value = function(*arguments)
        return SimpleNamespace(result=lambda: value)

    def shutdown(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture(params=["here", pytest.param("processes", marks=pytest.mark.slow)])
def measured(request, monkeypatch):
    """Measures in processes of their own or, faster, in this one, without peak memory."""
    if request.param == "here":
        monkeypatch.setattr(costs, "MADE", costs.MADE)
        monkeypatch.setattr(costs, "fresh_process", SameProcess)
        monkeypatch.setattr(costs, "peak_of_this_process", lambda: 0.25)


@pytest.mark.slow
def test_peak_memory_is_a_fresh_process():
    make = functools.partial(costs.solver_run, "configs/model_config_demo.yaml", "dmilo", 1)
    assert 0.1 < costs.peak_memory(make, torch.device("cpu")) < 1


def test_a_table_from_nothing_and_again(table, reproduce):
    assert reproduce("--only", "inpainting").code == 0
    folder = table / "results" / "mine"
    files = "table.md table.csv table.tex strips.png convergence.png report.html runs"
    assert set(files.split()) == set(os.listdir(folder))
    rows = {
        (row["method"], row["preset"]): row
        for row in csv.DictReader(open(folder / "table.csv"))
        if row["task"] == "inpainting"
    }
    run = folder / "runs" / "dmilo-paper" / "demo" / "inpainting" / "table"
    summary = json.load(open(run / "summary.json"))
    ours = rows["dmilo", "paper"]
    assert (
        float(ours["psnr_final_mean"]) == pytest.approx(summary["final"]["psnr"]["mean"])
        and ours["images"] == "2"
    )
    # Two steps are not the published run.
    assert ours["psnr_published"] == "" and rows["another", ""]["psnr_published"] == "10.5"
    markdown = (folder / "table.md").read_text()
    assert rows["another", ""]["what it is"] == "published"
    # Least squares is better than two steps.
    assert f"**{summary['final']['psnr']['mean']:.2f} ± " not in markdown
    assert markdown.count("**") == 2 * 6  # one best value in each of six columns
    assert r"\textbf{" in (folder / "table.tex").read_text()
    assert Image.open(folder / "strips.png").width == 5 * 132 + 4

    final = run / "images" / "astronaut" / "final.png"
    stamp = os.path.getmtime(final)
    assert reproduce("--only", "motion_deblur", "least_squares/tuned").code == 0
    assert os.path.getmtime(final) == stamp
    again = list(csv.DictReader(open(folder / "table.csv")))  # the runs before, and the new one
    assert [row["images"] for row in again] == ["2", "2", "2", "0", "2", "0", "0"]
    assert Image.open(folder / "strips.png").height == 2 * (16 + 2 * 132 + 4)


def test_dry_run_prints_commands_and_times_and_writes_nothing(table, reproduce):
    result = reproduce("--dry-run", "--nproc-per-node", "2")
    assert result.code == 0, result.err
    assert (
        "torch.distributed.run --nproc-per-node 2 -- dmilo.py --dataset demo --task inpainting"
        in result.out
    )
    assert "--nproc-per-node 2 -m -- baselines.least_squares" in result.out
    assert "6 runs, " in result.out and not os.path.exists(table / "results")


def test_fid_is_a_column(table, reproduce, monkeypatch):
    monkeypatch.setattr("pytorch_fid.inception.load_state_dict_from_url", no_network)
    (table / "mine.yaml").write_text(
        yaml.safe_dump(
            {
                **TABLE,
                "metrics": ["psnr", "fid"],
                "published": {"demo": {"inpainting": {"another": {"fid": 31.08}}}},
            }
        )
    )
    result = reproduce("--only", "inpainting", "least_squares/tuned")
    assert result.code == 0 and "warning: no FID" in result.err
    path = table / "results/mine/runs/least_squares-tuned/demo/inpainting/table/summary.json"
    summary = json.loads(path.read_text())
    assert summary["fid"] is None
    path.write_text(json.dumps({**summary, "fid": {"final": 12.345, "best": 11.0}}))
    jobs, metrics, published = load_table(
        Section(load_yaml("mine.yaml"), "mine.yaml"), "results/mine"
    )
    assert rows_of(jobs, metrics, published)[0]["fid", "final"]["mean"] == 12.345


def test_the_memory_table(table, reproduce, measured):
    (table / "mine.yaml").write_text(
        yaml.safe_dump(
            {"memory": {"dataset": "demo", "steps": [1]}, "published": {"dmplug": {1: 10.53}}}
        )
    )
    result = reproduce()
    assert result.code == 0, result.err
    ours, published = next(csv.reader(open(table / "results/mine/table.csv").readlines()[1:]))[1:3]
    assert 0.1 < float(ours) < 5 and published == "10.53"
    (table / "mine.yaml").write_text(
        yaml.safe_dump({"memory": {"dataset": "demo", "steps": [1001]}})
    )
    assert reproduce().code == 2
    (table / "mine.yaml").write_text(yaml.safe_dump({"memory": {"dataset": "demo", "steps": [0]}}))
    result = reproduce()
    assert result.code == 2 and "memory.steps is [0]" in result.err


def test_a_table_may_have_tasks_of_a_data_sets_own(table, script):
    (table / "mine.yaml").write_text(
        yaml.safe_dump({**TABLE, "tasks": ["tomography"], "published": {}})
    )
    result = script(*COMMAND, "--dry-run")
    assert result.code == 0 and "--task tomography" in result.out, result.err


@pytest.mark.parametrize(
    "change, arguments, problem",
    [
        ({}, ["--only", "denoising"], "--only denoising: mine.yaml has"),
        ({"tasks": []}, [], "mine.yaml: tasks is []"),
        ({"methods": ["dmilo"]}, [], "methods is ['dmilo']"),
        ({"metrics": ["mse"]}, [], "metrics is ['mse']"),
        ({"colour": 1}, [], "mine.yaml: colour is not a known key"),
        ({"datasets": [None]}, [], "datasets[0] is None"),
        ({"published": {"demo": 3}}, [], "published.demo must hold figures by data set"),
        (
            {"published": {"demo": {"inpainting": {"dmilo": {"psnr": "32,38"}}}}},
            [],
            "published.demo.inpainting.dmilo.psnr is '32,38'",
        ),
        (
            {"published": {"demo": {"inpainting": {"dmilo": {"lpips": 0.1}}}}},
            [],
            "published.demo.inpainting.dmilo has 'lpips'",
        ),
        ({"published": {"celeba": {}}}, [], "published has 'celeba', the table has demo"),
        ({"tasks": ["inpaintng"]}, [], "--task inpaintng"),
        ({"methods": ["dmlio/paper"]}, [], "methods has dmlio/paper"),
        ({"methods": ["dmilo/slow"]}, [], "configs/dmilo.yaml has paper, fast"),
        ({"datasets": TABLE["datasets"] * 2}, [], "datasets[1] is demo again"),
        (
            {"datasets": [{"dataset": "demo", "data": "data/demo"}]},
            [],
            "datasets[0].number is missing",
        ),
        (
            {"datasets": [{"dataset": "demo", "data": "nowhere", "number": 1}]},
            [],
            "nowhere: no such folder",
        ),
    ],
)
def test_a_bad_table_is_one_line(table, script, change, arguments, problem):
    (table / "mine.yaml").write_text(yaml.safe_dump({**TABLE, **change}))
    result = script(*COMMAND, *arguments)
    assert result.code == 2 and problem in result.err and len(result.err.splitlines()) == 1


def test_a_run_that_fails_leaves_the_others(table):
    os.remove(table / "models" / "demo.pt")  # least squares does without
    result = reproduce_as_a_process("--only", "inpainting", "least_squares/tuned", "dmilo/paper")
    assert (
        result.returncode == 2
        and "demo.pt" in result.stderr
        and "1 of 2 runs failed" in result.stderr
    )
    assert (
        f"| least_squares | tuned | {load_method('least_squares').about} | 2 | **"
        in (table / "results/mine/table.md").read_text()
    )


def test_failed_images_count_nowhere(table, reproduce):
    record = (
        table / "results/mine/runs/least_squares-tuned/demo/inpainting/table/record/astronaut.json"
    )
    assert reproduce("--only", "inpainting", "least_squares/tuned").code == 0
    record.write_text(
        json.dumps({**json.loads(record.read_text()), "failed": "0_after is not finite"})
    )
    result = reproduce("--only", "inpainting", "least_squares/tuned")
    assert result.code == 1 and "1 of 1 runs have failed images" in result.err
    [row] = csv.DictReader(open(table / "results/mine/table.csv").readlines()[:2])
    assert row["method"] == "least_squares" and row["images"] == "1"


@pytest.mark.slow
def test_a_failure_under_torchrun_is_no_failed_image(table, reproduce, port):
    """torchrun exits with 1 whatever the exit code of its processes, here 2: another seed."""
    only = ("--only", "inpainting", "least_squares/tuned")
    assert reproduce(*only).code == 0
    result = reproduce(*only, "--nproc-per-node", "2", "--extra", f"{SHORT} --seed 7")
    assert (
        result.code == 2
        and "seed 123, now it is 7" in result.err
        and "1 of 1 runs failed" in result.err
        and "failed images" not in result.err
    )


@pytest.mark.slow
def test_a_table_that_is_killed_twenty_times_ends_as_one_that_is_not(table):
    """Killed at random moments, with everything that it had started."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert reproduce_as_a_process(env=environment).returncode == 0
    os.rename(table / "results", table / "whole")
    moments, kills = random.Random(0), 0
    while kills < 20:
        process = subprocess.Popen(
            [sys.executable, *COMMAND],
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(moments.uniform(1, 6))
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            kills += 1
            time.sleep(0.1)
    assert kills == 20
    assert reproduce_as_a_process(env=environment).returncode == 0
    whole, killed = contents(table / "whole"), contents(table / "results")

    def hidden(name):  # what a killed process had not finished writing
        return os.path.basename(name).startswith(".")

    assert {n: c for n, c in killed.items() if not hidden(n)} == whole
    for file in ("table.md", "table.tex", "table.csv"):
        assert (table / "whole" / "mine" / file).read_text() == (
            table / "results" / "mine" / file
        ).read_text()


@pytest.mark.parametrize(
    "given, problem",
    [("dmilo", "dmilo/paper, dmilo/fast"), ("dmilo/no", "/paper"), ("no/fast", "no")],
)
def test_runs_are_checked_before_the_first_one(script, given, problem):
    result = script("benchmark.py quality --cuda -1 --runs", given)
    assert result.code == 2 and problem in result.err


def test_benchmark_inner_and_memory(script, measured):
    result = script("benchmark.py inner --dataset demo --repeats 1 --precision fp32 bf16 --cuda -1")
    assert result.code == 0, result.err
    rows = [line for line in result.out.splitlines() if line.startswith("| 1 |")]
    assert len(rows) == 4 and "memory kept" in rows[1]
    assert "| published | fp32 |" in rows[0] and "| 1.00 |" in rows[0]
    result = script("benchmark.py memory --steps 1 --cuda -1")
    assert result.code == 0 and "| 1 | 0." in result.out and "| 10.53 |" in result.out


def test_benchmark_loss(script):
    result = script("benchmark.py loss --cuda -1")
    assert result.code == 0, result.err
    losses = [float(cell) for cell in result.out.splitlines()[-1].strip("| ").split(" | ")]
    assert losses == sorted(losses, reverse=True)  # more noise is easier to predict
    assert losses[0] < 0.15 and losses[-1] < 0.001  # 1 for a network that predicts zero
    assert script("benchmark.py loss -bn 50 --cuda -1").code == 2


QUALITY = "benchmark.py quality --tasks inpainting --runs least_squares/tuned --cuda -1 --out"


def test_benchmark_quality_omits_failed_images(script, tmp_path, commands_in_process):
    command = [QUALITY, tmp_path / "q", "-n", 2]
    assert script(*command).code == 0
    records = tmp_path / "q/least_squares-tuned/demo/inpainting/table/record"
    sound, failed = (
        json.loads((records / f"{name}.json").read_text()) for name in ("grace_hopper", "astronaut")
    )
    failed["failed"] = "0_after is not finite"
    (records / "astronaut.json").write_text(json.dumps(failed))
    assert script(*command).code == 0
    [row] = csv.DictReader(open(tmp_path / "q" / "quality.csv"))
    assert float(row["psnr"]) == sound["psnr"][-1]


def test_benchmark_quality(script, tmp_path, commands_in_process):
    result = script(QUALITY, tmp_path / "q", "-n", 1)
    assert result.code == 0, result.err
    table = (tmp_path / "q" / "quality.md").read_text()
    what = load_method("least_squares").about
    assert f"| inpainting | least_squares | tuned | {what} | 1 | 0 |" in table
    [row] = csv.DictReader(open(tmp_path / "q" / "quality.csv"))
    assert f"| {float(row['psnr']):.2f} |" in table and row["what it is"] == what
    assert Image.open(tmp_path / "q" / "quality.png").width > 100


def test_benchmark_convergence_lists_every_outer_iteration_of_every_seed(
    script, tmp_path, commands_in_process
):
    run = "dmplug/paper,outer=2,inner=1"
    result = script(
        "benchmark.py convergence --seeds 2 -n 1 --tasks inpainting --cuda -1 --runs", run,
        "--out", tmp_path,
    )  # fmt: skip
    assert result.code == 0, result.err
    rows = list(csv.DictReader(open(tmp_path / "convergence.csv")))
    assert [(row["seed"], row["outer iteration"]) for row in rows] == [
        (s, i) for s in "01" for i in "01"
    ]
    record = "seed1/dmplug-paper-outer=2-inner=1/demo/inpainting/table/record/astronaut.json"
    record = json.loads((tmp_path / record).read_text())
    assert [float(row["PSNR"]) for row in rows[2:]] == record["psnr"]
    assert float(rows[-1]["seconds"]) == pytest.approx(record["seconds"])
    assert Image.open(tmp_path / "convergence.png").width > 100


def test_pictures_outside_of_the_priors_range_are_of_four_kinds(script, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.outside.photograph", lambda name: Image.new("RGB", (64, 64)))
    for n in range(28):
        Image.new("RGB", (70, 70), "brown").save(tmp_path / f"{n:02}.png")
    monkeypatch.setattr("sys.argv", ["outside", str(tmp_path), str(tmp_path / "out")])
    bench.outside.main()
    out = tmp_path / "out"
    assert len(list(out.iterdir())) == 24
    for kind in ("writing0", "sticker5"):  # what is drawn covers a part of the face
        share = (np.asarray(Image.open(out / f"{kind}.png")) != (165, 42, 42)).any(-1).mean()
        assert 0.01 < share < 0.3
    (tmp_path / "27.png").unlink()
    assert script("bench.outside", tmp_path, out).code == 2


def test_fronts():
    def row(seconds, psnr, lpips):
        return {"seconds": seconds, "psnr": psnr, "lpips": lpips}

    assert fronts([row(1, 30, 0.2), row(2, 31, 0.3), row(3, 30.5, 0.1), row(4, 29, 0.4)]) == [
        "PSNR, LPIPS",
        "PSNR",
        "LPIPS",
        "",
    ]


def test_benchmark_gpu_without_a_gpu_is_one_line(script, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(subprocess, "run", None)  # and nothing is started
    result = script("benchmark.py", "gpu")
    assert result.code == 2 and result.out == "" and len(result.err.splitlines()) == 1
    assert result.err.startswith("benchmark.py: error: gpu: PyTorch finds no GPU")
