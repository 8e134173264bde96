"""Several samples of one measurement: the interval that they give for each value, and whether the truth lies in it as often as it says."""

import numpy as np
import torch
from scipy import stats

NOMINAL = (50, 83, 95)  # per cent of the true values that an interval is to hold
PERCENT = 83  # the one that is written and told: two deviations of a normal distribution from the mean of four draws hold as many
STEEP = 0.1  # the share of a picture's pixels that count as steep


def interval(samples, nominal=PERCENT):
    """(low, high), (3, H, W) each, in which a new draw, and so the truth, lies in `nominal` per cent of all values, if the samples,
    (K, 3, H, W), K >= 2, are draws from what the measurement leaves open and nearly normal: mean -+ t s sqrt(1 + 1 / K), Student's t."""
    count = len(samples)
    half = stats.t.ppf(0.5 + nominal / 200, count - 1) * (1 + 1 / count) ** 0.5 * samples.std(0)
    return samples.mean(0) - half, samples.mean(0) + half


def steep(truth):
    """The tenth of a picture's pixels, (H, W) bool, where its brightness changes most; truth: (C, H, W)."""
    down, right = torch.gradient(truth.mean(0))
    change = (down**2 + right**2).sqrt()
    return change >= change.flatten().quantile(1 - STEEP)


def ranks(samples, truth):
    """How often 0, 1 … K of the samples lie below the true value: K + 1 counts, all alike if samples are as the truth is. Of those that are equal
    to it, as at a picture's white, a part drawn at random counts."""
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    share = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)).to(truth.device)
    return torch.bincount(
        (below + (share * (equal + 1)).long()).flatten(), minlength=len(samples) + 1
    ).tolist()


def calibration(samples, truth, parts):
    """Figures of one picture, for its record. samples: (K, 3, H, W); truth: (3, H, W); parts: {"": all pixels, "_missing": …}, (H, W) bool.

    inside_<nominal><part>: the share of true values inside the interval; apart, error: the mean distance of two samples from each other, and of one
    from the truth, whose quotient is 1 if both are draws from the same; crps: the fair continuous ranked probability score, error - apart / 2
    (Ferro 2014), the smaller the better; ranks: see `ranks`.
    """
    count, figures = len(samples), {}
    parts = {**parts, "_steep": steep(truth)}
    for nominal in NOMINAL:
        low, high = interval(samples, nominal)
        inside = ((low <= truth) & (truth <= high)).double()
        figures.update(
            {
                f"inside_{nominal}{part}": inside[:, where].mean().item()
                for part, where in parts.items()
            }
        )
    order = torch.arange(1 - count, count, 2, device=samples.device)[:, None, None, None]
    apart = 2 * (order * samples.sort(0).values).sum(0).mean().item() / count / (count - 1)
    error = (samples - truth).abs().mean().item()
    return {
        **figures,
        "apart": apart,
        "error": error,
        "crps": error - apart / 2,
        "ranks": ranks(samples, truth),
    }


def summarised(found):
    """Means over pictures of their figures, a list of what `calibration` returns or {} where there is no truth."""
    found = [one for one in found if "ranks" in one]
    if not found:
        return {}
    keys = dict.fromkeys(key for one in found for key in one if key.startswith("inside_"))
    summary = {
        key: float(np.mean([one[key] for one in found if key in one])) for key in keys
    }  # a mask without a hole has nothing missing
    summary.update(
        {key: float(np.mean([one[key] for one in found])) for key in ("apart", "error", "crps")}
    )
    total = np.sum([one["ranks"] for one in found], axis=0)
    return {
        **summary,
        "spread_over_error": summary["apart"] / summary["error"],
        "ranks": total.tolist(),
    }
