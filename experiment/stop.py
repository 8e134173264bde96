"""Where a run could have stopped without knowing the truth: rules that choose one of its iterates by what is left of the measurement."""

import torch

LIMIT = 1.05  # of sigma: a residual as large as the noise, and its own scatter
REACH = 4  # pixels, the farthest that a residual is compared with itself


def misfit(residual, mask):
    """The RMS of A(X) - y, (B, …), of each image, (B,); with a mask (B, 1, H, W), 0 where nothing was measured, over what was."""
    if mask is None:
        return residual.flatten(1).square().mean(1).sqrt()
    return (
        (residual * mask).flatten(1).square().sum(1) / mask.expand_as(residual).flatten(1).sum(1)
    ).sqrt()


def structure(residual, mask):
    """How far A(X) - y, (B, C, H, W), is from white, (B,): the sum of squared correlations between it and itself up to REACH pixels away,
    pairs of measured pixels alone. Noise alone has none; a picture that explains too little leaves edges. Whatever is no picture: 0.

    Source: Almeida & Figueiredo 2013, whiteness measures. It needs no sigma.
    """
    if residual.dim() != 4 or min(residual.shape[-2:]) <= 2 * REACH:
        return residual.new_zeros(len(residual))
    known = torch.ones_like(residual) if mask is None else mask.expand_as(residual)
    share = known.flatten(1).mean(1)[:, None, None, None]
    centred = (residual - (residual * known).mean((1, 2, 3), keepdim=True) / share) * known
    power = [torch.fft.fft2(x, s=[side + REACH for side in x.shape[-2:]]) for x in (centred, known)]
    correlation, pairs = (torch.fft.ifft2(x.abs().square()).real.sum(1) for x in power)
    variance = correlation[:, :1, :1] / pairs[:, :1, :1]
    normal = correlation / pairs.clamp(min=1) / variance.clamp(min=1e-20)
    near = torch.cat(
        [
            normal[:, : REACH + 1, : REACH + 1].flatten(1),
            normal[:, 1 : REACH + 1, -REACH:].flatten(1),
        ],
        1,
    )
    return near.square().sum(1) - 1


def by_discrepancy(record, ends):
    """The first of the iterates `ends` whose misfit is at most LIMIT sigma (Morozov), None if there is none."""
    return next((i for i in ends if record["misfit"][i] <= LIMIT * record["sigma"]), None)


def by_whiteness(record, ends):
    """That of the iterates `ends` which leaves the least structure."""
    return min(ends, key=lambda i: record["structure"][i])


RULES = {"discrepancy": by_discrepancy, "whiteness": by_whiteness}


def stop(record, rule, single):
    """(the iterate that `rule` chooses, was it reached?). The last iterate where the rule never holds, and of a mean of several searches
    (single: False), which is not complete before. What ends no outer iteration is no choice."""
    ends = [i for i, end in enumerate(record["ends_outer"]) if end]
    found = None if not ends else RULES[rule](record, ends) if single else ends[-1]
    return (len(record["iterates"]) - 1, False) if found is None else (found, True)
