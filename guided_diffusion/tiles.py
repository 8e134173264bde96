"""The network on images of any size: extended by reflection, and in overlapping tiles if memory is
short."""

import itertools
import math

import torch
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from guided_diffusion.kernels import mirrored_after
from util.devices import available_memory

# Share of free memory for what the network keeps for its gradient; it uses two or three times more.
MEMORY_SHARE = 0.25
# Times the prior's side: the time of attention grows with the fourth power of a tile's side.
LARGEST_TILE = 4
PATIENCE = 5  # seconds of one evaluation after which a bar shows its tiles and the time left
BAR = {"leave": False, "disable": None, "dynamic_ncols": True}
OVERLAP = 64  # px that neighbouring tiles share; at most half a tile


def tile_starts(length, tile, stride):
    """The first px of each tile along an axis of `length` px, with an overlap of OVERLAP or more.
    tile, length: multiples of `stride`."""
    if length <= tile:
        return [0]
    count = 1 + math.ceil((length - tile) / (tile - min(OVERLAP, tile // 2)))
    return [round(n * (length - tile) / (count - 1) / stride) * stride for n in range(count)]


def tile_weights(tile, device):
    """(tile,) weights: 1 in the middle, positive half Hann windows in the overlaps."""
    overlap = min(OVERLAP, tile // 2)
    ramp = torch.sin(math.pi / 2 * (torch.arange(overlap, device=device) + 0.5) / overlap).square()
    return torch.cat([ramp, torch.ones(tile - 2 * overlap, device=device), ramp.flip(0)])


class AnySize:
    """`AnySize(model, tile)(x, t)`: the network's eps, (B, 3, H, W), for x of any H and W.

    model: see `load_prior`. Sides that are no multiple of model.stride are extended by reflection,
    and the output is cropped. tile: a multiple of model.stride; larger images are processed in
    tiles of that side, blended by Hann weights and recomputed in the backward pass, so that memory
    depends on the tile only. None: whole images.
    """

    def __init__(self, model, tile=None):
        self.model, self.tile = model, tile

    @property
    def errors(self):
        return self.model.errors

    def __call__(self, x, t):
        height, width = x.shape[-2:]
        stride, limit = self.model.stride, self.tile or math.inf
        if not (height % stride or width % stride or max(height, width) > limit):
            return self.model(x, t)[:, :3]
        x = mirrored_after(mirrored_after(x, stride, -2), stride, -1)
        evaluate = self._tiled if max(x.shape[-2:]) > limit else self.model
        return evaluate(x, t)[:, :3, :height, :width]

    def _tiled(self, x, t):
        tops, lefts = (tile_starts(n, self.tile, self.model.stride) for n in x.shape[-2:])
        sides = [min(length, self.tile) for length in x.shape[-2:]]
        weights = [tile_weights(side, x.device) for side in sides]
        window = weights[0][:, None] * weights[1]
        total, weight = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        options = {"use_reentrant": False, "preserve_rng_state": False}
        corners = list(itertools.product(tops, lefts))
        for top, left in tqdm(corners, desc="tiles", unit="tile", delay=PATIENCE, **BAR):
            box = (..., slice(top, top + sides[0]), slice(left, left + sides[1]))
            total[box] += window * checkpoint(self.model, x[box], t, **options)[:, :3]
            weight[box] += window
        return total / weight


def kept_per_pixel(model, prior_size, device):
    """Bytes that the network keeps for its gradient per px, measured with an image that is one
    stride larger than the prior's."""
    side, kept = prior_size + model.stride, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.inference_mode(False), torch.enable_grad(), hooks:
        x = torch.zeros(1, 3, side, side, device=device, requires_grad=True)
        out = model(x, torch.zeros(1, device=device))
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    del out  # not earlier: the address of a kept tensor could have been reused
    return sum(kept.values()) / side**2


def choose_tile(model, size, prior_size, batch, device):
    """The default tile for batches of `batch` images of `size` (H, W): None, whole images, if they
    fit into memory; images no larger than the prior's are assumed to."""
    if max(size) <= prior_size:
        return None
    kept = kept_per_pixel(model, prior_size, device)
    room = MEMORY_SHARE * available_memory(device) / kept / batch
    if size[0] * size[1] <= room:
        return None
    side = int(room**0.5) // model.stride * model.stride
    return max(prior_size, min(LARGEST_TILE * prior_size, side))
