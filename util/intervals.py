"""Intervals from several samples of one measurement, and their calibration against the truth."""

import numpy as np
import torch
from scipy.special import stdtrit

NOMINAL = (50, 83, 95)  # per cent of true values that intervals should contain
PERCENT = 83  # reported by default: for four samples, mean -+ two standard deviations (Student's t)
STEEP = 0.1  # the share of px with the steepest gradients


def interval(samples, nominal=PERCENT):
    """(low, high), (3, H, W) each: mean -+ t s sqrt(1 + 1 / K) of the samples, (K, 3, H, W), K >=
    2, with Student's t. Contains `nominal` per cent of true values if the samples are from a nearly
    normal posterior."""
    count = len(samples)
    half = stdtrit(count - 1, 0.5 + nominal / 200) * (1 + 1 / count) ** 0.5 * samples.std(0)
    return samples.mean(0) - half, samples.mean(0) + half


def steep(truth):
    """The px, (H, W) bool, of the largest brightness gradients, a share STEEP; truth: (C, H, W)."""
    down, right = torch.gradient(truth.mean(0))
    change = (down**2 + right**2).sqrt()
    return change >= change.flatten().quantile(1 - STEEP)


def ranks(samples, truth):
    """The rank histogram: how often 0, 1 … K samples are below the true value, K + 1 counts;
    uniform if samples and truth have the same distribution. Ties are broken at random."""
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    share = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)).to(truth.device)
    rank = below + (share * (equal + 1)).long()
    return torch.bincount(rank.flatten(), minlength=len(samples) + 1).tolist()


def calibration(samples, truth, regions):
    """Figures of one image, for its record. samples: (K, 3, H, W); truth: (3, H, W); regions: {"":
    all px, "_missing": …}, (H, W) bool.

    inside_<nominal><region>: the share of true values in the interval; apart, error: mean absolute
    difference of two samples, and of sample and truth, equal if both have the same distribution;
    crps: the fair continuous ranked probability score, error - apart / 2 (Ferro 2014), lower is
    better; ranks: see `ranks`.
    """
    count, figures = len(samples), {}
    regions = {**regions, "_steep": steep(truth)}
    for nominal in NOMINAL:
        low, high = interval(samples, nominal)
        inside = ((low <= truth) & (truth <= high)).double()
        for region, where in regions.items():
            figures[f"inside_{nominal}{region}"] = inside[:, where].mean().item()
    order = torch.arange(1 - count, count, 2, device=samples.device)[:, None, None, None]
    apart = 2 * (order * samples.sort(0).values).sum(0).mean().item() / count / (count - 1)
    error = (samples - truth).abs().mean().item()
    figures.update({"apart": apart, "error": error, "crps": error - apart / 2})
    return {**figures, "ranks": ranks(samples, truth)}


def summarised(figures):
    """Means over images of figures by `calibration`, a list; {} without a truth."""
    figures = [one for one in figures if "ranks" in one]
    if not figures:
        return {}
    inside = [key for one in figures for key in one if key.startswith("inside_")]
    keys = dict.fromkeys([*inside, "apart", "error", "crps"])  # "_missing" only with holes
    summary = {key: float(np.mean([one[key] for one in figures if key in one])) for key in keys}
    summary["spread_over_error"] = summary["apart"] / summary["error"]
    return {**summary, "ranks": np.sum([one["ranks"] for one in figures], axis=0).tolist()}
