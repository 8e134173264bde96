"""What a finished run has left on disk, read back: the places of its files, its records, their statistics."""

import json
import os

import numpy as np

from util.files import UserError
from util.images import files_below, natural

METRICS = ("psnr", "ssim", "lpips_alex")  # against the truth, where there is one
FIGURES = (*METRICS, "residual")
WHICH = ("final", "chosen", "best")


def picture(directory, name, which):
    """The path of one of an image's pictures in a run's folder."""
    return os.path.join(directory, "images", name, f"{which}.png")


def record_path(directory, name):
    return os.path.join(directory, "record", f"{name}.json")


def finished_records(directory):
    """{image: record} of every finished image in a run's folder, in natural order, whoever has restored it. Raises UserError for
    one that is spoilt."""
    records = {}
    folder = os.path.join(directory, "record")
    for file in sorted(files_below(folder), key=natural):
        if file.endswith(".json") and not os.path.basename(file).startswith("."):
            with open(os.path.join(folder, file), encoding="utf-8") as f:
                try:
                    records[file[: -len(".json")].replace(os.sep, "/")] = json.load(f)
                except ValueError as error:
                    raise UserError(
                        f"{f.name}: cannot be read ({error}); remove it, and its image is restored anew"
                    ) from error
    return records


def choose(record, which):
    """A record's figures at its "final" iterate, at its "chosen" one (in records of before there was a choice, the final) or at its "best"
    (highest PSNR) one; {} if nobody can tell the best."""
    if which == "best" and "psnr" not in record:
        return {}
    i = {"final": -1, "chosen": record.get("chosen", {}).get("iterate", -1)}.get(which)
    i = int(np.argmax(record["psnr"])) if i is None else i
    return {key: record[key][i] for key in FIGURES if key in record}


def mean_and_std(values):
    """{"mean", "std"} over the images (population standard deviation, as published), None where there is no value."""
    if not values:
        return {"mean": None, "std": None}
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def statistics(records):
    """{"final" | "chosen" | "best": {figure: {"mean", "std"}}} of records that have not failed."""
    chosen = {which: [choose(record, which) for record in records] for which in WHICH}
    return {
        which: {
            key: mean_and_std([values[key] for values in rows if key in values]) for key in FIGURES
        }
        for which, rows in chosen.items()
    }
