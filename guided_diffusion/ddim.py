"""The few-step DDIM sampler as a chain of layers: x = g_{N-1}(… g_1(g_0(z_0))).

Source: Song et al., "Denoising Diffusion Implicit Models", ICLR 2021, eq. 12, with the timesteps
and the clipping of the published DMILO code (StarNextDay/DMILO, ddim_sampler.py).
"""

import bisect
import math
from collections import namedtuple
from functools import partial

import torch

from guided_diffusion.errors import default_errors

TRAINING_STEPS = 1000


def linear_alphas_cumprod():
    """abar_t = prod_{s <= t} (1 - beta_s) for the linear schedule 1e-4 … 0.02: (1000,) float32."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, TRAINING_STEPS, dtype=torch.float32), dim=0)


ABAR = linear_alphas_cumprod().tolist()


def chain_timesteps(steps):
    """The timesteps of a chain of `steps` layers, noisiest first: 3 -> [999, 666, 333], 4 -> [999,
    750, 500, 250]. Raises ValueError unless 1 <= steps <= 1000."""
    if not 1 <= steps <= TRAINING_STEPS:
        raise ValueError(f"the number of DDIM steps must be in 1 … {TRAINING_STEPS}, not {steps}")
    stride = TRAINING_STEPS // steps
    return [min(stride * k, TRAINING_STEPS - 1) for k in range(steps, 0, -1)]


def predict_x0(x, eps, abar):
    """x0_hat = (x - sqrt(1 - abar) eps) / sqrt(abar), clipped to [-1, 1]; all (B, 3, H, W)."""
    return ((x - (1 - abar) ** 0.5 * eps) / abar**0.5).clamp(-1, 1)


def ddim_step(x, eps, abar, abar_prev, eta=0.0, noise=None):
    """One DDIM update from `abar` to `abar_prev`: x0_hat is clipped to [-1, 1] and eps derived from
    it again. x, eps, noise (read if eta > 0): (B, 3, H, W). Returns (B, 3, H, W)."""
    x0 = predict_x0(x, eps, abar)
    eps = (x - abar**0.5 * x0) / (1 - abar) ** 0.5
    variance = eta**2 * (1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)
    x_prev = abar_prev**0.5 * x0 + (1 - abar_prev - variance) ** 0.5 * eps
    return x_prev + variance**0.5 * noise if eta > 0 else x_prev


# A layer: its timestep in 0 … 999, and abar before and after its update.
Timestep = namedtuple("Timestep", "t abar abar_prev")


def timestep_of(sigma):
    """The Timestep at which the noise has standard deviation sigma relative to an image in [-1, 1],
    (1 - abar) / abar = sigma^2; t is fractional and clamped to 0 … 999."""
    sigmas = [((1 - abar) / abar) ** 0.5 for abar in ABAR]
    after = min(max(bisect.bisect(sigmas, sigma), 1), TRAINING_STEPS - 1)
    low, high = sigmas[after - 1], sigmas[after]
    share = math.log(max(sigma, 1e-9) / low) / math.log(high / low)
    return Timestep(after - 1 + min(max(share, 0.0), 1.0), 1 / (1 + sigma**2), 1.0)


def even_sigmas(steps, last, top=0.0, denser=1.0):
    """`steps` decreasing noise levels from `top` (0: the training's largest) to `last`, a list.

    Their timesteps are evenly spaced, or denser near the end: the k-th of n is (1 - k / n)^denser
    of the way from there.
    """
    first, end = timestep_of(top).t if top else TRAINING_STEPS - 1, timestep_of(last).t
    timesteps = (end + (first - end) * (1 - k / max(1, steps - 1)) ** denser for k in range(steps))
    return [((1 - ABAR[round(t)]) / ABAR[round(t)]) ** 0.5 for t in timesteps]


class Chain:
    """The layers g_0 … g_{N-1} over a batch: `g = Chain(model, 3, rng)`, then `len(g)`, `g[i](z)`.

    model: eps(x, t), see `create_model`. steps: DDIM steps; layers: how many of the last ones form
    the chain (N; default all). eta: DDIM's noise scale, 0: deterministic. rng: the batch's
    `util.rng.BatchRandom`, the source of noise if eta > 0. Attributes: timesteps, a Timestep per
    layer; nfe, the NFE per image so far.
    """

    def __init__(self, model, steps, rng, eta=0.0, layers=TRAINING_STEPS):
        self.model, self.rng, self.eta = model, rng, eta
        self.nfe = 0
        self.restep(steps, layers)

    def restep(self, steps, layers=TRAINING_STEPS):
        """Replace the layers by the last `layers` of a chain of `steps` DDIM steps."""
        stride = TRAINING_STEPS // steps
        # t - stride, not the next timestep: of 4 steps the first goes from 999 to 749 (published).
        self.timesteps = [
            Timestep(t, ABAR[t], ABAR[t - stride] if t >= stride else 1.0)
            for t in chain_timesteps(steps)[-layers:]
        ]

    @property
    def errors(self):
        """The network's `guided_diffusion.errors.Errors`."""
        return getattr(self.model, "errors", None) or default_errors()

    def __len__(self):
        return len(self.timesteps)

    def __getitem__(self, i):
        return partial(self._layer, self.timesteps[i])

    def state_dict(self):
        """The state that changes as the chain is used."""
        return {"nfe": self.nfe, "generators": [g.get_state() for g in self.rng.torch]}

    def load_state_dict(self, state):
        """Resume from a `state_dict`."""
        self.nfe = state["nfe"]
        for generator, its_state in zip(self.rng.torch, state["generators"]):
            generator.set_state(its_state)

    def noised(self, x, noise):
        """x under the noise of the chain's first timestep: sqrt(abar) x + sqrt(1 - abar) noise."""
        abar = self.timesteps[0].abar
        return abar**0.5 * x + (1 - abar) ** 0.5 * noise

    def eps(self, x, timestep):
        """The network's estimate of the noise in x at a Timestep: (B, 3, H, W)."""
        self.nfe += 1
        return self.model(x, torch.full((1,), float(timestep.t), device=x.device))[:, :3]

    def denoised(self, x, sigma):
        """The posterior mean x0_hat of x = x_0 + sigma noise, (B, 3, H, W) in units of [-1, 1].
        Costs one network evaluation."""
        timestep = timestep_of(sigma)
        noised = timestep.abar**0.5 * x
        return predict_x0(noised, self.eps(noised, timestep), timestep.abar)

    def _layer(self, timestep, x):
        noise = self.rng.randn(x.shape[1:], x.device) if self.eta > 0 else None
        _, abar, abar_prev = timestep
        return ddim_step(x, self.eps(x, timestep), abar, abar_prev, self.eta, noise)
