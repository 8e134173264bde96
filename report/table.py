"""The page of several runs: a table of methods by problems, and their pictures side by side."""

import base64
import io
import os
from collections import namedtuple

from PIL import Image

from report.charts import chart
from report.markup import DECIMALS, Picture, link, size_of, slider_size, write_page
from report.records import METRICS, before_file, is_known, means, picture, restored_file
from util.images import listed

PREVIEWS = 8  # images per problem
THUMBNAIL = 160  # px, longer side of the embedded copies

Copy = namedtuple("Copy", "name src content")  # an image's name, address and embedded copy


def problem_of(run):
    """What a run has to solve: (task, dataset, images, sigma if set)."""
    settings = run.summary["settings"]
    images = settings.get("data", "") if is_known(run) else listed(list(run.records))
    sigma = f"sigma {settings['sigma']}" if settings.get("sigma") else ""
    return run.summary["task"], run.summary["dataset"], images, sigma


def problem_title(problem, problems):
    """The task, and what distinguishes the problem from others of the same task."""
    alike = [other for other in problems if other[0] == problem[0]]
    rest = [one for i, one in enumerate(problem) if i and len({other[i] for other in alike}) > 1]
    return ", ".join(filter(None, [problem[0], *rest]))


def labels_of(group, folder):
    """Each run's "method, preset", with its folder where two are the same."""
    names = [(run.summary["method"], run.summary["settings"].get("preset")) for run in group]
    labels = [", ".join(filter(None, name)) for name in names]
    return [
        label if labels.count(label) == 1 else f"{label}, {os.path.relpath(run.top, folder)}"
        for label, run in zip(labels, group)
    ]


def mark(cells):
    """Mark the best and the second best figures of a problem's cells."""
    for key, digits in ((key, DECIMALS[key]) for key in METRICS if len(cells) > 1):
        values = [round(c["means"][key], digits) for c in cells if key in c["means"]]
        ranked = sorted(set(values), reverse=key != "lpips_alex")
        for c, value in zip((c for c in cells if key in c["means"]), values):
            c["marks"][key] = dict(zip(ranked, ("best", "second"))).get(value, "")


def embedded(path):
    """A small copy of a picture as a data: address, None if it is missing."""
    if not os.path.exists(path):
        return None
    small, content = Image.open(path).convert("RGB"), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.LANCZOS)
    small.save(content, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def copies(paths, folder):
    """The Copies of those pictures {image: path} that exist."""
    made = [Copy(name, link(path, folder), embedded(path)) for name, path in paths.items()]
    return [one for one in made if one.content]


def front(cells):
    """A chart of PSNR over seconds for three methods or more, else None.

    The line joins the methods that no faster one equals.
    """
    cells = [cell for cell in cells if "psnr" in cell["means"]]
    if len(cells) < 3:
        return None
    x, y = ([cell["means"][key] for cell in cells] for key in ("seconds", "psnr"))
    by_time = sorted(range(len(x)), key=lambda i: (x[i], -y[i]))
    best = [i for n, i in enumerate(by_time) if all(y[i] > y[j] for j in by_time[:n])]
    return chart("psnr", "seconds per image", x, y, [str(cell["number"]) for cell in cells], best)


def output_file(run, name):
    """The path of the picture by which a run is compared with others."""
    return picture(run.directory, name, "final") if is_known(run) else restored_file(run, name)


def cell_of(run, label, number, id, names, folder):
    """A method's results on a problem."""
    mean, page = means(run.records.values()), os.path.join(run.top, "report.html")
    facts = [f"{mean['psnr']:.2f} dB"] if is_known(run) else []
    facts += [f"{mean['nfe_total']:.0f} NFE", f"{mean['seconds']:.1f} s"]
    facts += [f"{len(run.records)} images"] if len(run.records) > 1 else []
    return dict(
        label=label,
        number=number,
        id=id,
        means=mean,
        marks={},
        facts=facts,
        report=os.path.exists(page) and link(page, folder),
        pictures=copies({name: output_file(run, name) for name in names}, folder),
    )


def section_of(n, title, group, labels, numbers, folder):
    """A problem's section: figures, chart, and pictures of the images that all methods restored."""
    first, known = group[0], is_known(group[0])
    names = [name for name in first.records if all(name in run.records for run in group)][:PREVIEWS]
    cells = [
        cell_of(run, label, numbers[label], f"p{n}m{numbers[label]}", names, folder)
        for run, label in zip(group, labels)
    ]
    mark(cells)
    if known:
        given = {"measurement": "measurement", "ground truth": "origin"}
        paths = {k: {n: picture(first.directory, n, w) for n in names} for k, w in given.items()}
    else:
        paths = {"before": {name: before_file(first, name) for name in names}}
    given = {label: copies(of_label, folder) for label, of_label in paths.items()}
    strips = [*given.items(), *((cell["label"], cell["pictures"]) for cell in cells)]
    options = {name: [] for name in names}
    for label, one in ((label, one) for label, strip in strips for one in strip):
        options[one.name].append(Picture(label, one.src))
    return dict(
        slider_size(size_of(output_file(first, names[0])) if names else None),
        title=title,
        id=f"p{n}",
        cells=cells,
        options=[one for one in options.items() if one[1]],
        given=given,
        front=front(cells),
        known=known,
    )


def write_runs(folder, runs):
    """report.html in a folder, with the runs below it side by side; returns its path.

    None if every image of every run has failed.
    """
    groups = {}
    for run in runs:
        sound = {name: r for name, r in run.records.items() if "failed" not in r}
        if sound:
            run = run._replace(records=sound)
            groups.setdefault(problem_of(run), []).append(run)
    if not groups:
        return None
    labels = {problem: labels_of(group, folder) for problem, group in groups.items()}
    methods, about = {}, {}  # both by label
    for problem, group in groups.items():
        for label, run in zip(labels[problem], group):
            methods.setdefault(label, len(methods) + 1)
            about.setdefault(label, run.summary.get("about", ""))
    sections = [
        section_of(n, problem_title(problem, groups), group, labels[problem], methods, folder)
        for n, (problem, group) in enumerate(groups.items())
    ]
    title = os.path.basename(os.path.abspath(folder))
    path = os.path.join(folder, "report.html")
    write_page(path, "table.html", title=title, sections=sections, numbers=methods, about=about)
    return path
