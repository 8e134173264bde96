"""Pages to look at: report.html of a run or, of a folder with several runs below it, of all of them side by side.

    python -m report dmilo/celeba/inpainting/paper      # one run, its pictures beside the page
    python -m report results/demo                       # all runs below: methods by tasks, small pictures within the page

The pages need no network, no server and, to be read, no script. The script that moves, zooms and sorts is named by its hash in the page's
Content-Security-Policy, so nothing that a file's name holds can run. Of runs with many images there is a page for every PER_PAGE.
"""

import base64
import functools
import hashlib
import io
import json
import math
import os
import statistics
from collections import namedtuple
from urllib.parse import quote

import jinja2
from PIL import Image

from report.records import FIGURES, METRICS, WHICH, choose, finished_records, picture
from util.files import UserError, write_text
from util.images import listed, natural
from util.intervals import PERCENT

PER_PAGE = 200  # images of a run
SHOWN = 8  # images of a run in a page of several
THUMBNAIL = 160  # pixels, the longer side of the copies that a page of several runs holds
VIEW = 384  # pixels, about the longer side of the picture under the slider; small ones are enlarged by whole numbers
WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 340, 190, 52, 34, 10  # of a plot
DECIMALS = {"psnr": 2, "ssim": 3, "lpips_alex": 4, "residual": 4}
TITLES = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips_alex": "LPIPS", "residual": "residual"}
EVALUATIONS = "network evaluations"
LOWER_IS_BETTER = ("lpips_alex", "residual")

NOTHING = {
    "iterates": [],
    "ends_outer": [],
    "evaluations": [],
    "residual": [],
    "network_evaluations": 0,
    "seconds": 0.0,
}

Run = namedtuple("Run", "directory summary records")
Picture = namedtuple("Picture", "label src note", defaults=("",))  # src: a relative address
Copy = namedtuple(
    "Copy", "name src content"
)  # an image's name, the file's address, what is embedded

PAGES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")


def source(file):
    with open(os.path.join(PAGES, file), encoding="utf-8") as f:
        return f.read()


@functools.cache
def templates():
    """The templates in pages/, which escape all texts that they are given, and what they share."""
    script = source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["figure"] = lambda value, key: (
        "" if value is None else f"{value:.{DECIMALS[key]}f}"
    )
    found.globals.update(
        digest=digest,
        script=script,
        style=source("page.css"),
        titles=TITLES,
        which=WHICH,
        chart=PLOT,
    )
    return found


def write_page(path, template, **content):
    """A page from pages/<template>."""
    write_text(path, templates().get_template(template).render(**content))


# Plots: places and texts, from which pages/base.html draws an SVG.

PLOT = {
    "width": WIDTH,
    "height": HEIGHT,
    "left": LEFT,
    "bottom": HEIGHT - BOTTOM,
    "right": WIDTH - MARGIN,
    "top": MARGIN,
}


def round_steps(low, high):
    """Some round numbers from low to high."""
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step *= max((factor for factor in (1, 2, 5) if (high - low) / (factor * step) >= 2), default=1)
    return [
        n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def decades(low, high):
    """1, 3, 10, 30, … from low to high, both above 0."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [
        n for n in (factor * 10.0**e for e in exponents for factor in (1, 3)) if low <= n <= high
    ]


def axis(values, start, end, logarithmic):
    """Where values lie between two pixels, as a function, and [(pixel, text)] of the marks. logarithmic: only where they span more than a
    factor of five. What hardly changes is not blown up."""
    low, high = min(values), max(values)
    logarithmic = logarithmic and 0 < 5 * low < high
    if not logarithmic:
        room = 0.15 * (high - low) + 0.02 * abs(high) or 1
        low, high = low - room, high + room
    scale = math.log if logarithmic else float
    low, high = (low / 1.3, high * 1.3) if logarithmic else (low, high)
    place = lambda value: round(
        start + (end - start) * (scale(value) - scale(low)) / (scale(high) - scale(low)), 1
    )
    return place, [
        (place(n), f"{n:.4g}") for n in (decades if logarithmic else round_steps)(low, high)
    ]


def plot(key, x_title, x, y, names, line=None):
    """What is drawn of the points (x, y), whose names are told. line: which of them it joins, by default all."""
    across, x_marks = axis(x, LEFT, WIDTH - MARGIN, x_title != EVALUATIONS)
    up, y_marks = axis(y, HEIGHT - BOTTOM, MARGIN, key == "residual")
    points = [{"x": across(a), "y": up(b), "name": name} for a, b, name in zip(x, y, names)]
    named = [point for point in points if point["name"]]
    for point in named:  # a name stands below the lower ones of the points that have one, or where the line does not come from
        others = [other["y"] for other in named if other is not point] or [points[-2:][0]["y"]]
        point["below"] = (point["y"], point is not named[-1]) > (statistics.fmean(others), False)
    return {
        "title": TITLES[key],
        "x_title": x_title,
        "points": points,
        "line": points if line is None else [points[i] for i in line],
        "x_marks": x_marks,
        "y_marks": y_marks,
        "from_to": f"{y[0]:.4g} to {y[-1]:.4g}" if line is None else "",
    }


def told_of(record):
    """{iterate: which of the three numbers are its own, in words}."""
    last, told = len(record["iterates"]) - 1, {}
    places = {"final": last, "chosen": record.get("chosen", {}).get("iterate", last)}
    places.update({"best": record["psnr"].index(max(record["psnr"]))} if record.get("psnr") else {})
    for which, i in places.items():
        told[i] = f"{told[i]}, {which}" if i in told else which
    return told


def curves(record):
    """Plots of a record's PSNR, where there is one, and residual over its evaluations, at the ends of outer iterations."""
    ends = [
        i
        for i, end in enumerate(record.get("ends_outer") or [True] * len(record["iterates"]))
        if end
    ]
    if not ends:
        return []
    at, told = lambda key: [record[key][i] for i in ends], told_of(record)
    names = [told.get(i, "") for i in ends]
    return [
        plot(key, EVALUATIONS, at("evaluations"), at(key), names)
        for key in ("psnr", "residual")
        if key in record
    ]


# One run.


def load_run(directory):
    """The run in a folder. Raises UserError for what is no finished one."""
    path = os.path.join(directory, "summary.json")
    try:
        with open(path, encoding="utf-8") as f:
            summary = json.load(f)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); name a run's folder, or one with runs below it"
        ) from error
    except ValueError:
        summary = None
    records = finished_records(directory)
    if not (
        records
        and isinstance(summary, dict)
        and {"method", "task", "dataset", "settings"} <= summary.keys()
    ):
        raise UserError(
            f"{path}: is no summary of a run; the run's command with --summarize writes it anew"
        )
    # One that has failed before its first iterate says no more than why.
    return Run(
        directory, summary, {name: {**NOTHING, **record} for name, record in records.items()}
    )


def link(*names):
    """A relative address of a file, whatever its name holds."""
    return "/".join(
        quote(os.fsencode(name.replace(os.sep, "/"))) for name in names
    )  # a colon, too, which would begin a scheme


def flat(settings, prefix=""):
    """(key, text) of nested settings that are set."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def shown_size(directory, name):
    """How large an image's last iterate is, how wide under the slider, and whether that is larger: a square if the picture is not there."""
    try:
        with Image.open(picture(directory, name, "final")) as image:
            size = image.size
    except OSError:
        size = 1, 1
    times = VIEW / max(size)
    return {
        "size": size,
        "width": round(size[0] * (round(times) if times >= 1 else times)),
        "enlarged": times >= 1,
    }


def facts_of(record):
    """What else a record tells of its image, in words."""
    samples, facts = (
        record.get("samples", {}),
        [f"{record['network_evaluations']} network evaluations", f"{record['seconds']:.1f} s"],
    )
    if "spread" in samples:
        facts.append(f"samples' spread {127.5 * samples['spread']:.1f} of 255")
    if f"inside_{PERCENT}" in samples:
        facts.append(
            f"{100 * samples[f'inside_{PERCENT}']:.0f} % of the true values in the {PERCENT} % interval"
        )
    if "kernel_error" in record:
        facts.append(f"kernel off by {record['kernel_error']:.3f}")
    if "operator_known" in record:
        facts.append(f"{record['operator_known']['psnr']:.2f} dB if the operator is known")
    return facts


def strips(record, found):
    """{title: [Picture]} of an image: what belongs together. found: makes the Picture of a file's name, a label and a note, or None."""
    told = told_of(record)
    figure = lambda i: (
        f"{record['psnr'][i]:.2f} dB" if "psnr" in record else f"{record['residual'][i]:.4f}"
    )
    note = lambda i: " ".join(filter(None, (figure(i), told.get(i))))
    at = lambda which: next((figure(i) for i in told if which in told[i] and i >= 0), "")
    figures = record.get("samples", {})
    each = [f"{one['psnr']:.2f} dB" for one in figures.get("each", [])] or [""] * figures.get(
        "count", 0
    )
    mean = f"{figures['mean']['psnr']:.2f} dB" if "mean" in figures else ""
    groups = {
        "Pictures": [
            found("measurement"),
            found("result", note=at("best" if "psnr" in record else "chosen")),
            found("final", note=at("final")),
            found("origin", "truth"),
            found("mask"),
            found("kernel", "kernel found" if found("kernel_true") else "kernel"),
            found("kernel_true", "true kernel"),
        ],
        "Iterates": [
            found("init"),
            *(found(name, note=note(i)) for i, name in enumerate(record["iterates"])),
        ],
        "Samples": [
            *(found(f"sample_{k}", f"sample {k}", said) for k, said in enumerate(each)),
            found("mean", note=mean),
            found("spread"),
        ],
    }
    shown = {title: list(filter(None, pictures)) for title, pictures in groups.items()}
    return {title: pictures for title, pictures in shown.items() if pictures}


def view_of(run, name, number):
    """What a page shows of an image."""
    record, folder = run.records[name], os.path.join(run.directory, "images", name)
    there = set(os.listdir(folder)) if os.path.isdir(folder) else ()

    def found(which, label=None, note=""):
        return (
            Picture(label or which, link("images", name, f"{which}.png"), note)
            if f"{which}.png" in there
            else None
        )

    figures = {which: choose(record, which) for which in WHICH} if record["iterates"] else {}
    return {
        "name": name,
        "number": number,
        "page": page_name(number),
        "record": record,
        "figures": figures,
        "facts": facts_of(record),
        "plots": curves(record),
        "strips": strips(record, found),
        **shown_size(run.directory, name),
    }


def page_name(number):
    """The page of a run's image, counted from 0."""
    return f"report-{number // PER_PAGE + 1}.html" if number >= PER_PAGE else "report.html"


def write_run(run):
    """report.html of a run and, for the images after the first PER_PAGE, report-2.html, …; returns the first one's path."""
    views = [view_of(run, name, number) for number, name in enumerate(run.records)]
    columns = [
        key for key in FIGURES if any(key in view["figures"].get("final", {}) for view in views)
    ]
    pages = list(dict.fromkeys(page_name(number) for number in range(len(views))))
    sigma = next(
        (view["record"]["sigma"] for view in views if view["record"].get("sigma") is not None), None
    )
    shared = {
        "summary": run.summary,
        "settings": list(flat(run.summary["settings"])),
        "columns": columns,
        "pages": pages,
        "all": views,
        "sigma": sigma,
        "known": any("psnr" in view["record"] for view in views),
    }
    for n, page in enumerate(pages):
        write_page(
            os.path.join(run.directory, page),
            "run.html",
            n=n,
            views=views[n * PER_PAGE : (n + 1) * PER_PAGE],
            **shared,
        )
    return os.path.join(run.directory, pages[0])


# Several runs.


def runs_below(folder):
    """The runs in a folder and those below it, by their paths."""
    found = []
    for directory, folders, files in os.walk(folder):
        folders.sort(key=natural)
        if "summary.json" in files and "record" in folders:
            found.append(load_run(directory))
            folders.clear()
    return found


def problem_of(run):
    """What a run has to solve: task, data set, which images, --sigma."""
    settings = run.summary["settings"]
    images = listed(list(run.records)) if settings.get("measured") else settings.get("data", "")
    return (
        run.summary["task"],
        run.summary["dataset"],
        images,
        f"sigma {settings['sigma']}" if settings.get("sigma") else "",
    )


def problem_title(problem, problems):
    """Its task, and whatever else tells it from others of that task."""
    alike = [other for other in problems if other[0] == problem[0]]
    rest = [part for i, part in enumerate(problem) if i and len({other[i] for other in alike}) > 1]
    return ", ".join(filter(None, [problem[0], *rest]))


def labels_of(group, folder):
    """Method and preset of each run of a group, with its folder where two would be called alike."""
    labels = [
        ", ".join(filter(None, (run.summary["method"], run.summary["settings"].get("preset"))))
        for run in group
    ]
    return [
        label if labels.count(label) == 1 else f"{label}, {os.path.relpath(run.directory, folder)}"
        for label, run in zip(labels, group)
    ]


def means(run):
    """Means of the final figures, of seconds and of network evaluations over the images that have not failed."""
    rows = [choose(record, "final") for record in run.records.values()]
    found = {
        key: statistics.fmean(row[key] for row in rows)
        for key in FIGURES
        if all(key in row for row in rows)
    }
    return {
        **found,
        **{
            key: statistics.fmean(r[key] for r in run.records.values())
            for key in ("seconds", "network_evaluations")
        },
    }


def mark(cells):
    """Say of each figure in a column of cells whether it is the best or the second."""
    for key in METRICS:
        ranked = sorted(
            {round(c["means"][key], DECIMALS[key]) for c in cells if key in c["means"]},
            reverse=key not in LOWER_IS_BETTER,
        )
        for c in cells:
            place = (
                ranked.index(round(c["means"][key], DECIMALS[key]))
                if key in c["means"] and len(cells) > 1
                else 2
            )
            c["marks"][key] = ("best", "second", "")[min(place, 2)]


def embedded(path):
    """A small copy of a picture as a data: address, None if it is not there."""
    if not os.path.exists(path):
        return None
    small, content = Image.open(path).convert("RGB"), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.LANCZOS)
    small.save(content, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def thumbnails(run, names, which, folder):
    """The Copy of one picture of each of several images that are there."""
    at = link(os.path.relpath(run.directory, folder))
    files = [
        Copy(
            name,
            f"{at}/{link('images', name, f'{which}.png')}",
            embedded(picture(run.directory, name, which)),
        )
        for name in names
    ]
    return [one for one in files if one.content]


def front(cells):
    """A plot of PSNR over seconds, joined where nothing faster is as good; None where no three methods have PSNR."""
    cells = [cell for cell in cells if "psnr" in cell["means"]]
    if len(cells) < 3:
        return None
    x, y = ([cell["means"][key] for cell in cells] for key in ("seconds", "psnr"))
    by_time = sorted(range(len(x)), key=lambda i: (x[i], -y[i]))
    best = [i for n, i in enumerate(by_time) if all(y[i] > y[j] for j in by_time[:n])]
    return plot("psnr", "seconds an image", x, y, [str(cell["number"]) for cell in cells], best)


def cell_of(run, label, number, id, names, folder):
    """A method's part of a problem's section."""
    found = means(run)
    facts = [
        f"{found['psnr']:.2f} dB" if "psnr" in found else f"residual {found['residual']:.4f}",
        f"{found['network_evaluations']:.0f} evaluations",
        f"{found['seconds']:.1f} s",
        f"{len(run.records)} images" if len(run.records) > 1 else "",
    ]
    return {
        "label": label,
        "number": number,
        "id": id,
        "means": found,
        "marks": {},
        "facts": filter(None, facts),
        "report": os.path.exists(os.path.join(run.directory, "report.html"))
        and link(os.path.relpath(run.directory, folder), "report.html"),
        "pictures": thumbnails(run, names, "final" if "psnr" in found else "result", folder),
    }


def section_of(n, title, group, labels, numbers, folder):
    """A problem's part of the page: its methods' figures, their plot, and strips of the images that all of them have restored."""
    names = [name for name in group[0].records if all(name in run.records for run in group)][:SHOWN]
    cells = [
        cell_of(run, label, numbers[label], f"p{n}m{numbers[label]}", names, folder)
        for run, label in zip(group, labels)
    ]
    mark(cells)
    given = {
        label: thumbnails(group[0], names, which, folder)
        for label, which in (("measurement", "measurement"), ("truth", "origin"))
    }
    strips = [*given.items(), *((cell["label"], cell["pictures"]) for cell in cells)]
    options = [
        (
            name,
            [
                Picture(label, one.src)
                for label, copies in strips
                for one in copies
                if one.name == name
            ],
        )
        for name in names
    ]
    return {
        "title": title,
        "id": f"p{n}",
        "cells": cells,
        "options": [one for one in options if one[1]],
        "given": given,
        "front": front(cells),
        "known": any("psnr" in cell["means"] for cell in cells),
        **(shown_size(group[0].directory, names[0]) if names else {}),
    }


def write_runs(folder, runs):
    """report.html in a folder, of runs below it, side by side; returns its path, None if none of them has an image that has not failed."""
    sound = [
        run._replace(records={name: r for name, r in run.records.items() if "failed" not in r})
        for run in runs
    ]
    groups = {}
    for run in sound:
        if run.records:
            groups.setdefault(problem_of(run), []).append(run)
    if not groups:
        return None
    labels = {problem: labels_of(group, folder) for problem, group in groups.items()}
    methods = list(dict.fromkeys(label for group in labels.values() for label in group))
    numbers = {label: n for n, label in enumerate(methods, 1)}
    sections = [
        section_of(n, problem_title(problem, groups), group, labels[problem], numbers, folder)
        for n, (problem, group) in enumerate(groups.items())
    ]
    title = os.path.basename(os.path.abspath(folder))
    path = os.path.join(folder, "report.html")
    write_page(path, "table.html", title=title, sections=sections, numbers=numbers)
    return path


def write_report(folder):
    """report.html of a run's folder, or of all runs below a folder; returns its path. Raises UserError where there is neither."""
    if os.path.isdir(os.path.join(folder, "record")):
        return write_run(load_run(folder))
    path = write_runs(folder, runs_below(folder))
    if path is None:
        raise UserError(
            f"{folder}: has no finished run, nor has a folder below it; name the folder that a run says it wrote"
        )
    return path
