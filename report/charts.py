"""SVG charts of a page: axes, points and labels in px, for templates/macros.html."""

import math
import statistics

from report.records import iterate_labels

WIDTH, HEIGHT, LEFT, BOTTOM, MARGIN = 340, 190, 52, 34, 10
TITLES = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips_alex": "LPIPS", "residual": "residual"}
CHART = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - MARGIN, "top": MARGIN}
CHART["bottom"] = HEIGHT - BOTTOM


def round_steps(low, high):
    """A few round numbers from low to high."""
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step *= max((factor for factor in (1, 2, 5) if (high - low) / (factor * step) >= 2), default=1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def decades(low, high):
    """1, 3, 10, 30, … from low to high, both positive."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [n for e in exponents for n in (10.0**e, 3 * 10.0**e) if low <= n <= high]


def axis(values, start, end, logarithmic):
    """(position, ticks): a function from value to px between start and end, and [(px, text)].

    logarithmic: used only if the values span more than a factor of five. The range has a minimum
    width, so that negligible changes are not magnified.
    """
    low, high = min(values), max(values)
    logarithmic = logarithmic and 0 < 5 * low < high
    if logarithmic:
        low, high, scale = low / 1.3, high * 1.3, math.log
    else:
        room = 0.15 * (high - low) + 0.02 * abs(high) or 1
        low, high, scale = low - room, high + room, float

    def position(value):
        share = (scale(value) - scale(low)) / (scale(high) - scale(low))
        return round(start + (end - start) * share, 1)

    ticks = (decades if logarithmic else round_steps)(low, high)
    return position, [(position(n), f"{n:.4g}") for n in ticks]


def chart(key, x_title, x, y, names, line=None):
    """A chart of the points (x, y) with their names, "" for none.

    line: indices of the points that the line joins, all by default.
    """
    across, x_ticks = axis(x, LEFT, WIDTH - MARGIN, x_title != "NFE")
    up, y_ticks = axis(y, HEIGHT - BOTTOM, MARGIN, key == "residual")
    points = [{"x": across(a), "y": up(b), "name": name} for a, b, name in zip(x, y, names)]
    named = [point for point in points if point["name"]]
    for point in named:
        # Below the lower named points; a single name is put where the line does not pass.
        others = [other["y"] for other in named if other is not point] or [points[-2:][0]["y"]]
        point["below"] = (point["y"], point is not named[-1]) > (statistics.fmean(others), False)
    return {
        "title": TITLES[key],
        "x_title": x_title,
        "points": points,
        "line": points if line is None else [points[i] for i in line],
        "x_ticks": x_ticks,
        "y_ticks": y_ticks,
        "from_to": f"{y[0]:.4g} to {y[-1]:.4g}" if line is None else "",
    }


def curves(record):
    """Charts over NFE at the ends of outer iterations: PSNR, if there is one, and residual."""
    ends_outer = record["ends_outer"] or [True] * len(record["iterates"])
    ends = [i for i, end in enumerate(ends_outer) if end]
    labels = iterate_labels(record) if "psnr" in record else {}
    nfe, names = [record["nfe"][i] for i in ends], [labels.get(i, "") for i in ends]
    return [
        chart(key, "NFE", nfe, [record[key][i] for i in ends], names)
        for key in ("psnr", "residual")
        if len(ends) > 1 and key in record
    ]
