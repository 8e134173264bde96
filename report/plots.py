"""Plots of tables and benchmarks. matplotlib is imported only when one is made."""

import itertools
import os

import numpy as np

from util.files import UserError, atomic

MARKERS, LINES = "os^Dv<>P*Xph", ("-", "--", "-.", ":")


def new_figure(width, height, **options):
    """A figure without a window, whatever backend MPLBACKEND names. Raises UserError if matplotlib
    finds no folder for its caches."""
    backend = os.environ.pop("MPLBACKEND", None)  # a notebook's may be unknown here
    try:
        from matplotlib.figure import Figure
    except OSError as error:
        raise UserError(
            "matplotlib finds no folder that it can write to; set MPLCONFIGDIR to one"
        ) from error
    finally:
        os.environ.update({} if backend is None else {"MPLBACKEND": backend})
    return Figure((width, height), **options)


def styles():
    """A marker and a line style for each of any number of curves."""
    return (
        {"marker": marker, "linestyle": line}
        for marker, line in zip(itertools.cycle(MARKERS), itertools.cycle(LINES))
    )


def save(figure, path):
    with atomic(path) as tmp:
        figure.savefig(tmp, dpi=90)


def convergence(path, groups):
    """Mean PSNR (above) and residual (below) over NFE, one column per group.

    groups: {title: {label: records}}.
    """
    figure = new_figure(3.6 * len(groups), 6)
    panels = figure.subplots(2, len(groups), squeeze=False)
    for (title, curves), (above, below) in zip(groups.items(), panels.T):
        above.set(title=title, ylabel="PSNR (dB)")
        below.set(xlabel="NFE per image", ylabel="residual (RMS)")
        for label, records in curves.items():
            for panel, key in ((above, "psnr"), (below, "residual")):
                if key in records[0]:  # no PSNR without a ground truth
                    means = np.mean([record[key] for record in records], axis=0)
                    panel.plot(records[0]["nfe"], means, marker="o", markersize=3, label=label)
        above.grid(alpha=0.3)
        below.grid(alpha=0.3)
        if above.lines:
            above.legend(fontsize=7)
    figure.tight_layout()
    save(figure, path)


def convergence_of_seeds(path, groups):
    """PSNR (above) and residual (below) over NFE and over seconds, two columns per group, one line
    per seed, labelled at the end of the first.

    groups: {title: {label: [curve of each seed]}}; a curve: [(NFE, seconds, PSNR, residual)].
    """
    axes = ("NFE", "seconds")
    figure = new_figure(3.6 * len(axes) * len(groups), 6, layout="constrained")
    panels = figure.subplots(2, len(axes) * len(groups), squeeze=False, sharey="row")
    for n, (title, curves) in enumerate(groups.items()):
        for along, name in enumerate(axes):
            column = panels[:, len(axes) * n + along]
            column[0].set(title=title)
            column[1].set(xlabel=f"{name} per image", yscale="log")
            for colour, (label, seeds) in enumerate(curves.items()):
                for seed, curve in enumerate(seeds):
                    values = np.array(curve)
                    for panel, key in zip(column, (2, 3)):
                        style = {"color": f"C{colour}", "linewidth": 1, "marker": ".", "alpha": 0.7}
                        panel.plot(values[:, along], values[:, key], **style)
                        if seed == 0:
                            text = {"color": f"C{colour}", "fontsize": 7, "ha": "right"}
                            panel.annotate(label, values[-1, [along, key]], **text)
            for panel in column:
                panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("PSNR (dB)")
    panels[1][0].set_ylabel("residual (RMS)")
    save(figure, path)


def quality(path, groups):
    """PSNR (above) and LPIPS (below) over seconds, one column per group and one point per method.

    A grey line follows the best value within each time. groups: {title: {label: {"seconds": …,
    "psnr": …, "lpips": …}}}.
    """
    from matplotlib import ticker

    figure = new_figure(3.8 * len(groups), 7.2, layout="constrained")
    panels = figure.subplots(2, len(groups), squeeze=False, sharey="row")
    names = dict.fromkeys(label for points in groups.values() for label in points)
    styled = {
        label: {"linestyle": "none", "marker": one["marker"], "alpha": 0.8, "color": f"C{n % 10}"}
        for n, (label, one) in enumerate(zip(names, styles()))
    }
    handles = {}
    for (title, points), column in zip(groups.items(), panels.T):
        column[0].set(title=title)
        for panel, key, best in zip(column, ("psnr", "lpips"), (np.maximum, np.minimum)):
            panel.set(xlabel="seconds per image", xscale="log")
            panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
            panel.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
            panel.xaxis.set_minor_formatter(ticker.NullFormatter())
            panel.grid(alpha=0.3)
            for label, row in points.items():
                (handles[label],) = panel.plot(row["seconds"], row[key], **styled[label])
            seconds, values = np.array(sorted((r["seconds"], r[key]) for r in points.values())).T
            style = {"where": "post", "color": "grey", "linewidth": 1, "zorder": 0}
            panel.step(seconds, best.accumulate(values), **style)
    panels[0][0].set_ylabel("PSNR (dB) ↑")
    panels[1][0].set(ylabel="LPIPS ↓", yscale="log")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=2 * len(groups)
    )
    save(figure, path)


def calibration(path, groups):
    """Rank histograms, one panel per group and one curve per method; calibrated samples are at 1.

    groups: {title: {label: counts}}, counts[k]: how often k samples are below the true value.
    """
    figure = new_figure(3.8 * len(groups), 3.8, layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False, sharey="row")[0]
    for panel, (title, curves) in zip(panels, groups.items()):
        panel.set(title=title, xlabel="samples below the true value", yscale="log")
        for (label, counts), style in zip(curves.items(), styles()):
            panel.plot(np.array(counts) / np.mean(counts), label=label, **style, markersize=4)
        panel.axhline(1, color="grey", linewidth=1, zorder=0)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("relative frequency (calibrated: 1)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    save(figure, path)
