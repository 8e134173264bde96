"""Quality and calibration of methods on simulated tasks, and the loss of a prior."""

import math
import os
import statistics

import numpy as np
import scipy.stats
import torch
from tqdm import tqdm

from bench.jobs import Job, command, described, folder, run_command, run_parts
from guided_diffusion.ddim import linear_alphas_cumprod
from guided_diffusion.prior import load_model_config, load_prior
from guided_diffusion.tiles import AnySize
from report import plots
from report.records import finished_records
from util.config import config_path
from util.files import UserError, project, write_text
from util.images import image_names, list_images, load_image
from util.intervals import NOMINAL, PERCENT, summarised
from util.rng import BatchRandom
from util.tables import markdown, write_csv

LOSS_TIMESTEPS = (100, 142, 200, 250, 333, 666, 999)  # last layers of 10, 7, 5, 4 steps; 3 steps
RUN = ["task", "method", "preset", "what it is"]  # columns that say what ran
QUALITY = {  # column: (title, format)
    "nfe": ("NFE", ".0f"),
    "seconds": ("s per image", ".2f"),
    "psnr": ("PSNR final", ".2f"),
    "best": ("PSNR best", ".2f"),
    "ssim": ("SSIM final", ".3f"),
    "lpips": ("LPIPS final", ".4f"),
}
GAINS = {"psnr": "ΔPSNR from the first run, 95 %", "lpips_alex": "ΔLPIPS, 95 %"}
PARTS = ("missing", "measured", "steep")  # px: holes, outside them, the tenth of largest gradients


def data_folder(args):
    return args.data or project(f"data/{args.dataset}")


def chosen_names(args):
    """The names of the images that -n and -bn select from --data."""
    return image_names(list_images(data_folder(args))[: args.number], data_folder(args))[
        args.begin_number :
    ]


def run_records(args, task, run, out, names, *extra):
    """The records of the images `names` restored by `run` (`bench.jobs.run_parts`) below `out`; its
    script restores what is not finished there. Raises UserError if it fails or restores none."""
    method, preset, settings = run_parts(run)
    extra = [*extra, *(["--set", *settings] if settings else [])]
    logdir = os.path.join(out, "-".join([method, preset, *settings]).replace("/", "_"))
    number = args.begin_number + len(names)
    job = Job(args.dataset, data_folder(args), number, task, method, preset, logdir)
    sigma = [] if args.sigma is None else ["--sigma", str(args.sigma)]
    typed = command(job, args.cuda, ["-bn", str(args.begin_number), *sigma, *extra])
    code = run_command(typed)  # 1: some images failed
    records = finished_records(folder(job))
    sound = [records[n] for n in names if n in records and "failed" not in records[n]]
    if code > 1 or not set(names) <= set(records) or not sound:
        raise UserError(
            f"{' '.join(typed)}: failed, its message is above; if that advises another --name, "
            "choose another --out"
        )
    return sound


def figures(records, timed):
    """{column of QUALITY: value}: means over images, the median of the timed images' seconds."""

    def mean(value):
        return statistics.mean(map(value, records))

    return {
        "nfe": mean(lambda r: r["nfe_total"]),
        "seconds": statistics.median(record["seconds"] for record in timed),
        "psnr": mean(lambda r: r["psnr"][-1]),
        "best": mean(lambda r: max(r["psnr"])),
        "ssim": mean(lambda r: r["ssim"][-1]),
        "lpips": mean(lambda r: r["lpips_alex"][-1]),
    }


def paired(records, others, key):
    """(mean, half of its 95 % confidence interval by Student's t) over images of the difference of
    a metric's final value from that in other records, in the same order."""
    differences = [one[key][-1] - other[key][-1] for one, other in zip(records, others)]
    n, mean = len(differences), statistics.mean(differences)
    if n < 2:
        return mean, math.nan
    error = statistics.stdev(differences) / n**0.5
    return mean, error * scipy.stats.t.ppf(0.975, n - 1)


def fronts(rows):
    """For each row the fronts that it is on, as a text: PSNR, LPIPS, both or none. A row is on a
    front if no faster row has a better value."""

    def beaten(row, key, sign):
        return any(sign * o[key] > sign * row[key] and o["seconds"] < row["seconds"] for o in rows)

    signs = {"psnr": 1, "lpips": -1}
    return [", ".join(k.upper() for k in signs if not beaten(row, k, signs[k])) for row in rows]


def write_benchmark(out, name, header, lines, sheet):
    """Print a table and write it to `out` as <name>.md and <name>.csv.

    lines: rows of texts; sheet: rows of bare figures, the first one their names.
    """
    table = "\n".join(markdown(header, lines))
    write_text(os.path.join(out, f"{name}.md"), table + "\n")
    write_csv(os.path.join(out, f"{name}.csv"), sheet)
    print(f"{table}\n\nwrote {out}/ ({name}.md, {name}.csv, {name}.png)")


def quality(args, device):
    """Compare --runs on --tasks: PSNR, SSIM and LPIPS in batches, seconds one image at a time, and
    the paired differences from the first run."""
    names, timed = chosen_names(args), os.path.join(args.out, "seconds")
    each = ["--seed-each"] if args.seed_each else []
    one_by_one = names[: args.timed], "--batch-size", "1", *each
    jobs = [(task, run) for task in args.tasks for run in args.runs]
    records = {job: run_records(args, *job, args.out, names, *each) for job in jobs}
    seconds = {job: run_records(args, *job, timed, *one_by_one) for job in jobs if args.timed}
    groups = {task: {} for task in args.tasks}
    for task, run in jobs:
        groups[task][run] = figures(records[task, run], (seconds or records)[task, run])
    titles = [title for title, _ in QUALITY.values()]
    header = [*RUN, "images", *titles, *GAINS.values(), "front"]
    bare = [name for key in GAINS for name in (f"{key}_gain", f"{key}_gain_95")]
    lines, sheet = [], [[*RUN, "images", *QUALITY, *bare, "front"]]
    for task, rows in groups.items():
        first = records[task, args.runs[0]]
        for (run, row), front in zip(rows.items(), fronts(rows.values())):
            gains = {key: paired(records[task, run], first, key) for key in GAINS}
            ran = [task, *described(run), len(first)]
            texts = [f"{row[key]:{form}}" for key, (_, form) in QUALITY.items()]
            digits = {"psnr": 2, "lpips_alex": 4}
            texts += [
                "" if run == args.runs[0] else f"{mean:+.{digits[key]}f} ± {half:.{digits[key]}f}"
                for key, (mean, half) in gains.items()
            ]
            lines.append([*map(str, ran), *texts, front])
            values = [*(row[key] for key in QUALITY), *(v for gain in gains.values() for v in gain)]
            sheet.append([*ran, *values, front])
    plots.quality(os.path.join(args.out, "quality.png"), groups)
    write_benchmark(args.out, "quality", header, lines, sheet)


def calibration_row(records, count):
    """({column: value}, ranks) of a run's records with `count` samples each; shares in 0 … 1."""
    samples = [record["samples"] for record in records]
    total = summarised(samples)

    def single(key):
        return statistics.mean(each[key] for one in samples for each in one["each"])

    inside = {f"{nominal} %": total[f"inside_{nominal}"] for nominal in NOMINAL}
    inside.update({f"{PERCENT} %, {p}": total.get(f"inside_{PERCENT}_{p}") for p in PARTS})
    return {
        **inside,
        "spread / error": total["spread_over_error"],
        "CRPS": total["crps"],
        "PSNR of a sample": single("psnr"),
        "PSNR of the mean": statistics.mean(one["mean"]["psnr"] for one in samples),
        "LPIPS of a sample": single("lpips_alex"),
        "s per sample": statistics.mean(record["seconds"] for record in records) / count,
    }, total["ranks"]


def calibration_texts(row):
    """A row of `calibration_row` as texts: shares in per cent, other figures by their precision."""
    digits = {"CRPS": 4, "LPIPS of a sample": 4, "s per sample": 1}
    texts = []
    for key, value in row.items():
        percent = "%" in key
        text = f"{100 * value:.0f}" if percent and value is not None else ""
        texts.append(text if percent else f"{value:.{digits.get(key, 2)}f}")
    return texts


def calibration(args, device):
    """Compare --runs on --tasks: how often the intervals of --samples contain the truth."""
    names = chosen_names(args)
    lines, sheet, groups = [], [], {task: {} for task in args.tasks}
    for task in args.tasks:
        for run in args.runs:
            samples = "--samples", str(args.samples)
            records = run_records(args, task, run, args.out, names, *samples)
            row, groups[task][run] = calibration_row(records, args.samples)
            lines.append([task, *described(run), *calibration_texts(row)])
            sheet.append([task, *described(run), *row.values()])
    plots.calibration(os.path.join(args.out, "calibration.png"), groups)
    header = [*RUN, *row]
    write_benchmark(args.out, "calibration", header, lines, [header, *sheet])


@torch.no_grad()
def loss(args, device):
    """Print the prior's mean squared error of eps, one noise per image and timestep."""
    config_file = config_path("dataset", args.dataset, "configs/model_config_{}.yaml")
    config = load_model_config(config_file)
    network = AnySize(load_prior(config, config_file, device))
    files = list_images(data_folder(args))[args.begin_number : args.number]
    if not files:
        raise UserError(
            f"-n {args.number} -bn {args.begin_number} select no image of {data_folder(args)}"
        )
    alphas_cumprod = linear_alphas_cumprod()
    losses = np.zeros((len(files), len(LOSS_TIMESTEPS)))
    for n, file in enumerate(tqdm(files, unit="image", disable=None)):
        x0, rng = load_image(file), BatchRandom([n])
        for k, t in enumerate(LOSS_TIMESTEPS):
            noise = rng.randn(x0.shape[1:])
            x_t = alphas_cumprod[t].sqrt() * x0 + (1 - alphas_cumprod[t]).sqrt() * noise
            eps = network(x_t.to(device), torch.full((1,), float(t), device=device))
            losses[n, k] = (eps.cpu() - noise).square().mean().item()
    print(f"{config['model_path']}, mean squared error of eps on {len(files)} images\n")
    header = [f"t = {t}" for t in LOSS_TIMESTEPS]
    print("\n".join(markdown(header, [[f"{value:.5f}" for value in losses.mean(axis=0)]])))
