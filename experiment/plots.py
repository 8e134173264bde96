"""The plots of tables and benchmarks, from records: {"psnr": […], "evaluations": […], …} of each image (`experiment.recorder`)."""
import itertools

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from util.files import atomic

MARKERS, LINES = "os^Dv<>P*Xph", ("-", "--", "-.", ":")


def styles():
    """A marker and a line for each of any number of curves."""
    return ({"marker": marker, "linestyle": line} for marker, line in zip(itertools.cycle(MARKERS), itertools.cycle(LINES)))


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
                    panel.plot(records[0]["evaluations"], means, marker="o", markersize=3, label=label)
        above.grid(alpha=0.3)
        below.grid(alpha=0.3)
        if above.lines:
            above.legend(fontsize=7)
    figure.tight_layout()
    save(figure, path)


def quality(path, groups):
    """A column a group, PSNR against network evaluations above, against seconds below. groups: {title: {label: records}}."""
    figure = Figure((3.8 * len(groups), 6.4), layout="constrained")
    panels = figure.subplots(2, len(groups), squeeze=False, sharey=True)
    for (title, curves), column in zip(groups.items(), panels.T):
        for panel, cost in zip(column, ("network evaluations", "seconds")):
            panel.set(title=title, xlabel=f"{cost} an image", xscale="log")
            panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
            panel.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
            panel.xaxis.set_minor_formatter(ticker.NullFormatter())
            panel.grid(alpha=0.3)
        for (label, records), style in zip(curves.items(), styles()):
            # DMILO-PGD also records what it projects, which the next iterate leaves far behind.
            ends = np.flatnonzero(records[0]["ends_outer"])
            curve = {key: np.mean([record[key] for record in records], axis=0)[ends] for key in ("psnr", "evaluations", "elapsed")}
            for panel, cost in zip(column, ("evaluations", "elapsed")):
                if records[0]["network_evaluations"] == 0:
                    panel.axhline(curve["psnr"][-1], color="grey", linestyle=style["linestyle"], label=label)
                else:
                    panel.plot(curve[cost], curve["psnr"], markersize=4, alpha=0.8, label=label, **style)
    for panel in panels[:, 0]:
        panel.set_ylabel("PSNR (dB)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * len(groups))
    save(figure, path)


def perception(path, groups):
    """A panel a group: LPIPS over PSNR of the last iterates, a point a curve; right and low is good. groups: {title: {label: records}}."""
    figure = Figure((3.8 * len(groups), 3.9), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False)
    for (title, curves), panel in zip(groups.items(), panels[0]):
        panel.set(title=title, xlabel="PSNR (dB) →")
        panel.grid(alpha=0.3)
        for (label, records), style in zip(curves.items(), styles()):
            psnr, lpips = (np.mean([record[key][-1] for record in records]) for key in ("psnr", "lpips_alex"))
            panel.plot(psnr, lpips, linestyle="none", marker=style["marker"], label=label, alpha=0.8)
    panels[0][0].set_ylabel("LPIPS ↓")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2 * len(groups))
    save(figure, path)


def spread(path, deviation):
    """The standard deviation of several restorations by pixel, (H, W) in units of [-1, 1], with the scale that its colours mean."""
    figure = Figure((4.6, 3.9), layout="constrained")
    panel = figure.subplots()
    figure.colorbar(panel.imshow(deviation, cmap="viridis", vmin=0), label="standard deviation, pictures in [-1, 1]")
    panel.set_axis_off()
    save(figure, path)
