"""Reproduce a table: run every method on every data set and task; unfinished runs are resumed.

    python reproduce.py configs/tables/demo.yaml --cuda -1
    python reproduce.py configs/tables/celeba.yaml --dry-run     # commands and time at most
    python reproduce.py configs/tables/celeba.yaml --only inpainting dmilo/paper --nproc-per-node 4

The results are written to results/<table>/:

    table.md, table.csv, table.tex   mean ± standard deviation over images, best values in bold
    strips.png                       truth, measurement and final results
    convergence.png                  PSNR and residual against NFE
    report.html                      comparison of the methods, with links to each run's report

In the tables, `final` is the last iterate, `chosen` the iterate that a stopping rule chooses
without the truth, and `best` the iterate with the highest PSNR. If the table file has the key
`memory`, peak memory is measured as by `benchmark.py memory`, and only the tables are written.
"""

import argparse
import functools
import json
import os
import shlex
import sys

from tqdm import tqdm

from bench.costs import count_nfe, inner_step, load_memory_table, memory_table, seconds
from bench.jobs import (
    Job,
    command,
    described,
    folder,
    has_images,
    images,
    left,
    run_command,
    sound_records,
)
from experiment.arguments import Arguments, add_method, select_fields, task_file
from experiment.methods import METHODS
from experiment.presets import load_presets
from report import plots
from report.pictures import write_strips
from report.records import METRICS, WHICH, load_run, picture, statistics
from report.table import write_runs
from util.cli import Parser, number, run_script
from util.config import Section, config_path, load_yaml
from util.devices import choose_device
from util.files import UserError, here_or_project, project, warn
from util.tables import write_table

COLUMNS = (*METRICS, "fid")  # metrics that a table may have
HIGHER_IS_BETTER = ("psnr", "ssim")
DECIMALS = {"psnr": 2, "ssim": 3, "lpips_alex": 3, "fid": 2}
STRIP_ROWS = 8  # images per task in strips.png
KEYS = ["dataset", "task", "method", "preset", "what it is", "images"]  # columns that say what ran
SUMMED_UP = "table.md, table.csv, table.tex"


def is_text_list(values):
    """Whether a list is not empty and contains strings only."""
    return values and all(isinstance(value, str) for value in values)


def is_run_list(values):
    return is_text_list(values) and all("/" in one for one in values)


def is_metric_list(values):
    return is_text_list(values) and set(values) <= set(COLUMNS)


def check_published(section, figures, names, where="published"):
    """Raise UserError unless `figures` are numbers by data set, task, method and metric.

    names: the possible keys of each of these four levels; None: any.
    """
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


def check_run(section, run):
    """Raise UserError for an unknown method/preset."""
    method, preset = run.split("/", 1)
    if method not in METHODS:
        raise section.error("methods", f"has {run}, must be one of {', '.join(METHODS)}")
    presets = load_presets(method)
    if preset not in presets:
        known = ", ".join(map(str, presets))
        raise section.error("methods", f"has {run}, but configs/{method}.yaml has {known}")


def jobs_of(section, i, entry, tasks, methods, out):
    """The jobs of entry i of a table's `datasets`. Raises UserError if the entry is invalid."""
    if not isinstance(entry, dict):
        raise section.error(f"datasets[{i}]", f"is {entry!r}, must be {{dataset, data, number}}")
    one = Section(entry, section.path, f"datasets[{i}].")
    dataset, data = one.take("dataset", str), here_or_project(one.take("data", str))
    count = one.take("number", int, lambda n: n > 0, "a number of images")
    one.finish()
    config_path("dataset", dataset, "configs/model_config_{}.yaml")
    jobs = []
    for task in tasks:
        task_file(dataset, task)  # raises UserError for an unknown task
        for run in methods:
            logdir = os.path.join(out, "runs", run.replace("/", "-"))
            jobs.append(Job(dataset, data, count, task, *run.split("/", 1), logdir))
    return jobs


def load_table(section, out):
    """Read a table file -> (jobs, metrics, published). Raises UserError, naming file and key."""
    datasets = section.take("datasets", list, bool, "a list of {dataset, data, number}")
    tasks = section.take("tasks", list, is_text_list, "a list of tasks")
    methods = section.take("methods", list, is_run_list, "a list of method/preset")
    hint = f"a list of {', '.join(COLUMNS)}"
    metrics = section.take("metrics", list, is_metric_list, hint)
    published = section.take("published", dict, default={})
    section.finish()
    for run in methods:
        check_run(section, run)
    jobs = []
    for i, entry in enumerate(datasets):
        more = jobs_of(section, i, entry, tasks, methods, out)
        if more[0].dataset in {job.dataset for job in jobs}:
            raise section.error(
                f"datasets[{i}]",
                f"is {more[0].dataset} again, with the same folders of results; use another table",
            )
        jobs += more
    known = {job.dataset for job in jobs}
    check_published(section, published, [known, set(tasks), None, set(metrics)])
    return jobs, metrics, published


def statistics_of(job):
    """{"final" | "chosen" | "best": {metric: {"mean", "std"}}, "images": n} of the finished images,
    or None if there are none. FID has no "std", and is None unless computed on all these images."""
    records = list(sound_records(job).values())
    if not records:
        return None
    figures = {"images": len(records), **statistics(records)}
    try:
        with open(os.path.join(folder(job), "summary.json"), encoding="utf-8") as f:
            summary = json.load(f)
        fid = summary.get("fid") if summary["images"] == len(records) else None
    except FileNotFoundError:  # killed before its first summary
        fid = None
    for which in WHICH:
        figures[which]["fid"] = {"mean": fid and fid.get(which), "std": None}
    return figures


def row_of(job, metrics, published):
    """A table row: KEYS and, by (metric, which), {"mean", "std"}, a published number or None.

    published: {method: {metric: number}}, listed in the rows of the preset paper.
    """
    ours = statistics_of(job)
    images = ours["images"] if ours else 0
    ran = job.dataset, job.task, *described(f"{job.method}/{job.preset}"), images
    row = dict(zip(KEYS, ran))
    for metric in metrics:
        row.update({(metric, which): ours and ours[which][metric] for which in WHICH})
        theirs = published.get(job.method, {}) if job.preset == "paper" else {}
        row[metric, "published"] = theirs.get(metric)
    return row


def mark_best(rows, metric, which):
    """Set "bold" in the cells of one column: whether the mean is the best of these rows."""
    cells = [row[metric, which] for row in rows if row[metric, which]]
    means = [cell["mean"] for cell in cells if cell["mean"] is not None]
    best = (max if metric in HIGHER_IS_BETTER else min)(means, default=None)
    for cell in cells:
        cell["bold"] = best is not None and cell["mean"] == best


def rows_of(jobs, metrics, published):
    """The table's rows (`row_of`) by data set and task, published methods without a run last."""
    rows = []
    for dataset, task in dict.fromkeys((job.dataset, job.task) for job in jobs):
        theirs = published.get(dataset, {}).get(task, {})
        group = [job for job in jobs if (job.dataset, job.task) == (dataset, task)]
        of_group = [row_of(job, metrics, theirs) for job in group]
        ran = {job.method for job in group if job.preset == "paper"}
        for method, figures in theirs.items():
            if method not in ran:
                row = dict(zip(KEYS, (dataset, task, method, "", "published", 0)))
                row.update({(metric, which): None for metric in metrics for which in WHICH})
                row.update({(metric, "published"): figures.get(metric) for metric in metrics})
                of_group.append(row)
        for metric in metrics:
            for which in WHICH:
                mark_best(of_group, metric, which)
        rows += of_group
    return rows


def cell(value, metric):
    """One figure as text: a published number, or mean ± std, between ** if it is the best."""
    digits = DECIMALS[metric]
    if not isinstance(value, dict):
        return "" if value is None else f"{value:.{digits}f}"
    if value["mean"] is None:
        return ""
    std = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    text = f"{value['mean']:.{digits}f}{std}"
    return f"**{text}**" if value.get("bold") else text


def write_results(out, rows, metrics):
    """Write the table of `rows_of`; returns the lines of table.md."""
    columns = [(metric, which) for metric in metrics for which in (*WHICH, "published")]
    columns = [c for c in columns if c[1] != "published" or any(row[c] is not None for row in rows)]
    header = KEYS + [f"{metric.replace('_alex', '').upper()} {which}" for metric, which in columns]
    names = []
    for metric, which in columns:
        endings = [""] if which == "published" else ["_mean", "_std"]
        names += [f"{metric}_{which}{ending}" for ending in endings]
    texts, sheet = [], [KEYS + names]
    for row in rows:
        ran, values = [str(row[key]) for key in KEYS], [row[column] for column in columns]
        texts.append(ran + [cell(v, metric) for v, (metric, _) in zip(values, columns)])
        bare = []
        for value, (_, which) in zip(values, columns):
            both = [value and value["mean"], value and value["std"]] if which in WHICH else [value]
            bare += both
        sheet.append(ran + bare)
    return write_table(out, header, texts, sheet)


def strip_blocks(jobs):
    """For `write_strips`: one block per data set and task, one row per image with its truth, its
    measurement and the final result of each run."""
    blocks = []
    for dataset, task in dict.fromkeys((job.dataset, job.task) for job in jobs):
        group = [job for job in jobs if (job.dataset, job.task) == (dataset, task)]
        sound = {job: records for job in group if (records := set(sound_records(job)))}
        names = sorted(set.intersection(*sound.values()))[:STRIP_ROWS] if sound else []
        if names:
            first = next(iter(sound))
            columns = [
                (first, "origin"),
                (first, "measurement"),
                *((job, "final") for job in sound),
            ]
            titles = ["truth", task, *(f"{job.method}/{job.preset}" for job in sound)]
            rows = [[picture(folder(job), name, which) for job, which in columns] for name in names]
            blocks.append((titles, rows))
    return blocks


def convergence_groups(jobs):
    """{data set and task: {method/preset: records}} of the finished images."""
    groups = {f"{job.dataset}, {job.task}": {} for job in jobs}
    for job in jobs:
        records = list(sound_records(job).values())
        if records:
            groups[f"{job.dataset}, {job.task}"][f"{job.method}/{job.preset}"] = records
    return groups


def finished_runs(jobs):
    """The Runs of the jobs that have a summary, restricted to the jobs' images."""
    done = [job for job in jobs if os.path.exists(os.path.join(folder(job), "summary.json"))]
    return [load_run(folder(job))._replace(records=sound_records(job)) for job in done]


def write_memory(out, path, cuda):
    """Measure and write the table of a file with the key `memory`."""
    header, rows = memory_table(*load_memory_table(path), choose_device(cuda))
    print("\n".join(write_table(out, header, rows, [header, *rows])))
    print(f"wrote {out}/ ({SUMMED_UP})")


def published_elsewhere(published, methods):
    """The published figures of all but these methods."""
    return {
        dataset: {
            task: {name: figures for name, figures in rows.items() if name not in methods}
            for task, rows in tasks.items()
        }
        for dataset, tasks in published.items()
    }


def changed_by(extra):
    """{dotted key: value} of the rows' keys that --extra replaces."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_method(parser, "")
    given, _ = parser.parse_known_args(extra)
    return select_fields(Arguments, vars(given), dataset="", task="").changed


def estimate(jobs, cuda, extra):
    """{job: seconds} for its unfinished images: their NFE, counted with the hyperparameters of
    `extra`, times the measured seconds of an inner step on one image."""
    given = changed_by(extra)
    device, step_seconds, estimates = choose_device(cuda), {}, {}
    for job in jobs:
        if job.dataset not in step_seconds:
            config = project(f"configs/model_config_{job.dataset}.yaml")
            step = inner_step(config, 1, "fp32", False, False, device)
            step_seconds[job.dataset] = min(seconds(step, device) for _ in range(3))
        count = len(left(job)) if has_images(job) else job.number
        nfe = count_nfe(job.method, job.preset, job.task, job.dataset, given)
        estimates[job] = count * step_seconds[job.dataset] * nfe
    return estimates


def dry_run(jobs, typed, cuda, extra):
    """Print the command, typed(job), and the estimated time of each job."""
    print("measuring an inner step of each prior, which takes minutes on a CPU", file=sys.stderr)
    estimates = estimate(jobs, cuda, extra)
    for job in jobs:
        time = f"{estimates[job] / 60:.1f} min at most"
        lacking = "" if has_images(job) else f"; no images in {job.data} yet"
        print(f"{shlex.join(typed(job))}  # {time}{lacking}")
    hours = sum(estimates.values()) / 3600
    print(f"{len(jobs)} runs, {hours:.1f} h at most in sequence, one image at a time")


def select(jobs, only, path):
    """The jobs selected by --only, which restricts data sets, tasks or method/presets to those that
    it names. Raises UserError for a name that is not in the table."""
    kinds = [
        {job.dataset for job in jobs},
        {job.task for job in jobs},
        {f"{job.method}/{job.preset}" for job in jobs},
    ]
    known = set.union(*kinds)
    for name in only:
        if name not in known:
            raise UserError(f"--only {name}: {path} has {', '.join(sorted(known))}")
    wanted = [kind & set(only) or kind for kind in kinds]
    return [
        job
        for job in jobs
        if job.dataset in wanted[0]
        and job.task in wanted[1]
        and f"{job.method}/{job.preset}" in wanted[2]
    ]


def write_all(out, jobs, metrics, published):
    """Write every file of results/<table>/ and print the table."""
    lines = write_results(out, rows_of(jobs, metrics, published), metrics)
    blocks = strip_blocks(jobs)
    if blocks:
        write_strips(os.path.join(out, "strips.png"), blocks)
    plots.convergence(os.path.join(out, "convergence.png"), convergence_groups(jobs))
    write_runs(out, finished_runs(jobs))
    print("\n".join(lines))
    print(f"wrote {out}/ ({SUMMED_UP}, strips.png, convergence.png, report.html, runs/)")


def run_jobs(jobs, typed):
    """Run typed(job), each job's command -> (how many failed, how many have failed images)."""
    failed, incomplete = 0, 0
    for job in tqdm(jobs, desc="runs", unit="run", disable=None):
        code = run_command(typed(job))
        # Code 1: all images are done, some not finite. torchrun exits with 1 after any failure.
        if code == 1 and not left(job) and len(sound_records(job)) < len(images(job)):
            incomplete += 1
        elif code:
            failed += 1
    return failed, incomplete


def parse_arguments():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("table", metavar="TABLE.yaml", help="configs/tables/*.yaml")
    add(
        "--only",
        nargs="+",
        default=[],
        help="data sets, tasks and method/presets to run (default: all)",
    )
    add(
        "--dry-run",
        action="store_true",
        help="only print the commands and the time that each needs at most (NFE x time of a step)",
    )
    count = number(int, 1)
    add("--nproc-per-node", type=count, default=1, help="processes per run (default 1)")
    add("--cuda", type=number(int, -1), default=0, help="GPU number; -1: the CPU (default 0)")
    extra = 'more arguments for every run, for example --extra="--outer 1 --fid"'
    add("--extra", type=shlex.split, default=[], help=extra)
    return parser.parse_args()


def main():
    args = parse_arguments()
    path = here_or_project(args.table)
    section = Section(load_yaml(path), path)
    out = os.path.join("results", os.path.splitext(os.path.basename(path))[0])
    if "memory" in section.values:
        if args.dry_run or args.only:
            raise UserError(f"{path}: a memory table has no --dry-run and no --only")
        return write_memory(out, path, args.cuda)
    table, metrics, published = load_table(section, out)
    extra = [*args.extra, *(["--fid"] if "fid" in metrics else [])]
    options = {"cuda": args.cuda, "extra": extra, "nproc_per_node": args.nproc_per_node}
    typed = functools.partial(command, **options)
    jobs = select(table, args.only, path)
    if args.dry_run:
        return dry_run(jobs, typed, args.cuda, extra)
    for job in jobs:
        images(job)  # raises UserError before anything runs
    if published and changed_by(extra):
        warn("--extra changes hyperparameters: no published figures beside these runs")
        published = published_elsewhere(published, {job.method for job in table})
    failed, incomplete = run_jobs(jobs, typed)
    write_all(out, [job for job in table if has_images(job)], metrics, published)
    if failed:
        raise UserError(
            f"{failed} of {len(jobs)} runs failed, their messages are above; the same command "
            "resumes them"
        )
    if incomplete:
        print(
            f"warning: {incomplete} of {len(jobs)} runs have failed images, which are not counted; "
            "log.txt names them",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
