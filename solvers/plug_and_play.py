"""Restoration with the network as a denoiser, without its gradient."""

import torch

from solvers.posterior import has_equal_channels


@torch.no_grad()
def plug_and_play(g, task, z, sigmas, data_step, on_step):
    """Half-quadratic splitting with a network as the denoiser (DPIR: Zhang et al., TPAMI 2021).

    z: (B, 3, H, W), denoised first; sigmas: falling noise levels in units of [-1, 1];
    data_step(x0_hat, sigma_t): called between two of them. Returns (B, 3, H, W).
    """
    for step, sigma_t in enumerate(sigmas):
        x = g.denoised(z, sigma_t)
        if step + 1 < len(sigmas):
            z = data_step(x, sigma_t)
        on_step(step + 1, len(sigmas), (task.operator(x) - task.y).square().sum())
    return x


@torch.no_grad()
def denoised(g, y, sigma, samples):
    """The posterior mean given y, (B, 3, H, W), with noise sigma in each channel, by one NFE.

    The noise of a grey image is equal in all channels, but the network expects independent noise.
    y is therefore treated as the mean of three channels with independent noise sqrt(3) sigma, whose
    differences are sampled `samples` times in antithetic pairs, and the results are averaged. Grey
    and colour images can share a batch.
    """
    grey = has_equal_channels(y)
    if not grey.any():
        return g.denoised(y, sigma)
    x, grey_y, in_each = torch.zeros_like(y), y[grey], 3**0.5 * sigma
    if not grey.all():
        x[~grey] = g.denoised(y[~grey], sigma)
    for k in range(samples):
        if k % 2 == 0:
            colours = g.rng.randn(y.shape[1:], y.device)[grey]
            colours = in_each * (colours - colours.mean(1, keepdim=True))
        x[grey] += g.denoised(grey_y + (-1) ** k * colours, in_each) / samples
    return x
