"""A finished run's files, read back: their paths, the records and statistics of them."""

import json
import os
from collections import namedtuple

import numpy as np

from util.files import UserError
from util.images import files_below, natural

METRICS = ("psnr", "ssim", "lpips_alex")  # against the ground truth, where there is one
FIGURES = (*METRICS, "residual")
WHICH = ("final", "chosen", "best")
EMPTY = {"iterates": [], "ends_outer": [], "nfe": [], "residual": [], "nfe_total": 0, "seconds": 0}

Run = namedtuple("Run", "top directory summary records")


def picture(directory, name, which):
    """The path of one of an image's pictures in a run's folder."""
    return os.path.join(directory, "images", name, f"{which}.png")


def restored_file(run, name):
    """The path of a restored photograph, beside the page or in the folder of the run."""
    paths = [os.path.join(run.directory, "restored", f"{name}.png")]
    if run.top != run.directory:
        paths.insert(0, os.path.join(run.top, f"{name}.png"))
    return next(filter(os.path.exists, paths), picture(run.directory, name, "result"))


def before_file(run, name):
    """The path of a photograph as it was read or, without that, of its measurement."""
    path = picture(run.directory, name, "before")
    return path if os.path.exists(path) else picture(run.directory, name, "measurement")


def is_known(run):
    """Is there a ground truth?"""
    return any("psnr" in record for record in run.records.values())


def record_path(directory, name):
    return os.path.join(directory, "record", f"{name}.json")


def run_folder(top):
    """The folder that holds record/: `top`, or top/run (restore.py's layout); None without one."""
    inner = os.path.join(top, "run")
    if os.path.isdir(os.path.join(top, "record")):
        return top
    is_restored = os.path.exists(os.path.join(top, "settings.json"))
    return inner if is_restored and os.path.isdir(os.path.join(inner, "record")) else None


def read_record(path):
    """A record. Raises UserError if it cannot be parsed."""
    with open(path, encoding="utf-8") as f:
        try:
            return json.load(f)
        except ValueError as error:
            raise UserError(
                f"{path}: cannot be read ({error}); delete it to restore its image again"
            ) from error


def finished_records(directory, known=None):
    """{image: record} of all finished images in a run's folder, in natural order.

    known: a dict of records read before by this function, updated: only new and changed files are
    read. Raises UserError for a record that cannot be parsed.
    """
    records, known = {}, {} if known is None else known
    folder = os.path.join(directory, "record")
    for file in sorted(files_below(folder), key=natural):
        if file.endswith(".json") and not os.path.basename(file).startswith("."):
            path = os.path.join(folder, file)
            stat = os.stat(path)
            stamp = stat.st_mtime_ns, stat.st_ino, stat.st_size
            if file not in known or known[file][0] != stamp:
                known[file] = stamp, read_record(path)
            records[file[: -len(".json")].replace(os.sep, "/")] = known[file][1]
    return records


def load_run(top):
    """The Run in a folder (`run_folder`). Raises UserError if it is not a finished one."""
    directory = run_folder(top) or top
    path = os.path.join(directory, "summary.json")
    try:
        with open(path, encoding="utf-8") as f:
            summary = json.load(f)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); name a run's folder or one with runs in it"
        ) from error
    except ValueError:
        summary = None
    records = finished_records(directory)
    keys = {"method", "task", "dataset", "settings"}
    if not (records and isinstance(summary, dict) and keys <= summary.keys()):
        raise UserError(f"{path}: not a run's summary; repeat the run's command with --summarize")
    # A run that failed before its first iterate recorded only the reason.
    return Run(top, directory, summary, {name: {**EMPTY, **r} for name, r in records.items()})


def runs_below(folder):
    """The Runs in a folder and the folders below it, ordered by path."""
    runs = []
    for directory, folders, _ in os.walk(folder):
        folders.sort(key=natural)
        inner = run_folder(directory)
        if inner and os.path.exists(os.path.join(inner, "summary.json")):
            runs.append(load_run(directory))
            folders.clear()
    return runs


def choose(record, which):
    """A record's figures at its "final", "chosen" or "best" (highest PSNR) iterate.

    Records without a choice use the final iterate. {} for "best" without a ground truth.
    """
    if which == "best" and "psnr" not in record:
        return {}
    i = {"final": -1, "chosen": record.get("chosen", {}).get("iterate", -1)}.get(which)
    i = int(np.argmax(record["psnr"])) if i is None else i
    return {key: record[key][i] for key in FIGURES if key in record}


def iterate_labels(record):
    """{index: "final", "chosen", "best" or several of them} of a record's iterates."""
    last, labels = len(record["iterates"]) - 1, {}
    indices = {"final": last, "chosen": record.get("chosen", {}).get("iterate", last)}
    if record.get("psnr"):
        indices["best"] = record["psnr"].index(max(record["psnr"]))
    for which, i in indices.items():
        labels[i] = f"{labels[i]}, {which}" if i in labels else which
    return labels


def mean_and_std(values):
    """{"mean", "std"} over images (population standard deviation, as published); None if empty."""
    if not values:
        return {"mean": None, "std": None}
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def means(records):
    """{figure: mean} over records of the final figures, "seconds" and "nfe_total"."""
    costs = ("seconds", "nfe_total")
    rows = [
        {**choose(record, "final"), **{key: record[key] for key in costs}} for record in records
    ]
    return {
        key: float(np.mean([row[key] for row in rows]))
        for key in (*FIGURES, *costs)
        if rows and all(key in row for row in rows)
    }


def statistics(records):
    """{"final" | "chosen" | "best": {figure: {"mean", "std"}}} of records that have not failed."""
    chosen = {which: [choose(record, which) for record in records] for which in WHICH}
    return {
        which: {key: mean_and_std([row[key] for row in rows if key in row]) for key in FIGURES}
        for which, rows in chosen.items()
    }
