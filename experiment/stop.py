"""Stopping rules without ground truth: which iterate to choose, from its residual A(x) - y."""

import torch

from util.files import UserError

LIMIT = 1.05  # times sigma: a residual as large as the noise, plus its own scatter
REACH = 4  # px: the largest offset of the residual's autocorrelation


def misfit(residual, mask):
    """RMS of residuals A(x) - y, (B, …), of each image, (B,); with a mask, (B, 1, H, W), over its
    measured px (1) only."""
    if mask is None:
        return residual.flatten(1).square().mean(1).sqrt()
    squares = (residual * mask).flatten(1).square().sum(1)
    return (squares / mask.expand_as(residual).flatten(1).sum(1)).sqrt()


def is_picture(y):
    """Whether measurements, (B, …), have the rows and columns that `structure` needs."""
    return y.dim() == 4 and min(y.shape[-2:]) > 2 * REACH


def refuse_rule(rule, y):
    """Raise UserError where `rule` cannot judge the residuals of measurements y, (B, …)."""
    if rule == "whiteness" and not is_picture(y):
        raise UserError(
            f"--stop whiteness: compares neighbouring px, but y, {tuple(y.shape[1:])}, is no "
            f"picture of more than {2 * REACH} px a side; leave the option out"
        )


def structure(residual, mask):
    """How far residuals, (B, C, H, W), are from white noise, (B,).

    The sum of squared autocorrelations up to REACH px, over pairs of measured px. It is near zero
    for noise; an estimate that fits y too little leaves edges. 0 for residuals that are no images.

    Source: Almeida & Figueiredo 2013, whiteness measures. It does not need sigma.
    """
    if not is_picture(residual):
        return residual.new_zeros(len(residual))
    known = torch.ones_like(residual[:1]) if mask is None else mask.expand_as(residual)
    share = known.flatten(1).mean(1)[:, None, None, None]
    centred = (residual - (residual * known).mean((1, 2, 3), keepdim=True) / share) * known
    variance = correlation(centred, 0, 0) / correlation(known, 0, 0)
    total = 0
    for down in range(REACH + 1):
        for right in range(-REACH if down else 1, REACH + 1):
            pairs = correlation(known, down, right).clamp(min=1)
            normal = correlation(centred, down, right) / pairs / variance.clamp(min=1e-20)
            total = total + normal.square()
    return total


def correlation(x, down, right):
    """Sums over pairs of px, `right` columns and `down` rows apart, of their products, (B,)."""
    width = x.shape[-1]
    one = x[..., : x.shape[-2] - down, max(0, -right) : width - max(0, right)]
    other = x[..., down:, max(0, right) : width + min(0, right)]
    return (one * other).flatten(1).sum(1)


def by_discrepancy(record, ends):
    """The first iterate of `ends` whose misfit is at most LIMIT sigma (Morozov's discrepancy
    principle), None if there is none."""
    return next((i for i in ends if record["misfit"][i] <= LIMIT * record["sigma"]), None)


def by_whiteness(record, ends):
    """The iterate of `ends` with the whitest residual."""
    return min(ends, key=lambda i: record["structure"][i])


RULES = {"discrepancy": by_discrepancy, "whiteness": by_whiteness}


def stop(record, rule, single):
    """(index of the iterate that `rule` chooses, whether the rule was satisfied).

    It is the last iterate if the rule never holds, and (single: False) for a mean of several
    searches, which is incomplete before. Only iterates that end an outer iteration are eligible.
    """
    ends = [i for i, end in enumerate(record["ends_outer"]) if end]
    chosen = None if not ends else RULES[rule](record, ends) if single else ends[-1]
    return (len(record["iterates"]) - 1, False) if chosen is None else (chosen, True)
