"""What a run leaves on disk in figures: records, log.txt and summary.json; and the pictures of each iterate."""

import json
import os
import shutil

import numpy as np
import torch

from experiment import plots
from experiment.calibration import PERCENT, calibration, interval, summarised
from experiment.pictures import kernel_picture, measurement_picture
from experiment.stop import stop
from guided_diffusion.blind import kernel_error
from util.files import UserError, atomic, write_text
from util.images import files_below, natural, save_image

METRICS = ("psnr", "ssim", "lpips_alex")  # against the truth, where there is one
FIGURES = (*METRICS, "residual")
LEFT = (
    "residual",
    "misfit",
    "structure",
)  # what an iterate leaves of the measurement: its RMS, that of measured pixels, `experiment.stop`
WHICH = ("final", "chosen", "best")
BEST_NOTE = (
    "best: the iterate with the highest PSNR against the ground truth, an oracle's choice, as in the published code "
    "(result.png); final: the last iterate, which needs no ground truth (final.png); chosen: where a rule (--stop) would have stopped "
    "without it"
)

TURN_NOTE = "turned: pictures that the measurement cannot tell apart are counted, and shown, as the one nearest to the ground truth"


class ImageRecord:
    """The iterates of one picture: its pictures in images/<name>/, its figures in record/<name>.json.

    measurement: its y; drawn: its part of the Problem's; truth: (3, H, W) or, grey, (1, H, W), in [-1, 1], or None: then there are
    no metrics, and the chosen iterate is the result, which restored/<name>.png repeats; sigma: the noise's standard deviation, for the
    record; nearest: the Problem's. Where it has one, the record says in `turned` which picture was the nearest to the truth, has the PSNR of
    the iterate itself in `psnr_unturned` and, if it is of a picture's shape, the measurement's figures; rule, single: see `experiment.stop.stop`;
    brought: what the result's file takes over from a photograph's, see `Problem`.
    """

    def __init__(
        self,
        directory,
        name,
        measurement,
        drawn,
        truth,
        metrics,
        sigma,
        nearest,
        rule,
        single,
        brought=None,
    ):
        self.restored = os.path.join(directory, "restored", f"{name}.png")
        self.pictures = os.path.join(directory, "images", name)
        self.record_path = record_path(directory, name)
        self.truth, self.metrics, self.nearest = truth, metrics, nearest
        self.rule, self.single, self.brought = rule, single, dict(brought or {})
        self.whole, self.window = self.brought.pop("whole", None), self.brought.pop("window", None)
        figures = METRICS if truth is not None else ()
        self.record = {
            "sigma": sigma,
            **{
                key: []
                for key in (*figures, *LEFT, "iterates", "ends_outer", "evaluations", "elapsed")
            },
        }
        if truth is not None:
            self._save("origin", truth)
            if nearest:
                self.record.update(turned=[], psnr_unturned=[])
                if measurement.shape[-2:] == truth.shape[-2:]:
                    seen = (
                        measurement
                        if measurement.shape == truth.shape
                        else measurement.mean(0, keepdim=True)
                    )  # of a grey one
                    self.record["measurement"] = metrics(self._nearest(seen.clamp(-1, 1))[0], truth)
        self._save("measurement", measurement_picture(measurement))
        with atomic(os.path.join(self.pictures, "measurement.npy")) as tmp, open(tmp, "wb") as f:
            np.save(f, measurement.cpu().numpy())
        self.mask = drawn.get("mask")
        if "mask" in drawn:
            self._save("mask", 2 * drawn["mask"] - 1)
        for kernel in drawn.keys() & {"kernel", "kernel_true"}:
            self._save(kernel, kernel_picture(drawn[kernel]))
        self.kernel_true = drawn.get("kernel_true")

    @property
    def failed(self):
        return "failed" in self.record

    def _save(self, picture, x):
        save_image(os.path.join(self.pictures, f"{picture}.png"), x)

    def _in_its_place(self, x):
        """x as a part of the photograph of which no more was worked through; else x."""
        if self.window in (None, (slice(None), slice(None))):
            return x
        whole = self.whole[: len(x)].clone()
        whole[(slice(None), *self.window)] = x.to(whole)
        return whole

    def _nearest(self, x):
        """(of the pictures that the measurement cannot tell from x, the one nearest to the truth, which it is)."""
        return self.nearest(x, self.truth) if self.nearest and self.truth is not None else (x, None)

    def add(self, iterate, x, ends_outer, left, evaluations, elapsed):
        """One iterate: its name, (3, H, W) or, grey, (1, H, W), does an outer iteration end with it, the figures LEFT of A(x) - y, and the
        network evaluations and seconds that the image has taken so far. "init" is where the solver starts: only a picture. One that is not
        finite ends the record."""
        if self.failed:
            return
        if not (torch.isfinite(x).all() and np.isfinite(left["residual"])):
            self.record["failed"] = f"{iterate} is not finite; nothing was recorded from there on"
            return
        as_found, (x, turn) = x, self._nearest(x)
        self._save(iterate, x)
        if iterate == "init":
            return
        figures = {
            **left,
            "iterates": iterate,
            "ends_outer": ends_outer,
            "evaluations": evaluations,
            "elapsed": elapsed,
        }
        if "turned" in self.record:
            figures.update(turned=turn, psnr_unturned=self.metrics(as_found, self.truth)["psnr"])
        if self.truth is not None:
            figures.update(self.metrics(x, self.truth))
        for key, value in figures.items():
            self.record[key].append(value)
        self._save("final", x)
        chosen, reached = stop(self.record, self.rule, self.single)
        self.record["chosen"] = {
            "rule": self.rule if self.single else "final",
            "iterate": chosen,
            "reached": reached,
        }
        best = chosen if self.truth is None else int(np.argmax(self.record["psnr"]))
        if best == len(self.record["iterates"]) - 1:
            save_image(
                os.path.join(self.pictures, "result.png"), self._in_its_place(x), **self.brought
            )

    def found(self, kernel):
        """The kernel, (k, k), that an operator has found along with the picture."""
        self._save("kernel", kernel_picture(kernel))
        if self.kernel_true is not None:
            self.record["kernel_error"] = kernel_error(kernel, self.kernel_true)

    def informed(self, x):
        """What is found, (3, H, W) or (1, H, W), if the operator need not find a part of itself: its figures, moved as the others are."""
        if self.failed:
            return
        if torch.isfinite(x).all():
            self.record["operator_known"] = self.metrics(self._nearest(x)[0], self.truth)
        else:
            self.record["failed"] = "with its operator known it is not finite"

    def compare(self, samples):
        """Several restorations of the measurement, (K, 3, H, W): each, their mean and, by pixel, their standard deviation (spread.png, root
        mean square over the channels) and interval (interval.npz, `experiment.calibration.interval`), in pictures and figures."""
        if self.failed:
            return
        if not torch.isfinite(samples).all():
            self.record["failed"] = "a sample is not finite"
            return
        samples = torch.stack([self._nearest(x)[0] for x in samples])
        mean, deviation = samples.mean(0), samples.std(0)
        for k, x in enumerate(samples):
            self._save(f"sample_{k}", x)
        self._save("mean", mean)
        spread = deviation.square().mean(0).sqrt()
        plots.spread(os.path.join(self.pictures, "spread.png"), spread.cpu().numpy())
        low, high = (bound.clamp(-1, 1).cpu().numpy() for bound in interval(samples))
        with atomic(os.path.join(self.pictures, "interval.npz")) as tmp, open(tmp, "wb") as f:
            np.savez_compressed(f, low=low, high=high, percent=PERCENT)
        figures, parts = {"count": len(samples)}, {"": torch.ones_like(spread, dtype=torch.bool)}
        if self.mask is not None:
            mask = torch.nn.functional.interpolate(self.mask[None], spread.shape)[
                0, 0
            ]  # of an enlarged picture it is smaller
            parts.update(_missing=mask == 0, _measured=mask != 0)
        parts = {
            part: where for part, where in parts.items() if where.any()
        }  # of no pixels there is no mean
        for part, where in parts.items():
            figures["spread" + part] = spread[where].square().mean().sqrt().item()
        if self.truth is not None:
            figures.update(calibration(samples, self.truth, parts))
            figures["mean"] = self.metrics(mean, self.truth)
            figures["each"] = [self.metrics(x, self.truth) for x in samples]
        self.record["samples"] = figures

    def finish(self, seconds, network_evaluations, made_with):
        """Write the record, whole, and return it. made_with: what `util.devices.provenance` returns."""
        if self.truth is None and not self.failed:
            with atomic(self.restored) as tmp:
                shutil.copyfile(os.path.join(self.pictures, "result.png"), tmp)
        self.record.update(
            seconds=seconds, network_evaluations=network_evaluations, made_with=made_with
        )
        write_text(self.record_path, json.dumps(self.record, indent=1))
        return self.record


def record_path(directory, name):
    return os.path.join(directory, "record", f"{name}.json")


def write_too_large(directory, name):
    """Write the record of a picture that does not fit into memory, and return it. The same command tries it anew: there may be more by then."""
    why = "does not fit into the device's memory; give the same command again with --cuda -1, or another --name NAME and --precision bf16 or --tile"
    record = {"failed": why, "again": True}
    write_text(record_path(directory, name), json.dumps(record, indent=1))
    return record


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


def samples_summary(records):
    """Of runs with several samples: means over the images of the mean's figures, of the best single sample's (by PSNR, an oracle's choice), of the
    spread, of missing and of measured pixels, too, where there is a mask, and of `experiment.calibration`. {} without samples."""
    found = [record["samples"] for record in records if "samples" in record]
    if not found:
        return {}
    mean = lambda figure: float(np.mean([figure(one) for one in found]))
    kinds = dict.fromkeys(key for one in found for key in one if key.startswith("spread"))
    summary = {
        key: float(np.mean([one[key] for one in found if key in one])) for key in kinds
    }  # a mask without a hole has nothing missing
    summary.update(summarised(found))
    if "mean" in found[0]:
        best = lambda one: max(one["each"], key=lambda figures: figures["psnr"])
        summary["mean"] = {metric: mean(lambda one: one["mean"][metric]) for metric in METRICS}
        summary["best_single"] = {metric: mean(lambda one: best(one)[metric]) for metric in METRICS}
    return {"samples": {"count": found[0]["count"], **summary}}


def turned_summary(records):
    """Of runs whose measurement cannot tell pictures apart: means over the images of the final PSNR as it was found, of the measurement's own
    figures, of those with nothing of the operator to be found and of the found kernel's error. {} of others."""
    found = [record for record in records if "turned" in record]
    if not found:
        return {}
    mean = lambda values: mean_and_std(values)["mean"]
    summary = {"psnr_unturned": mean([record["psnr_unturned"][-1] for record in found])}
    if "measurement" in found[0]:
        summary["measurement"] = {
            metric: mean([record["measurement"][metric] for record in found]) for metric in METRICS
        }
    if "operator_known" in found[0]:
        summary["operator_known"] = {
            metric: mean([record["operator_known"][metric] for record in found])
            for metric in METRICS
        }
    if "kernel_error" in found[0]:
        summary["kernel_error"] = mean([record["kernel_error"] for record in found])
    return summary


def log_lines(summary, records):
    """The lines of log.txt. records: {image: record} of those that have not failed."""
    lines = [
        f"{summary['method']}: {len(records)} images of {summary['dataset']}, {summary['task']}"
    ]
    lines += [f"{key}: {value}" for key, value in summary["settings"].items()]
    lines += [f"made with: {one}" for one in summary["made_with"]]
    if any("psnr" in record for record in records.values()):
        lines.append(BEST_NOTE)
    if any("turned" in record for record in records.values()):
        lines.append(TURN_NOTE)
    lines += [f"{name}: failed, {why}" for name, why in summary["failed"].items()]
    for name, record in records.items():
        if "psnr" not in record:
            lines.append(
                f"{name}: final residual: {record['residual'][-1]}, chosen: {choose(record, 'chosen')['residual']}"
            )
            continue
        for which in WHICH:
            values = choose(record, which)
            lines.append(
                f"{name}: {which} psnr: {values['psnr']}, ssims: {values['ssim']}, lpips: {values['lpips_alex']}"
            )
    if summary["regret"]["mean"] is not None:
        lines.append(
            f"regret (best - chosen), avg psnr: {summary['regret']['mean']}, std psnr: {summary['regret']['std']}"
        )
    lines += [
        f"{name}: the rule of --stop was never reached, the last iterate is chosen"
        for name in summary["never_reached"]
    ]
    for which in WHICH:
        for statistic, word in (("mean", "avg"), ("std", "std")):
            psnr, ssim, lpips = (summary[which][metric][statistic] for metric in METRICS)
            if psnr is not None:
                lines.append(
                    f"{which} {word} psnr: {psnr}, {word} ssims: {ssim}, {word} lpips: {lpips}"
                )
    lines += [
        f"{key}: {summary[key]}"
        for key in ("psnr_unturned", "measurement", "operator_known", "kernel_error")
        if key in summary
    ]
    lines += [f"samples: {key}: {value}" for key, value in summary.get("samples", {}).items()]
    if "fid" in summary:
        lines.append(f"fid: {summary['fid']}")
    return lines


def write_summary(directory, head, records, settings):
    """summary.json and log.txt of a run. head: method, dataset, task and, if it was asked for, fid; records: {image: record}.
    Returns the summary, whose figures are of the images that have not failed."""
    failed = {name: record["failed"] for name, record in records.items() if "failed" in record}
    records = {name: record for name, record in records.items() if name not in failed}
    summary = {**head, "images": len(records), "failed": failed, **statistics(records.values())}
    regrets = [
        choose(record, "best")["psnr"] - choose(record, "chosen")["psnr"]
        for record in records.values()
        if "psnr" in record
    ]
    summary["regret"] = mean_and_std(regrets)
    summary["never_reached"] = [
        name
        for name, record in records.items()
        if not record.get("chosen", {"reached": True})["reached"]
    ]
    for key in ("seconds", "network_evaluations"):
        summary[f"{key}_per_image"] = mean_and_std([record[key] for record in records.values()])[
            "mean"
        ]
    summary.update(samples_summary(records.values()), **turned_summary(records.values()))
    # One, unless the run went on elsewhere.
    summary["made_with"] = list(
        {json.dumps(one): one for one in (r["made_with"] for r in records.values())}.values()
    )
    summary["settings"] = settings
    write_text(os.path.join(directory, "summary.json"), json.dumps(summary, indent=1))
    write_text(os.path.join(directory, "log.txt"), "\n".join(log_lines(summary, records)) + "\n")
    return summary
