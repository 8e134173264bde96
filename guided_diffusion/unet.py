"""The noise-predicting UNet of Dhariwal & Nichol 2021, state-dict compatible with
openai/guided-diffusion.

The names of sub-modules (`input_blocks`, `in_layers`, `qkv`, …) and the positions of parameterless
modules in Sequentials are those of the published checkpoints, so that these load strictly.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from guided_diffusion.nn import Conv2d, GroupNorm32, norm_silu, timestep_embedding, zeroed

CHANNEL_MULT_BY_SIZE = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}


class Upsample(nn.Module):
    """(B, C, H, W) -> (B, C, 2H, 2W): nearest neighbour, then a 3 x 3 convolution if `use_conv`."""

    def __init__(self, channels, use_conv):
        super().__init__()
        if use_conv:
            self.conv = Conv2d(channels, channels, 3, padding=1)
        self.use_conv = use_conv

    def forward(self, x):
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x) if self.use_conv else x


class Downsample(nn.Module):
    """(B, C, H, W) -> (B, C, H/2, W/2): a strided convolution if `use_conv`, else 2 x 2 means."""

    def __init__(self, channels, use_conv):
        super().__init__()
        self.op = (
            Conv2d(channels, channels, 3, stride=2, padding=1) if use_conv else nn.AvgPool2d(2)
        )

    def forward(self, x):
        return self.op(x)


class ResBlock(nn.Module):
    """Two convolutions and the time embedding between them; `resample` halves or doubles the
    resolution of both paths."""

    def __init__(
        self,
        channels,
        out_channels,
        emb_channels,
        dropout,
        use_scale_shift_norm,
        norm_groups,
        resample=None,
    ):
        super().__init__()
        self.use_scale_shift_norm = use_scale_shift_norm
        self.resample = resample(channels, use_conv=False) if resample else None
        self.in_layers = nn.Sequential(
            GroupNorm32(norm_groups, channels),
            nn.SiLU(),
            Conv2d(channels, out_channels, 3, padding=1),
        )
        emb_width = 2 * out_channels if use_scale_shift_norm else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, emb_width))
        self.out_layers = nn.Sequential(
            GroupNorm32(norm_groups, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else Conv2d(channels, out_channels, 1)

    def forward(self, x, emb):
        norm, _, conv = self.in_layers
        h = norm_silu(norm, x)
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = conv(h)
        emb = self.emb_layers(emb).to(h.dtype)[:, :, None, None]
        norm, _, dropout, conv = self.out_layers
        if self.use_scale_shift_norm:
            h = norm_silu(norm, h, *emb.chunk(2, dim=1))
        else:
            h = norm_silu(norm, h + emb)
        return self.skip_connection(x) + conv(dropout(h))


class AttentionBlock(nn.Module):
    """Self-attention over the H x W positions, added to its input.

    new_order: the 3C channels of `qkv` are split into q, k, v and then into heads; False (older
    published checkpoints): into heads first. trained_positions: H x W in training.
    """

    def __init__(
        self,
        channels,
        num_heads,
        num_head_channels,
        use_checkpoint,
        new_order,
        norm_groups,
        trained_positions,
    ):
        super().__init__()
        self.trained_positions = trained_positions
        self.num_heads = num_heads if num_head_channels == -1 else channels // num_head_channels
        if (
            self.num_heads < 1
            or channels % self.num_heads
            or num_head_channels not in (-1, channels // self.num_heads)
        ):
            raise ValueError(
                f"{channels} channels do not divide into attention heads of {num_head_channels}"
            )
        self.use_checkpoint, self.new_order = use_checkpoint, new_order
        self.norm = GroupNorm32(norm_groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x):
        if self.use_checkpoint:
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x):
        batch, channels, height, width = x.shape
        flat = x.reshape(batch, channels, -1)
        qkv = self.qkv(self.norm(flat))
        if self.new_order:
            q, k, v = qkv.reshape(batch, 3, self.num_heads, -1, height * width).unbind(1)
        else:
            q, k, v = qkv.reshape(batch, self.num_heads, 3, -1, height * width).unbind(2)
        q, k, v = q.mT, k.mT, v.mT  # (B, heads, positions, head width)
        if height * width > self.trained_positions:
            # Contiguous, they select a kernel that never stores positions^2 numbers; at the prior's
            # own size the rounding of the published code is kept.
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        # Its scale 1/sqrt(head width) equals the published fourth root on q and on k.
        h = F.scaled_dot_product_attention(q, k, v).mT
        return (flat + self.proj_out(h.reshape(batch, channels, -1))).reshape(x.shape)


class TimestepSequential(nn.Sequential):
    """A Sequential whose residual blocks receive the time embedding."""

    def forward(self, x, emb):
        for module in self:
            x = module(x, emb) if isinstance(module, ResBlock) else module(x)
        return x


class Blocks:
    """Builds the blocks of a UNet from its configuration; see `create_model`."""

    def __init__(self, image_size, emb_channels, attention_at, resblock_updown, res, attention):
        self.image_size, self.emb_channels = image_size, emb_channels
        self.attention_at, self.resblock_updown = attention_at, resblock_updown
        self.res_options, self.attention_options = res, attention

    def res(self, channels, out_channels, resample=None):
        options = {**self.res_options, "resample": resample}
        return ResBlock(channels, out_channels, self.emb_channels, **options)

    def attention(self, channels, heads, factor):
        positions = (self.image_size // factor) ** 2
        options = {**self.attention_options, "trained_positions": positions}
        return AttentionBlock(channels, heads, **options)

    def layers(self, channels, out_channels, heads, factor):
        """A residual block, with attention if `factor`, the reduction, is in attention_at."""
        layers = [self.res(channels, out_channels)]
        if factor in self.attention_at:
            layers.append(self.attention(out_channels, heads, factor))
        return layers

    def resampling(self, kind, channels):
        if self.resblock_updown:
            return self.res(channels, channels, kind)
        return kind(channels, use_conv=True)


class UNetModel(nn.Module):
    """eps(x_t, t), with three more channels if the variance is learned.

    Takes x_t (B, 3, H, W), timesteps (1,) or (B,), floats in 0 … 999, and labels y (B,) if the
    model is class-conditional. Returns (B, out_channels, H, W) in the precision of x_t.
    """

    def __init__(
        self,
        image_size,
        model_channels,
        out_channels,
        num_res_blocks,
        attention_factors,
        dropout,
        channel_mult,
        num_classes,
        use_checkpoint,
        use_fp16,
        num_heads,
        num_head_channels,
        num_heads_upsample,
        use_scale_shift_norm,
        resblock_updown,
        use_new_attention_order,
        norm_groups,
    ):
        super().__init__()
        self.model_channels = model_channels
        self.stride = 2 ** (len(channel_mult) - 1)  # both sides of x must be multiples of it
        self.dtype = torch.float32
        emb_channels = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels),
            nn.SiLU(),
            nn.Linear(emb_channels, emb_channels),
        )
        if num_classes:
            self.label_emb = nn.Embedding(num_classes, emb_channels)
        blocks = Blocks(
            image_size,
            emb_channels,
            attention_factors,
            resblock_updown,
            {
                "dropout": dropout,
                "use_scale_shift_norm": use_scale_shift_norm,
                "norm_groups": norm_groups,
            },
            {
                "num_head_channels": num_head_channels,
                "use_checkpoint": use_checkpoint,
                "new_order": use_new_attention_order,
                "norm_groups": norm_groups,
            },
        )
        widths = [int(mult * model_channels) for mult in channel_mult]

        ch = widths[0]
        self.input_blocks = nn.ModuleList([TimestepSequential(Conv2d(3, ch, 3, padding=1))])
        skip_channels, factor = [ch], 1
        for depth, width in enumerate(widths):
            for _ in range(num_res_blocks):
                layers, ch = blocks.layers(ch, width, num_heads, factor), width
                self.input_blocks.append(TimestepSequential(*layers))
                skip_channels.append(ch)
            if depth < len(widths) - 1:
                self.input_blocks.append(TimestepSequential(blocks.resampling(Downsample, ch)))
                skip_channels.append(ch)
                factor *= 2

        self.middle_block = TimestepSequential(
            blocks.res(ch, ch), blocks.attention(ch, num_heads, factor), blocks.res(ch, ch)
        )

        heads_up = num_heads if num_heads_upsample == -1 else num_heads_upsample
        self.output_blocks = nn.ModuleList()
        for depth, width in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                layers = blocks.layers(ch + skip_channels.pop(), width, heads_up, factor)
                ch = width
                if depth and i == num_res_blocks:
                    layers.append(blocks.resampling(Upsample, ch))
                    factor //= 2
                self.output_blocks.append(TimestepSequential(*layers))

        self.out = nn.Sequential(
            GroupNorm32(norm_groups, ch), nn.SiLU(), zeroed(Conv2d(ch, out_channels, 3, padding=1))
        )
        if use_fp16:
            self.convert_torso(torch.float16)

    def convert_torso(self, dtype):
        """Compute the torso's convolutions in `dtype`; all else stays in float32."""
        self.dtype = dtype
        for block in (self.input_blocks, self.middle_block, self.output_blocks):
            for module in block.modules():
                if isinstance(module, (nn.Conv1d, nn.Conv2d)):
                    module.to(dtype)

    def forward(self, x, timesteps, y=None):
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels))
        if y is not None:
            emb = emb + self.label_emb(y)
        h, skips = x.to(self.dtype), []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        norm, _, conv = self.out
        return conv(norm_silu(norm, h.to(x.dtype)))


def create_model(
    image_size,
    num_channels,
    num_res_blocks,
    channel_mult="",
    learn_sigma=False,
    class_cond=False,
    use_checkpoint=False,
    attention_resolutions="16",
    num_heads=1,
    num_head_channels=-1,
    num_heads_upsample=-1,
    use_scale_shift_norm=False,
    dropout=0.0,
    resblock_updown=False,
    use_fp16=False,
    use_new_attention_order=False,
    norm_groups=32,
    model_path="",
):
    """An untrained UNet by the keys of a `model_config_*.yaml`, which are guided-diffusion's and
    norm_groups (there 32).

    channel_mult: "1,1,2,4", or "" for the published widths of image_size 64, 128, 256 or 512.
    attention_resolutions: sides of the feature maps with attention, "32,16,8" or 16.
    num_head_channels: -1 for num_heads. norm_groups: groups of channels normalised together.
    model_path: the checkpoint, not read here. Raises ValueError for a size without published widths
    and for widths that cannot be divided into groups or heads.
    """
    if channel_mult:
        widths = tuple(float(m) if "." in m else int(m) for m in str(channel_mult).split(","))
    elif image_size in CHANNEL_MULT_BY_SIZE:
        widths = CHANNEL_MULT_BY_SIZE[image_size]
    else:
        raise ValueError(
            f"image_size {image_size} has no default channel_mult; set it, to '1,2,2,4' for example"
        )
    if image_size % 2 ** (len(widths) - 1):
        raise ValueError(
            f"image_size {image_size} cannot be halved {len(widths) - 1} times (channel_mult)"
        )
    return UNetModel(
        image_size=image_size,
        model_channels=num_channels,
        out_channels=6 if learn_sigma else 3,
        num_res_blocks=num_res_blocks,
        attention_factors={image_size // int(r) for r in str(attention_resolutions).split(",")},
        dropout=dropout,
        channel_mult=widths,
        num_classes=1000 if class_cond else None,
        use_checkpoint=use_checkpoint,
        use_fp16=use_fp16,
        num_heads=num_heads,
        num_head_channels=num_head_channels,
        num_heads_upsample=num_heads_upsample,
        use_scale_shift_norm=use_scale_shift_norm,
        resblock_updown=resblock_updown,
        use_new_attention_order=use_new_attention_order,
        norm_groups=norm_groups,
    )
