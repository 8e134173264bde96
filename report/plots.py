"""The plots of tables and benchmarks, from records: {"psnr": […], "evaluations": […], …} of each image (`experiment.recorder`)."""

import itertools

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from util.files import atomic

MARKERS, LINES = "os^Dv<>P*Xph", ("-", "--", "-.", ":")


def styles():
    """A marker and a line for each of any number of curves."""
    return (
        {"marker": marker, "linestyle": line}
        for marker, line in zip(itertools.cycle(MARKERS), itertools.cycle(LINES))
    )


def save(figure, path):
    with atomic(path) as tmp:
        figure.savefig(tmp, dpi=90)


def convergence(path, groups):
    """A column a group, PSNR above, residual below, both means over the images. groups: {title: {label: records}}."""
    figure = Figure((3.6 * len(groups), 6))
    panels = figure.subplots(2, len(groups), squeeze=False)
    for (title, curves), (above, below) in zip(groups.items(), panels.T):
        above.set(title=title, ylabel="PSNR (dB)")
        below.set(xlabel="network evaluations an image", ylabel="residual (RMS)")
        for label, records in curves.items():
            for panel, key in ((above, "psnr"), (below, "residual")):
                if key in records[0]:  # without a truth there is no PSNR
                    means = np.mean([record[key] for record in records], axis=0)
                    panel.plot(
                        records[0]["evaluations"], means, marker="o", markersize=3, label=label
                    )
        above.grid(alpha=0.3)
        below.grid(alpha=0.3)
        if above.lines:
            above.legend(fontsize=7)
    figure.tight_layout()
    save(figure, path)


def quality(path, groups):
    """A column a group, PSNR over seconds above, LPIPS over seconds below: a point a curve, and the front of those that no other one is better
    than in fewer seconds. groups: {title: {label: {"seconds": …, "psnr": …, "lpips": …}}}."""
    figure = Figure((3.8 * len(groups), 7.2), layout="constrained")
    panels = figure.subplots(2, len(groups), squeeze=False, sharey="row")
    for (title, curves), column in zip(groups.items(), panels.T):
        column[0].set(title=title)
        for panel, key, best in zip(column, ("psnr", "lpips"), (np.maximum, np.minimum)):
            panel.set(xlabel="seconds an image", xscale="log")
            panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
            panel.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
            panel.xaxis.set_minor_formatter(ticker.NullFormatter())
            panel.grid(alpha=0.3)
            for (label, row), style in zip(curves.items(), styles()):
                panel.plot(
                    row["seconds"],
                    row[key],
                    linestyle="none",
                    marker=style["marker"],
                    label=label,
                    alpha=0.8,
                )
            seconds, values = np.array(
                sorted((row["seconds"], row[key]) for row in curves.values())
            ).T
            panel.step(
                seconds, best.accumulate(values), where="post", color="grey", linewidth=1, zorder=0
            )
    panels[0][0].set_ylabel("PSNR (dB) ↑")
    panels[1][0].set(ylabel="LPIPS ↓", yscale="log")
    figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * len(groups)
    )
    save(figure, path)


def calibration(path, groups):
    """A panel a group: how often so many of the samples lie below the truth, a curve a method, and the level line of samples that are drawn as
    the truth is. groups: {title: {label: counts}}."""
    figure = Figure((3.8 * len(groups), 3.8), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False, sharey="row")[0]
    for panel, (title, curves) in zip(panels, groups.items()):
        panel.set(title=title, xlabel="samples below the true value", yscale="log")
        for (label, counts), style in zip(curves.items(), styles()):
            panel.plot(np.array(counts) / np.mean(counts), label=label, **style, markersize=4)
        panel.axhline(1, color="grey", linewidth=1, zorder=0)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("how often, 1: as it should be")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    save(figure, path)


def spread(path, deviation):
    """The standard deviation of several restorations by pixel, (H, W) in units of [-1, 1], in 255ths of the range, with its scale."""
    figure = Figure((4.6, 3.9), layout="constrained")
    panel = figure.subplots()
    figure.colorbar(
        panel.imshow(127.5 * deviation, cmap="viridis", vmin=0), label="standard deviation, of 255"
    )
    panel.set_axis_off()
    save(figure, path)
