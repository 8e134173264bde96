"""Runs of the scripts by the commands that a user would type, and the records they leave."""

import os
import re
import subprocess
import sys
from collections import namedtuple

from experiment.methods import PAPER, load_method, module
from experiment.presets import about, load_presets, load_row
from report.records import finished_records
from util.config import parse_setting
from util.files import PROJECT, UserError, project
from util.images import image_names, list_images

NAME = "table"  # --name of the runs

Job = namedtuple("Job", "dataset data number task method preset logdir")


def run_parts(run):
    """method/preset or method/preset,KEY=VALUE,… -> (method, preset, [KEY=VALUE, …])."""
    name, *settings = re.split(r",(?=[\w.]+=)", run)
    method, _, preset = name.partition("/")
    return method, preset, settings


def method_and_preset(text):
    """The argparse type of --runs, see `run_parts`. Raises UserError for an unknown one."""
    method, preset, settings = run_parts(text)
    known = list(load_presets(load_method(method).name))
    try:
        given = dict(map(parse_setting, settings))
    except ValueError as error:
        raise UserError(f"--runs {text}: must be method/preset,KEY=VALUE,…") from error
    if preset not in known:
        runs = ", ".join(f"{method}/{one}" for one in known)
        raise UserError(f"--runs {text}: must be method/preset, here one of {runs}")
    load_row(load_method(method), "default", preset, given=given)  # raises UserError
    return text


def described(run):
    """[method, preset, what the method is] of a run (`run_parts`), for the rows of a table."""
    method, preset, settings = run_parts(run)
    kind, row = load_method(method), next(iter(load_presets(method)[preset]))
    given = dict(map(parse_setting, settings))
    h = load_row(kind, row.split("/")[-1], preset, given=given)
    return [method, preset, about(kind, h, given)]


def folder(job):
    """The folder of a job's results."""
    return os.path.join(job.logdir, job.dataset, job.task, NAME)


def launcher(method, nproc_per_node=1):
    """The first arguments of the command that runs a method; torchrun for several processes."""
    name = [project(f"{method}.py")] if method in PAPER else ["-m", module(method)]
    if nproc_per_node > 1:
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(nproc_per_node)]
        name = [*torchrun, *name[:-1], "--", name[-1]]
    return [sys.executable, *name]


def command(job, cuda, extra=(), nproc_per_node=1):
    """The command that runs a job, as a list; extra: further arguments."""
    options = {
        "--dataset": job.dataset,
        "--task": job.task,
        "--data": job.data,
        "-n": job.number,
        "--preset": job.preset,
        "-l": job.logdir,
        "--name": NAME,
        "--cuda": cuda,
    }
    typed = [str(one) for option in options.items() for one in option]
    return [*launcher(job.method, nproc_per_node), *typed, *extra]


def run_command(typed):
    """Run a command with the project on Python's path; returns its exit code."""
    paths = [PROJECT, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(typed, env=environment).returncode


def images(job):
    """The names of a job's images. Raises UserError if its folder has none."""
    paths = list_images(job.data, "the key data of the table's file")
    return image_names(paths[: job.number], job.data)


def has_images(job):
    """Whether the job's folder exists and holds images whose names differ."""
    try:
        return bool(images(job))
    except UserError:
        return False


def left(job):
    """The names of the job's images that are not finished."""
    return set(images(job)) - set(finished_records(folder(job)))


def sound_records(job):
    """{image: record} of the job's images that are finished and did not fail."""
    names, records = images(job), finished_records(folder(job))
    return {n: r for n, r in records.items() if n in names and "failed" not in r}
