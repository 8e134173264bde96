"""Tables of methods by data sets and tasks: runs the scripts, goes on where it was stopped, writes results/<table>/.

    python reproduce.py configs/tables/demo.yaml --cuda -1
    python reproduce.py configs/tables/celeba.yaml --dry-run                      # the commands and about the time they take
    python reproduce.py configs/tables/celeba.yaml --only inpainting dmilo/paper --nproc-per-node 4

Writes table.md, table.csv, table.tex (mean ± standard deviation over the images, best value in bold; `final` is the last
iterate, `chosen` where a rule would have stopped without the truth, `best` the one that an oracle chose by its PSNR), strips.png (origin,
measurement, each method's final picture; a row an image), convergence.png (PSNR and residual against network evaluations) and report.html
(a page with all of it, two pictures at a time under a slider). A table with the key `memory` is the first three of peak memory by the
length of the chain, as `benchmark.py memory` measures it.
"""

import argparse
import json
import os
import shlex
import sys

from tqdm import tqdm

from bench.costs import count_evaluations, inner_step, load_memory_table, memory_table, seconds
from bench.jobs import (
    Job,
    command,
    folder,
    has_images,
    images,
    left,
    run_command,
    sound_records,
)
from experiment.arguments import task_file
from experiment.methods import BASELINES, OURS
from experiment.presets import load_presets
from report import plots
from report.page import load_run, write_runs
from report.pictures import write_strips
from report.records import METRICS, WHICH, picture, statistics
from util.cli import Parser, number, run_script
from util.config import Section, config_path, load_yaml
from util.devices import choose_device
from util.files import UserError, here_or_project, project
from util.tables import write_table

COLUMNS = (*METRICS, "fid")  # what a table may show
HIGHER_IS_BETTER = ("psnr", "ssim")
DECIMALS = {"psnr": 2, "ssim": 3, "lpips_alex": 3, "fid": 2}
STRIP_ROWS = 8  # images of a task in strips.png


def listed(values):
    """Is this list one of texts, and not empty?"""
    return values and all(isinstance(value, str) for value in values)


def check_published(section, figures, names, where="published"):
    """Raise UserError unless `figures` are numbers by data set, task, method and metric. names: what each of these four may be
    called, None: anything."""
    if not names:
        if type(figures) not in (int, float):
            raise section.error(where, f"is {figures!r}, must be a number")
        return
    if not isinstance(figures, dict):
        raise section.error(where, "must hold figures by data set, task, method and metric")
    for name, inner in figures.items():
        if names[0] is not None and name not in names[0]:
            raise section.error(where, f"has {name!r}, the table has {', '.join(sorted(names[0]))}")
        check_published(section, inner, names[1:], f"{where}.{name}")


def load_table(section, out):
    """-> (jobs, metrics, published) of a table file. Raises UserError, naming file and key, for anything wrong."""
    datasets = section.take("datasets", list, bool, "a list of {dataset, data, number}")
    tasks = section.take("tasks", list, listed, "a list of tasks")
    methods = section.take(
        "methods",
        list,
        lambda m: listed(m) and all("/" in one for one in m),
        "a list of method/preset",
    )
    known = lambda m: listed(m) and set(m) <= set(COLUMNS)
    metrics = section.take("metrics", list, known, f"a list of {', '.join(COLUMNS)}")
    published = section.take("published", dict, default={})
    section.finish()
    for run in methods:
        method, preset = run.split("/", 1)
        if method not in OURS + BASELINES:
            raise section.error(
                "methods", f"has {run}, but the methods are {', '.join(OURS + BASELINES)}"
            )
        presets = load_presets(method)
        if preset not in presets:
            raise section.error(
                "methods",
                f"has {run}, but configs/{method}.yaml has {', '.join(map(str, presets))}",
            )
    jobs = []
    for i, entry in enumerate(datasets):
        if not isinstance(entry, dict):
            raise section.error(
                f"datasets[{i}]", f"is {entry!r}, must be {{dataset, data, number}}"
            )
        one = Section(entry, section.path, f"datasets[{i}].")
        dataset, data = one.take("dataset", str), here_or_project(one.take("data", str))
        count = one.take("number", int, lambda n: n > 0, "how many images")
        one.finish()
        config_path("dataset", dataset, "configs/model_config_{}.yaml")
        if dataset in {job.dataset for job in jobs}:
            again = f"is {dataset} again, whose runs would be in the same folders; give it a table of its own"
            raise section.error(f"datasets[{i}]", again)
        for task in tasks:
            task_file(dataset, task)  # which says if there is none
            for run in methods:
                method, preset = run.split("/", 1)
                jobs.append(
                    Job(
                        dataset,
                        data,
                        count,
                        task,
                        method,
                        preset,
                        os.path.join(out, "runs", f"{method}-{preset}"),
                    )
                )
    check_published(
        section, published, [{job.dataset for job in jobs}, set(tasks), None, set(metrics)]
    )
    return jobs, metrics, published


def statistics_of(job):
    """{"final" | "chosen" | "best": {metric: {"mean", "std"}}, "images": n} of what is finished, None if nothing is. FID has no "std", and is
    the run's last one, if that was of as many images."""
    records = list(sound_records(job).values())
    if not records:
        return None
    found = {"images": len(records), **statistics(records)}
    try:
        with open(os.path.join(folder(job), "summary.json"), encoding="utf-8") as f:
            summary = json.load(f)
        fid = summary.get("fid") if summary["images"] == len(records) else None
    except FileNotFoundError:  # the run has been killed before its first one
        fid = None
    for which in WHICH:
        found[which]["fid"] = {"mean": fid and fid.get(which), "std": None}
    return found


def rows_of(jobs, metrics, published):
    """The table: a dict a row, by data set, task and method; figures are {"mean", "std", "bold"} or None."""
    rows = []
    for dataset, task in dict.fromkeys((job.dataset, job.task) for job in jobs):
        theirs = dict(published.get(dataset, {}).get(task, {}))
        group = []
        for job in jobs:
            if (job.dataset, job.task) == (dataset, task):
                ours = statistics_of(job)
                row = {"dataset": dataset, "task": task, "method": job.method, "preset": job.preset}
                row["images"] = ours["images"] if ours else 0
                for metric in metrics:
                    for which in WHICH:
                        row[metric, which] = ours and ours[which][metric]
                    row[metric, "published"] = (
                        theirs.get(job.method, {}).get(metric) if job.preset == "paper" else None
                    )
                group.append(row)
        shown = {job.method for job in jobs if job.preset == "paper"}
        for method, figures in theirs.items():
            if method not in shown:
                row = {
                    "dataset": dataset,
                    "task": task,
                    "method": method,
                    "preset": "",
                    "images": 0,
                }
                for metric in metrics:
                    row.update(
                        {
                            **{(metric, which): None for which in WHICH},
                            (metric, "published"): figures.get(metric),
                        }
                    )
                group.append(row)
        for metric in metrics:
            for which in WHICH:
                means = [
                    row[metric, which]["mean"]
                    for row in group
                    if row[metric, which] and row[metric, which]["mean"] is not None
                ]
                for row in group:
                    cell = row[metric, which]
                    if cell and means:
                        cell["bold"] = cell["mean"] == (max if metric in HIGHER_IS_BETTER else min)(
                            means
                        )
        rows += group
    return rows


def cell(value, metric):
    """One figure as text: mean ± std, the best of its column between ** and **; or a published one."""
    digits = DECIMALS[metric]
    if not isinstance(value, dict):
        return "" if value is None else f"{value:.{digits}f}"
    if value["mean"] is None:
        return ""
    text = f"{value['mean']:.{digits}f}" + (
        "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    )
    return f"**{text}**" if value.get("bold") else text


def write_results(out, rows, metrics):
    """The table of what rows_of returns."""
    keys = ["dataset", "task", "method", "preset", "images"]
    columns = [(metric, which) for metric in metrics for which in (*WHICH, "published")]
    columns = [c for c in columns if c[1] != "published" or any(row[c] is not None for row in rows)]
    header = keys + [f"{metric.replace('_alex', '').upper()} {which}" for metric, which in columns]
    endings = lambda which: ("",) if which == "published" else ("_mean", "_std")
    names = [f"{metric}_{which}{ending}" for metric, which in columns for ending in endings(which)]
    texts, sheet = [], [keys + names]
    for row in rows:
        shown = [str(row[key]) for key in keys]
        figures = shown.copy()
        for metric, which in columns:
            value = row[metric, which]
            shown.append(cell(value, metric))
            figures += (
                [value]
                if which == "published"
                else [value and value["mean"], value and value["std"]]
            )
        texts.append(shown)
        sheet.append(figures)
    return write_table(out, header, texts, sheet)


def strip_blocks(jobs):
    """For every data set and task a block, a row an image: truth, measurement, each method's final picture."""
    blocks = []
    for dataset, task in dict.fromkeys((job.dataset, job.task) for job in jobs):
        sound = {
            job: set(sound_records(job))
            for job in jobs
            if (job.dataset, job.task) == (dataset, task)
        }
        group = [job for job in sound if sound[job]]
        names = (
            sorted(set.intersection(*(sound[job] for job in group)))[:STRIP_ROWS] if group else []
        )
        if names:
            titles = ["origin", f"{task}"] + [f"{job.method}, {job.preset}" for job in group]
            shown = [(group[0], "origin"), (group[0], "measurement")] + [
                (job, "final") for job in group
            ]
            blocks.append(
                (
                    titles,
                    [[picture(folder(job), name, which) for job, which in shown] for name in names],
                )
            )
    return blocks


def convergence_groups(jobs):
    """{data set and task: {method and preset: records}} of what is finished."""
    groups = {f"{job.dataset}, {job.task}": {} for job in jobs}
    for job in jobs:
        records = list(sound_records(job).values())
        if records:
            groups[f"{job.dataset}, {job.task}"][f"{job.method}, {job.preset}"] = records
    return groups


def finished_runs(jobs):
    """The runs of those jobs that have finished images, with these alone, for a page."""
    found = {
        job: sound_records(job)
        for job in jobs
        if os.path.exists(os.path.join(folder(job), "summary.json"))
    }
    return [load_run(folder(job))._replace(records=records) for job, records in found.items()]


def write_memory(out, path, cuda):
    """The table of a file with the key `memory`."""
    header, rows = memory_table(*load_memory_table(path), choose_device(cuda))
    print("\n".join(write_table(out, header, rows, [header, *rows])))
    print(f"wrote {out}/ (table.md, table.csv, table.tex)")


def estimate(jobs, cuda, extra):
    """{job: seconds} for its images that are not finished, one at a time, from the network evaluations of its settings (--outer,
    --inner and -c among `extra`, too) and a short measurement of the inner step."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for names in (["--outer"], ["--inner"], ["-c", "--custom_steps"]):
        parser.add_argument(*names, type=int)
    given, _ = parser.parse_known_args(extra)
    given = {"outer": given.outer, "inner": given.inner, "chain_steps": given.custom_steps}
    device, step_seconds, estimates = choose_device(cuda), {}, {}
    for job in jobs:
        if job.dataset not in step_seconds:
            step = inner_step(
                project(f"configs/model_config_{job.dataset}.yaml"), 1, "fp32", False, False, device
            )
            step_seconds[job.dataset] = min(seconds(step, device) for _ in range(3))
        count = len(left(job)) if has_images(job) else job.number
        estimates[job] = (
            count
            * step_seconds[job.dataset]
            * count_evaluations(job.method, job.preset, job.task, dataset=job.dataset, **given)
        )
    return estimates


def main():
    parser = Parser(__doc__)
    parser.add_argument("table", metavar="TABLE.yaml", help="configs/tables/*.yaml")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        help="data sets, tasks and method/presets; of each kind named, only these",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the commands and an estimate of their time: "
        "every network evaluation at the price of an inner step, nothing else",
    )
    parser.add_argument(
        "--nproc-per-node",
        type=number(int, 1),
        default=1,
        help="processes that share a run's images (default 1)",
    )
    parser.add_argument(
        "--cuda", type=number(int, -1), default=0, help="GPU number; -1: the CPU (default 0)"
    )
    parser.add_argument(
        "--extra",
        type=shlex.split,
        default=[],
        help='more arguments for every run: --extra="--outer 1 --fid"',
    )
    args = parser.parse_args()
    args.table = here_or_project(args.table)
    section = Section(load_yaml(args.table), args.table)
    out = os.path.join("results", os.path.splitext(os.path.basename(args.table))[0])
    if "memory" in section.values:
        if args.dry_run or args.only:
            raise UserError(
                f"{args.table}: a memory table is measured as a whole; leave out --dry-run and --only"
            )
        write_memory(out, args.table, args.cuda)
        return
    table, metrics, published = load_table(section, out)
    if "fid" in metrics:
        args.extra.append("--fid")
    kinds = [
        {job.dataset for job in table},
        {job.task for job in table},
        {f"{job.method}/{job.preset}" for job in table},
    ]
    for name in args.only:
        if not any(name in kind for kind in kinds):
            raise UserError(
                f"--only {name}: {args.table} has {', '.join(sorted(set.union(*kinds)))}"
            )
    wanted = [kind & set(args.only) or kind for kind in kinds]
    jobs = [
        job
        for job in table
        if job.dataset in wanted[0]
        and job.task in wanted[1]
        and f"{job.method}/{job.preset}" in wanted[2]
    ]

    if args.dry_run:
        print(
            "A step of each kind is measured first; on a CPU that takes minutes.", file=sys.stderr
        )
        estimates = estimate(jobs, args.cuda, args.extra)
        for job in jobs:
            print(
                f"{shlex.join(command(job, args.cuda, args.extra, args.nproc_per_node))}  # about {estimates[job] / 60:.1f} min"
            )
        print(
            f"{len(jobs)} runs, about {sum(estimates.values()) / 3600:.1f} h one after the other, images one at a time"
        )
        return

    for job in jobs:
        images(job)  # before anything runs
    table = [
        job for job in table if has_images(job)
    ]  # of the data sets not asked for, one may not be here
    broken, incomplete = 0, 0
    for job in tqdm(jobs, desc="runs", unit="run", disable=None):
        code = run_command(
            command(job, args.cuda, args.extra, args.nproc_per_node)
        )  # it knows what is finished
        # All images are through, some with values that were not finite. Code 1 alone is what torchrun makes of any failure.
        if code == 1 and not left(job) and len(sound_records(job)) < len(images(job)):
            incomplete += 1
        elif code:
            broken += 1
    lines = write_results(out, rows_of(table, metrics, published), metrics)
    blocks = strip_blocks(table)
    if blocks:
        write_strips(os.path.join(out, "strips.png"), blocks)
    plots.convergence(os.path.join(out, "convergence.png"), convergence_groups(table))
    write_runs(out, finished_runs(table))
    print("\n".join(lines))
    print(
        f"wrote {out}/ (table.md, table.csv, table.tex, strips.png, convergence.png, report.html, runs/)"
    )
    if broken:
        raise UserError(
            f"{broken} of {len(jobs)} runs failed, their own messages stand above; the same command tries them again"
        )
    if incomplete:
        print(
            f"warning: {incomplete} of {len(jobs)} runs have failed images, which count nowhere; their log.txt names them",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
