"""The few-step DDIM sampler as a chain of layers, x = g_{N-1}(… g_1(g_0(z_0))): the range in which both methods search.

Source: Song et al., "Denoising Diffusion Implicit Models", ICLR 2021, eq. 12, with the timesteps and the clipping that
the published DMILO code uses (StarNextDay/DMILO, ddim_sampler.py).
"""

import bisect
import math
from collections import namedtuple
from functools import partial

import torch

from guided_diffusion.errors import usual_errors

TRAINING_STEPS = 1000


def linear_alphas_cumprod():
    """abar_t = prod_{s <= t} (1 - beta_s) for the linear schedule 1e-4 … 0.02: (1000,) float32."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, TRAINING_STEPS, dtype=torch.float32), dim=0)


ABAR = linear_alphas_cumprod().tolist()


def chain_timesteps(steps):
    """The timesteps of a chain of `steps` layers, noise end first: 3 -> [999, 666, 333], 4 -> [999, 750, 500, 250].

    Raises ValueError unless 1 <= steps <= 1000.
    """
    if not 1 <= steps <= TRAINING_STEPS:
        raise ValueError(f"the number of DDIM steps must lie in 1 … {TRAINING_STEPS}, not {steps}")
    stride = TRAINING_STEPS // steps
    return [min(stride * k, TRAINING_STEPS - 1) for k in range(steps, 0, -1)]


def predict_x0(x, eps, abar):
    """The picture behind x if eps is its noise, clipped to [-1, 1]; all (B, 3, H, W)."""
    return ((x - (1 - abar) ** 0.5 * eps) / abar**0.5).clamp(-1, 1)


def ddim_step(x, eps, abar, abar_prev, eta=0.0, noise=None):
    """One DDIM update from noise level `abar` to `abar_prev`, with x_0 clipped to [-1, 1] and eps re-derived from it.

    x, eps and noise (read only if eta > 0): (B, 3, H, W). Returns (B, 3, H, W).
    """
    x0 = predict_x0(x, eps, abar)
    eps = (x - abar**0.5 * x0) / (1 - abar) ** 0.5
    variance = eta**2 * (1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)
    x_prev = abar_prev**0.5 * x0 + (1 - abar_prev - variance) ** 0.5 * eps
    return x_prev + variance**0.5 * noise if eta > 0 else x_prev


Level = namedtuple(
    "Level", "t abar abar_prev"
)  # a layer's timestep, and the noise levels it leads from and to


def level_of_noise(sigma):
    """The Level at which a picture in [-1, 1] lies under noise of standard deviation sigma, (1 - abar) / abar = sigma^2. Its timestep is a
    fraction between those of the training, and the first or last one for less or more noise than the training knows."""
    sigmas = [((1 - abar) / abar) ** 0.5 for abar in ABAR]
    after = min(max(bisect.bisect(sigmas, sigma), 1), TRAINING_STEPS - 1)
    share = math.log(max(sigma, 1e-9) / sigmas[after - 1]) / math.log(
        sigmas[after] / sigmas[after - 1]
    )
    return Level(after - 1 + min(max(share, 0.0), 1.0), 1 / (1 + sigma**2), 1.0)


def even_levels(steps, last, top=0.0, denser=1.0):
    """The noise levels of `steps` timesteps from that of noise `top`, or if it is 0 the training's last one, to that of noise `last`: a list, falling.
    They are evenly spaced, or lie closer to the end: the k-th of n at (1 - k / n)^denser of the way from there."""
    first, end = level_of_noise(top).t if top else TRAINING_STEPS - 1, level_of_noise(last).t
    timesteps = (end + (first - end) * (1 - k / max(1, steps - 1)) ** denser for k in range(steps))
    return [((1 - ABAR[round(t)]) / ABAR[round(t)]) ** 0.5 for t in timesteps]


class Chain:
    """The layers g_0 … g_{N-1} over one batch of images: `g = Chain(model, 3, rng)`, then `len(g)` and `g[i](z)`.

    model: eps(x, t) as `create_model` builds it. steps: DDIM steps; layers: how many of the last ones make up the chain
    (N; all by default). eta: DDIM's noise scale, 0 for a deterministic chain. rng: the batch's `util.rng.BatchRandom`,
    from which noise is drawn if eta > 0. `levels` says what each layer does; `evaluations` counts the network's evaluations
    so far (each is one per image of the batch).
    """

    def __init__(self, model, steps, rng, eta=0.0, layers=TRAINING_STEPS):
        self.model, self.rng, self.eta = model, rng, eta
        self.evaluations = 0
        self.restep(steps, layers)

    def restep(self, steps, layers=TRAINING_STEPS):
        """Become the last layers of a chain of `steps` DDIM steps."""
        stride = TRAINING_STEPS // steps
        # t - stride, not the next timestep: with 4 steps the first layer goes from 999 to 749 (published code).
        self.levels = [
            Level(t, ABAR[t], ABAR[t - stride] if t >= stride else 1.0)
            for t in chain_timesteps(steps)[-layers:]
        ]

    @property
    def errors(self):
        """The `guided_diffusion.errors.Errors` of the network."""
        return getattr(self.model, "errors", None) or usual_errors()

    def __len__(self):
        return len(self.levels)

    def __getitem__(self, i):
        return partial(self._layer, self.levels[i])

    def state_dict(self):
        """What changes as the chain is used."""
        return {
            "evaluations": self.evaluations,
            "generators": [g.get_state() for g in self.rng.torch],
        }

    def load_state_dict(self, state):
        """Go on as the chain whose `state_dict` this is."""
        self.evaluations = state["evaluations"]
        for generator, its_state in zip(self.rng.torch, state["generators"]):
            generator.set_state(its_state)

    def noised(self, x, noise):
        """The picture x at the noise level at which the chain begins: sqrt(abar) x + sqrt(1 - abar) noise."""
        abar = self.levels[0].abar
        return abar**0.5 * x + (1 - abar) ** 0.5 * noise

    def eps(self, x, level):
        """The noise that the network sees in x at a level: (B, 3, H, W)."""
        self.evaluations += 1
        return self.model(x, torch.full((1,), float(level.t), device=x.device))[:, :3]

    def denoised(self, x, sigma):
        """The mean of the pictures that may lie behind x, (B, 3, H, W) in [-1, 1] under noise of standard deviation sigma, by one
        evaluation of the network."""
        level = level_of_noise(sigma)
        noised = level.abar**0.5 * x
        return predict_x0(noised, self.eps(noised, level), level.abar)

    def _layer(self, level, x):
        noise = self.rng.randn(x.shape[1:], x.device) if self.eta > 0 else None
        return ddim_step(x, self.eps(x, level), level.abar, level.abar_prev, self.eta, noise)
