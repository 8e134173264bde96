"""What a run leaves on disk: pictures, records, log.txt, summary.json and grid.png."""
import json
import os

import numpy as np
import torch
from PIL import Image, ImageDraw

from util.files import UserError, atomic, write_text
from util.images import save_image

METRICS = ("psnr", "ssim", "lpips_alex")
BEST_NOTE = (
    "best: the iterate with the highest PSNR against the ground truth, an oracle's choice, as in the published code "
    "(result.png); final: the last iterate, which needs no ground truth (final.png)"
)


class ImageRecord:
    """The iterates of one image: its pictures in images/<name>/, its figures in record/<name>.json.

    origin: the ground truth, (3, H, W) in [-1, 1]; measurement: likewise, of any size.
    """

    def __init__(self, directory, name, origin, measurement, metrics):
        self.pictures = os.path.join(directory, "images", name)
        self.record_path = os.path.join(directory, "record", f"{name}.json")
        self.origin, self.metrics = origin, metrics
        self.record = {**{metric: [] for metric in METRICS}, "iterates": [], "residual": [], "evaluations": [], "elapsed": []}
        self._save("origin", origin)
        self._save("measurement", measurement)

    @property
    def failed(self):
        return "failed" in self.record

    def _save(self, picture, x):
        save_image(os.path.join(self.pictures, f"{picture}.png"), x)

    def add(self, iterate, x, residual, evaluations, elapsed):
        """One iterate: its name, (3, H, W), the RMS of A(x) - y, and the network evaluations and seconds that the image has
        taken so far. "init" is where the solver starts: only a picture. One that is not finite ends the record."""
        if self.failed:
            return
        if not (torch.isfinite(x).all() and np.isfinite(residual)):
            self.record["failed"] = f"{iterate} is not finite; nothing was recorded from there on"
            return
        self._save(iterate, x)
        if iterate == "init":
            return
        for metric, value in self.metrics(x, self.origin).items():
            self.record[metric].append(value)
        self.record["iterates"].append(iterate)
        self.record["residual"].append(residual)
        self.record["evaluations"].append(evaluations)
        self.record["elapsed"].append(elapsed)
        self._save("final", x)
        if self.record["psnr"][-1] == max(self.record["psnr"]):
            self._save("result", x)

    def finish(self, seconds, network_evaluations, made_with):
        """Write the record, whole, and return it. made_with: what `util.provenance.provenance` returns."""
        self.record.update(seconds=seconds, network_evaluations=network_evaluations, made_with=made_with)
        write_text(self.record_path, json.dumps(self.record, indent=1))
        return self.record


def finished_records(directory):
    """{image: record} of every finished image in a run's folder, sorted by name, whoever has restored it. Raises UserError for
    one that is spoilt."""
    records = {}
    folder = os.path.join(directory, "record")
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if file.endswith(".json") and not file.startswith("."):
            with open(os.path.join(folder, file), encoding="utf-8") as f:
                try:
                    records[file[: -len(".json")]] = json.load(f)
                except ValueError as error:
                    raise UserError(f"{f.name}: cannot be read ({error}); remove it, and its image is restored anew") from error
    return records


def choose(record, which):
    """A record's metrics at its "final" iterate or at its "best" (highest PSNR) one."""
    i = int(np.argmax(record["psnr"])) if which == "best" else -1
    return {metric: record[metric][i] for metric in METRICS}


def mean_and_std(values):
    """{"mean", "std"} over the images (population standard deviation, as published), None where a value is None or there is none."""
    if None in values or not values:
        return {"mean": None, "std": None}
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def statistics(records):
    """{"final" | "best": {metric: {"mean", "std"}}} of records that have not failed."""
    return {
        which: {metric: mean_and_std([choose(record, which)[metric] for record in records]) for metric in METRICS}
        for which in ("final", "best")
    }


def write_summary(directory, head, records, settings):
    """summary.json and log.txt of a run. head: method, dataset, task and, if it was asked for, fid; records: {image: record}.
    Returns the summary, whose figures are of the images that have not failed."""
    failed = {name: record["failed"] for name, record in records.items() if "failed" in record}
    records = {name: record for name, record in records.items() if name not in failed}
    summary = {**head, "images": len(records), "failed": failed, **statistics(records.values())}
    for key in ("seconds", "network_evaluations"):
        summary[f"{key}_per_image"] = mean_and_std([record[key] for record in records.values()])["mean"]
    # One, unless the run went on elsewhere.
    summary["made_with"] = list({json.dumps(one): one for one in (r["made_with"] for r in records.values())}.values())
    summary["settings"] = settings
    write_text(os.path.join(directory, "summary.json"), json.dumps(summary, indent=1))

    lines = [f"{head['method']}: {len(records)} images of {head['dataset']}, {head['task']}"]
    lines += [f"{key}: {value}" for key, value in settings.items()]
    lines += [f"made with: {one}" for one in summary["made_with"]]
    lines.append(BEST_NOTE)
    lines += [f"{name}: failed, {why}" for name, why in failed.items()]
    for name, record in records.items():
        for which in ("final", "best"):
            values = choose(record, which)
            lines.append(f"{name}: {which} psnr: {values['psnr']}, ssims: {values['ssim']}, lpips: {values['lpips_alex']}")
    for which in ("final", "best"):
        for statistic, word in (("mean", "avg"), ("std", "std")):
            psnr, ssim, lpips = (summary[which][metric][statistic] for metric in METRICS)
            lines.append(f"{which} {word} psnr: {psnr}, {word} ssims: {ssim}, {word} lpips: {lpips}")
    if "fid" in summary:
        lines.append(f"fid: {summary['fid']}")
    write_text(os.path.join(directory, "log.txt"), "\n".join(lines) + "\n")
    return summary


COLUMNS, ROWS, CELL = ("origin", "measurement", "final"), 16, 192


def write_grid(directory, records):
    """grid.png: a row an image (the first ROWS that have not failed), read back from images/<name>/, each with its final
    PSNR. Pictures are enlarged to CELL pixels, never reduced."""
    records = {name: record for name, record in records.items() if "failed" not in record}
    rows = [
        [Image.open(os.path.join(directory, "images", name, f"{column}.png")) for column in COLUMNS]
        for name in list(records)[:ROWS]
    ]
    if not rows:
        return
    cell = max(CELL, rows[0][0].width)
    pad, caption = 4, 16
    canvas = Image.new("RGB", (len(COLUMNS) * (cell + pad) + pad, caption + len(rows) * (cell + pad)), "white")
    draw = ImageDraw.Draw(canvas)
    for c, column in enumerate(COLUMNS):
        draw.text((pad + c * (cell + pad), 2), column, fill="black")
    for r, (row, record) in enumerate(zip(rows, records.values())):
        top = caption + r * (cell + pad)
        for c, picture in enumerate(row):
            canvas.paste(picture.resize((cell, cell), Image.NEAREST), (pad + c * (cell + pad), top))
        below = (pad + (len(COLUMNS) - 1) * (cell + pad) + 4, top + cell - 14)
        draw.text(below, f"{record['psnr'][-1]:.1f} dB", fill="white", stroke_width=2, stroke_fill="black")
    with atomic(os.path.join(directory, "grid.png")) as tmp:
        canvas.save(tmp)
