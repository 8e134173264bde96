"""A run of a script as a user would type it, and what it has left so far: what tables and benchmarks are made of."""

import os
import subprocess
import sys
from collections import namedtuple

from experiment.methods import OURS, load_method, module
from experiment.presets import load_presets
from report.records import finished_records
from util.files import PROJECT, UserError, project
from util.images import image_names, list_images

NAME = "table"  # what the runs are called

Job = namedtuple("Job", "dataset data number task method preset logdir")


def method_and_preset(text):
    """What --runs takes: method/preset. Raises UserError for another text, and for what there is not."""
    method = text.partition("/")[0]
    possible = [f"{method}/{preset}" for preset in load_presets(load_method(method).name)]
    if text not in possible:
        raise UserError(
            f"--runs {text}: must be method/preset, of that method {', '.join(possible)}"
        )
    return text


def folder(job):
    return os.path.join(job.logdir, job.dataset, job.task, NAME)


def launcher(method, nproc_per_node=1):
    """How the command begins that a user would type for a method."""
    name = [project(f"{method}.py")] if method in OURS else ["-m", module(method)]
    if nproc_per_node > 1:
        *options, name = name
        name = [
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(nproc_per_node),
            *options,
            "--",
            name,
        ]
    return [sys.executable, *name]


def command(job, cuda, extra=(), nproc_per_node=1):
    """The command that a user would type for this run."""
    return [
        *launcher(job.method, nproc_per_node),
        "--dataset",
        job.dataset,
        "--task",
        job.task,
        "--data",
        job.data,
        "-n",
        str(job.number),
        "--preset",
        job.preset,
        "-l",
        job.logdir,
        "--name",
        NAME,
        "--cuda",
        str(cuda),
        *extra,
    ]


def run_command(typed):
    """Run a command of `command`'s and return its exit code. Python finds the project's modules from wherever the user stands."""
    paths = [PROJECT, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        typed, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    ).returncode


def images(job):
    return image_names(list_images(job.data)[: job.number], job.data)


def has_images(job):
    """Is its folder there, with images that can have results side by side?"""
    try:
        return bool(images(job))
    except UserError:
        return False


def left(job):
    """The job's images that are not finished."""
    return set(images(job)) - set(finished_records(folder(job)))


def sound_records(job):
    """{image: record} of the job's images that are finished and have not failed."""
    names = images(job)
    return {
        name: r
        for name, r in finished_records(folder(job)).items()
        if name in names and "failed" not in r
    }
