"""The summary of a run: summary.json, log.txt and the last lines that it prints."""

import json
import os
import sys

import numpy as np

from report.records import METRICS, WHICH, choose, mean_and_std, statistics
from util.files import warn, write_text
from util.intervals import PERCENT, summarised

BEST_NOTE = (
    "best: the iterate with the highest PSNR against the ground truth, an oracle's choice, as in "
    "the published code (result.png); final: the last iterate, which needs no ground truth "
    "(final.png); chosen: the iterate that the stopping rule (--stop) selects without it"
)

TURN_NOTE = (
    "turned: of images that the measurement cannot distinguish, the one nearest to the ground "
    "truth is scored and saved"
)


def mean_of(values):
    return float(np.mean(list(values)))


def metric_means(rows):
    """{metric: mean} of dicts of metrics."""
    return {metric: mean_of(row[metric] for row in rows) for metric in METRICS}


def samples_summary(records):
    """Of runs with several samples, {"samples": {…}}, else {}.

    Means over the images of: the metrics of the samples' mean and of the best single sample (by
    PSNR, an oracle's choice), the spread overall and, with a mask, of missing and measured px, and
    the figures of `util.intervals`.
    """
    rows = [record["samples"] for record in records if "samples" in record]
    if not rows:
        return {}
    spreads = dict.fromkeys(key for row in rows for key in row if key.startswith("spread"))
    # A mask without holes has no missing px.
    summary = {key: mean_of(row[key] for row in rows if key in row) for key in spreads}
    summary.update(summarised(rows))
    if "mean" in rows[0]:
        summary["mean"] = metric_means([row["mean"] for row in rows])
        best = [max(row["each"], key=lambda figures: figures["psnr"]) for row in rows]
        summary["best_single"] = metric_means(best)
    if "result" in rows[0]:
        summary["result"] = rows[0]["result"]
    return {"samples": {"count": rows[0]["count"], **summary}}


def turned_summary(records):
    """Of runs whose measurement cannot distinguish certain images, means over the images of the
    final PSNR without turning, the metrics of the measurement and with the operator known, and the
    error of the estimated kernel; else {}."""
    rows = [record for record in records if "turned" in record]
    if not rows:
        return {}
    summary = {"psnr_unturned": mean_of(row["psnr_unturned"][-1] for row in rows)}
    for key in ("measurement", "operator_known"):
        if key in rows[0]:
            summary[key] = metric_means([row[key] for row in rows])
    if "kernel_error" in rows[0]:
        summary["kernel_error"] = mean_of(row["kernel_error"] for row in rows)
    return summary


def image_lines(name, record):
    """The lines of log.txt about an image that has not failed."""
    if "psnr" not in record:
        chosen = choose(record, "chosen")["residual"]
        return [f"{name}: final residual: {record['residual'][-1]}, chosen: {chosen}"]
    lines = []
    for which in WHICH:
        psnr, ssim, lpips = (choose(record, which)[metric] for metric in METRICS)
        lines.append(f"{name}: {which} psnr: {psnr}, ssims: {ssim}, lpips: {lpips}")
    return lines


def mean_lines(summary):
    """The lines of log.txt about all images, in the published form."""
    lines, regret = [], summary["regret"]
    if regret["mean"] is not None:
        lines.append(
            f"regret (best - chosen), avg psnr: {regret['mean']}, std psnr: {regret['std']}"
        )
    lines += [
        f"{name}: the rule of --stop was never reached, the last iterate is chosen"
        for name in summary["never_reached"]
    ]
    for which in WHICH:
        for statistic, word in (("mean", "avg"), ("std", "std")):
            psnr, ssim, lpips = (summary[which][metric][statistic] for metric in METRICS)
            if psnr is not None:
                means = f"{word} psnr: {psnr}, {word} ssims: {ssim}, {word} lpips: {lpips}"
                lines.append(f"{which} {means}")
    return lines


def log_lines(summary, records):
    """The lines of log.txt. records: {image: record} of those that have not failed."""
    what = f"{summary['images']} images of {summary['dataset']}, {summary['task']}"
    lines = [f"{summary['method']}: {what}"]
    lines += [f"{key}: {value}" for key, value in summary["settings"].items()]
    lines += [f"made with: {one}" for one in summary["made_with"]]
    if any("psnr" in record for record in records.values()):
        lines.append(BEST_NOTE)
    if any("turned" in record for record in records.values()):
        lines.append(TURN_NOTE)
    lines += [f"{name}: failed, {why}" for name, why in summary["failed"].items()]
    for name, record in records.items():
        lines += image_lines(name, record)
    lines += mean_lines(summary)
    optional = ("psnr_unturned", "measurement", "operator_known", "kernel_error")
    lines += [f"{key}: {summary[key]}" for key in optional if key in summary]
    lines += [f"samples: {key}: {value}" for key, value in summary.get("samples", {}).items()]
    if "fid" in summary:
        lines.append(f"fid: {summary['fid']}")
    return lines


def write_summary(directory, head, records, settings):
    """Write summary.json and log.txt and return the summary.

    head: method, dataset, task and, if measured, fid; records: {image: record}. Means are over the
    images that have not failed.
    """
    failed = {name: record["failed"] for name, record in records.items() if "failed" in record}
    records = {name: record for name, record in records.items() if name not in failed}
    every = records.values()
    summary = {**head, "images": len(records), "failed": failed, **statistics(every)}
    summary["regret"] = mean_and_std(
        [
            choose(record, "best")["psnr"] - choose(record, "chosen")["psnr"]
            for record in every
            if "psnr" in record
        ]
    )
    reached = {
        name: record.get("chosen", {"reached": True})["reached"] for name, record in records.items()
    }
    summary["never_reached"] = [name for name in records if not reached[name]]
    for key, figure in (("seconds", "seconds"), ("nfe", "nfe_total")):
        summary[f"{key}_per_image"] = mean_and_std([record[figure] for record in every])["mean"]
    summary.update(samples_summary(every), **turned_summary(every))
    # One, unless the run was resumed elsewhere.
    summary["made_with"] = list(
        {json.dumps(r["made_with"]): r["made_with"] for r in every}.values()
    )
    summary["settings"] = settings
    write_text(os.path.join(directory, "summary.json"), json.dumps(summary, indent=1))
    write_text(os.path.join(directory, "log.txt"), "\n".join(log_lines(summary, records)) + "\n")
    return summary


def print_samples(samples):
    """Print what a run with several samples says of them."""
    if "result" in samples:
        print(f"the restored picture is the {samples['result']} of {samples['count']} samples")
    if "mean" in samples:
        mean, best = samples["mean"]["psnr"], samples["best_single"]["psnr"]
        print(f"{samples['count']} samples: PSNR {mean:.2f} dB (mean), {best:.2f} dB (best)")
    if samples["spread"] == 0:
        warn(
            "the samples are equal and say nothing about the uncertainty, as this method is "
            "deterministic; use samplers.posterior (restore.py --preset posterior)"
        )
        return
    inside = ""
    if "ranks" in samples:
        inside = f", in fact {100 * samples[f'inside_{PERCENT}']:.0f} %"
    print(
        f"they differ by {127.5 * samples['spread']:.1f} of 255 (spread.png); interval.npz: "
        f"intervals for {PERCENT} % of the true values{inside}"
    )


def print_summary(summary, folder, mismatches):
    """The last lines of a run. folder: its Folder; mismatches: {image: warning}."""
    count = f"{summary['images']} image{'s' if summary['images'] != 1 else ''}"
    about = f"{summary['method']}/{summary['settings']['preset']}, {summary['task']}, {count}"
    final, chosen, best = (summary[which]["psnr"]["mean"] for which in WHICH)
    residual = summary["chosen"]["residual"]["mean"]
    if final is not None:
        print(
            f"{about}: PSNR {final:.2f} dB (final), {chosen:.2f} dB (chosen: the stopping rule, "
            f"without ground truth), {best:.2f} dB (best: needs the ground truth)"
        )
    elif residual is not None:
        print(f"{about}: residual {residual:.4f}")
    if "samples" in summary:
        print_samples(summary["samples"])
    for name, why in summary["failed"].items():
        print(f"warning: {name} has failed: {why}", file=sys.stderr)
    for name, why in mismatches.items():
        print(f"warning: {name}: {why}", file=sys.stderr)
    files = "log.txt, summary.json, grid.png, report.html, images/, record/"
    if folder.below:
        files = f"restored images, report.html; everything else in {folder.below}/"
    print(f"wrote {folder.top}/ ({files})")
