"""Layers of the UNet, and versions of them that need less memory with frozen weights."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class FrozenConvolution(torch.autograd.Function):
    """conv2d that keeps only its weight for the backward pass; PyTorch also keeps the input, for
    the gradient of the weight, which a frozen network does not need."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        ctx.save_for_backward(weight)
        ctx.input_shape, ctx.options = x.shape, (stride, padding)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        grad = torch.nn.grad.conv2d_input(ctx.input_shape, weight, grad, *ctx.options)
        return grad, None, None, None, None


class Conv2d(nn.Conv2d):
    """nn.Conv2d that needs less memory if its weights are frozen."""

    def forward(self, x):
        if self.weight.requires_grad:
            return super().forward(x)
        return FrozenConvolution.apply(x, self.weight, self.bias, self.stride, self.padding)


class GroupNorm32(nn.GroupNorm):
    """Group norm computed in float32, whatever the precision of its input."""

    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


class FrozenNormSiLU(torch.autograd.Function):
    """silu(group norm) that keeps only x for the backward pass and recomputes the rest there."""

    @staticmethod
    def normalised(x, weight, bias, groups, eps):
        batch, channels = x.shape[:2]
        return torch.native_group_norm(
            x.float(), weight, bias, batch, channels, x[0, 0].numel(), groups, eps
        )

    @staticmethod
    def forward(ctx, x, *options):
        x = x.contiguous()
        ctx.save_for_backward(x)
        ctx.options = options
        h = FrozenNormSiLU.normalised(x, *options)[0]
        # Compiled by PyTorch 2.11, outputs changed in place or cast to their own type lose
        # gradients.
        h = F.silu(h, inplace=not torch.compiler.is_compiling())
        return h if h.dtype == x.dtype else h.to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        h, mean, rstd = FrozenNormSiLU.normalised(x, *ctx.options)
        weight, _, groups, _ = ctx.options
        # native_group_norm_backward assumes the same memory layout of its arguments.
        grad = torch.ops.aten.silu_backward(grad.float().contiguous(), h)
        batch, channels = x.shape[:2]
        only_x = [True, False, False]
        grad, _, _ = torch.ops.aten.native_group_norm_backward(
            grad, x.float(), mean, rstd, weight, batch, channels, x[0, 0].numel(), groups, only_x
        )
        return grad.to(x.dtype), None, None, None, None


def norm_silu(norm, x, scale=None, shift=None):
    """silu(norm(x) (1 + scale) + shift) with a GroupNorm32 `norm`; x: (B, C, H, W); scale, shift:
    (1 or B, C, 1, 1)."""
    if norm.weight.requires_grad or (scale is not None and len(scale) > 1):
        h = norm(x)
        return F.silu(h if scale is None else torch.addcmul(shift, h, 1 + scale))
    weight, bias = norm.weight, norm.bias
    if scale is not None:  # the same for all images, so it is part of the weights
        factor = 1 + scale.flatten()
        weight, bias = weight * factor, bias * factor + shift.flatten()
    return FrozenNormSiLU.apply(x, weight, bias, norm.num_groups, norm.eps)


def zeroed(module):
    """Set all parameters of `module` to zero; a residual block is the identity at first."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def timestep_embedding(timesteps, dim, max_period=10000):
    """Sinusoidal embedding, cosines first as in guided-diffusion (Ho et al. 2020: sines first).

    timesteps: (B,) float in 0 … 999. Returns (B, dim) float32; dim must be even.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
