"""Write report.html for a run or, if a folder contains several runs, for all of them side by side.

    python -m report restored/holiday                   # photographs restored by restore.py
    python -m report dmilo/celeba/inpainting/paper      # one run on images with a ground truth
    python -m report results/demo                       # a table of all runs below: method by task

The pages work without a network or a server. Without JavaScript they show everything, but the
slider, zoom and sorting do not work. Runs with many images are split into pages of PER_PAGE.
"""

import json
import os

from report.charts import curves
from report.markup import Picture, link, size_of, slider_size, write_page
from report.records import (
    FIGURES,
    WHICH,
    before_file,
    choose,
    is_known,
    iterate_labels,
    load_run,
    means,
    picture,
    restored_file,
    run_folder,
    runs_below,
)
from report.table import write_runs
from util.files import UserError
from util.intervals import PERCENT

PER_PAGE = 200
LARGE = 640, 1120  # px, smallest and largest longer side of a restored photograph under the slider
REPAIRS = {
    "inpainting": "damaged areas filled in",
    "super_resolution": "enlarged",
    "motion_deblur": "blur removed",
    "blind_deblur": "blur estimated and removed",
    "denoising": "noise removed",
}


def page_name(number):
    """The page of a run's image, counted from 0."""
    return f"report-{number // PER_PAGE + 1}.html" if number >= PER_PAGE else "report.html"


def flat(settings, prefix=""):
    """(key, text) of all nested settings that are not None."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def facts_of(record):
    """A record's remaining figures, one text each."""
    samples = record.get("samples", {})
    facts = [f"{record['nfe_total']} NFE", f"{record['seconds']:.1f} s"]
    if "spread" in samples:
        facts.append(f"samples' standard deviation {127.5 * samples['spread']:.1f} of 255")
    if f"inside_{PERCENT}" in samples:
        inside = f"{100 * samples[f'inside_{PERCENT}']:.0f} %"
        facts.append(f"{inside} of the true values inside the {PERCENT} % interval")
    if "kernel_error" in record:
        facts.append(f"relative kernel error {record['kernel_error']:.3f}")
    if "operator_known" in record:
        facts.append(f"{record['operator_known']['psnr']:.2f} dB with the known operator")
    return facts


def figures_of(record):
    """What a page with a ground truth says below each picture: {picture or index: text}."""
    labels, texts = iterate_labels(record), {}
    for i, psnr in enumerate(record.get("psnr", [])):
        texts[i] = " ".join(filter(None, (f"{psnr:.2f} dB", labels.get(i))))
        texts.update({one: f"{psnr:.2f} dB" for one in labels.get(i, "").split(", ")})
    samples = record.get("samples", {})
    scored = {f"sample_{k}": figures for k, figures in enumerate(samples.get("each", []))}
    scored.update({"mean": samples["mean"]} if "mean" in samples else {})
    return {**texts, **{name: f"{figures['psnr']:.2f} dB" for name, figures in scored.items()}}


def image_files(run, name):
    """file(which, label, note) of an image: its Picture, None if that has not been saved."""
    folder = os.path.join(run.directory, "images", name)
    files = set(os.listdir(folder)) if os.path.isdir(folder) else ()

    def file(which, label=None, note=""):
        if f"{which}.png" not in files:
            return None
        return Picture(label or which, link(picture(run.directory, name, which), run.top), note)

    return file


def existing(strips):
    """Strips without missing pictures and without empty strips."""
    strips = {title: list(filter(None, pictures)) for title, pictures in strips.items()}
    return {title: pictures for title, pictures in strips.items() if pictures}


def sample_strip(record, file, notes):
    if "samples" not in record:
        return []
    names = ["mean", "spread", *(f"sample_{k}" for k in range(record["samples"]["count"]))]
    return [file(one, one.replace("_", " "), notes.get(one, "")) for one in names]


def known_view(run, name):
    """What a page shows of an image with a ground truth."""
    record, file = run.records[name], image_files(run, name)
    notes, iterates = figures_of(record), enumerate(record["iterates"])
    best = file("result", note=notes.get("best", ""))
    final = file("final", note=notes.get("final", ""))
    kernel = file("kernel", "estimated kernel" if file("kernel_true") else "kernel")
    pictures = [file("measurement"), best, final, file("origin", "ground truth"), file("mask")]
    strips = {
        "Pictures": [*pictures, kernel, file("kernel_true", "true kernel")],
        "Iterates": [file("init"), *(file(which, note=notes[i]) for i, which in iterates)],
        "Samples": sample_strip(record, file, notes),
    }
    return dict(
        slider_size(size_of(picture(run.directory, name, "final"))),
        figures={which: choose(record, which) for which in WHICH if record["iterates"]},
        strips=existing(strips),
    )


def photo_view(run, name):
    """What a page shows of a photograph; only pictures of its shape are offered to the slider."""
    record, file = run.records[name], image_files(run, name)
    paths = before_file(run, name), restored_file(run, name)
    sizes = [size_of(path) for path in (*paths, picture(run.directory, name, "final"))]
    before = Picture("before", link(paths[0], run.top)) if sizes[0] else None
    restored = Picture("restored", link(paths[1], run.top)) if sizes[1] else None
    width, height = size = sizes[1] or (1, 1)
    samples = sample_strip(record, file, {})
    steps = [file(iterate, f"step {n}") for n, iterate in enumerate(record["iterates"], 1)]
    inputs = [file("mask", note="black: filled in"), file("kernel", "blur")]
    is_cropped = sizes[2] not in (None, size)
    options = {"Pictures": [before, restored]}
    if not is_cropped:
        options["Samples"] = [one for one in samples if one and one.label != "spread"]
        options["Steps"] = steps
    scale = min(max(max(size), LARGE[0]), LARGE[1]) / max(size)
    return dict(
        file=os.path.basename(paths[1]),
        restored=restored,
        is_comparable=sizes[0] and sizes[0][0] * height == sizes[0][1] * width,
        is_cropped=is_cropped,
        strips=existing({"Samples": samples, "Before": [before, *inputs], "Steps": steps}),
        options=existing(options),
        size=size,
        width=round(scale * width),
    )


def write_run(run):
    """report.html of a run and, for images beyond PER_PAGE, report-2.html, …; returns the first."""
    known = is_known(run)
    view = known_view if known else photo_view
    views = [
        dict(
            view(run, name),
            name=name,
            number=number,
            page=page_name(number),
            record=record,
            facts=facts_of(record),
            charts=curves(record),
        )
        for number, (name, record) in enumerate(run.records.items())
    ]
    finals = [one["figures"].get("final", {}) for one in views if known]
    pages = list(dict.fromkeys(one["page"] for one in views))
    task, sound = run.summary["task"], [r for r in run.records.values() if "failed" not in r]
    shared = dict(
        summary=run.summary,
        settings=list(flat(run.summary["settings"])),
        pages=pages,
        all=views,
        cost=means(sound),
        columns=[key for key in FIGURES if any(key in figures for figures in finals)],
        sigma=next((r["sigma"] for r in sound if r.get("sigma") is not None), None),
        repair=REPAIRS.get(task, task.replace("_", " ")),
    )
    template = "run.html" if known else "photo.html"
    for n, page in enumerate(pages):
        part = views[n * PER_PAGE : (n + 1) * PER_PAGE]
        write_page(os.path.join(run.top, page), template, n=n, views=part, **shared)
    return os.path.join(run.top, pages[0])


def write_report(folder):
    """report.html of a run's folder, or of all runs below a folder; returns its path.

    Raises UserError if there is no finished run.
    """
    if run_folder(folder):
        return write_run(load_run(folder))
    path = write_runs(folder, runs_below(folder))
    if path is None:
        raise UserError(f"{folder}: no finished run here or below; name the folder a run printed")
    return path
