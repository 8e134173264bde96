"""Small pieces of the UNet that hold no structure of their own."""
import math

import torch
from torch import nn


class GroupNorm32(nn.GroupNorm):
    """Group norm over 32 groups that computes in float32 whatever the input's precision."""

    def __init__(self, channels):
        super().__init__(32, channels)

    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


def zeroed(module):
    """Set every parameter of `module` to zero: a residual branch then starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def timestep_embedding(timesteps, dim, max_period=10000):
    """Sinusoidal embedding, cosines first (guided-diffusion's order; Ho et al. 2020 put sines first).

    timesteps: (B,) float, in units of the 1000 training steps. Returns (B, dim) float32; dim must be even.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
