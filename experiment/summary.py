"""summary.json and log.txt of a run."""

import json
import os

import numpy as np

from report.records import METRICS, WHICH, choose, mean_and_std, statistics
from util.files import write_text
from util.intervals import summarised

BEST_NOTE = (
    "best: the iterate with the highest PSNR against the ground truth, an oracle's choice, as in the published code "
    "(result.png); final: the last iterate, which needs no ground truth (final.png); chosen: where a rule (--stop) would have stopped "
    "without it"
)

TURN_NOTE = "turned: pictures that the measurement cannot tell apart are counted, and shown, as the one nearest to the ground truth"


def samples_summary(records):
    """Of runs with several samples: means over the images of the mean's figures, of the best single sample's (by PSNR, an oracle's choice), of the
    spread, of missing and of measured pixels, too, where there is a mask, and of `util.intervals`. {} without samples."""
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
