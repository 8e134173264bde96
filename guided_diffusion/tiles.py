"""The network on pictures of any size: mirrored to what it can halve, and in overlapping tiles where memory asks for it."""

import math

import torch
from torch.utils.checkpoint import checkpoint

from guided_diffusion.kernels import mirrored_after
from util.devices import available_memory

MEMORY_SHARE = 0.25  # of what is free, for what the network keeps for its gradient; it works with two or three times as much
LARGEST_TILE = 4  # sides of the prior's pictures: attention's time grows with the fourth power of a tile's side
OVERLAP = 64  # pixels that neighbouring tiles share, or half a tile where that is less


def tile_starts(length, tile, stride):
    """Where tiles of `tile` pixels begin along an axis of `length`, both multiples of `stride`: neighbours share OVERLAP pixels (or
    half a tile) or more."""
    if length <= tile:
        return [0]
    count = 1 + math.ceil((length - tile) / (tile - min(OVERLAP, tile // 2)))
    return [round(n * (length - tile) / (count - 1) / stride) * stride for n in range(count)]


def tile_weights(tile, device):
    """(tile,): 1 in a tile's middle, half a Hann window (above 0) where it overlaps its neighbours."""
    overlap = min(OVERLAP, tile // 2)
    ramp = torch.sin(math.pi / 2 * (torch.arange(overlap, device=device) + 0.5) / overlap).square()
    return torch.cat([ramp, torch.ones(tile - 2 * overlap, device=device), ramp.flip(0)])


class AnySize:
    """`AnySize(model, tile)(x, t)`: the network's eps, (B, 3, H, W), for x of any H and W.

    model: as `load_prior` returns it. Sides that it cannot halve often enough are mirrored on to the next that it can, and what
    comes out is cut back. tile: a multiple of model.stride; a picture that is larger goes through in tiles of that side,
    blended by Hann weights, and what a tile needs for its gradient is computed again when that is asked for: memory then goes
    with the tile. None: whole. Pictures that need neither go to the model as they are.
    """

    def __init__(self, model, tile=None):
        self.model, self.tile = model, tile

    @property
    def errors(self):
        return self.model.errors

    def __call__(self, x, t):
        height, width = x.shape[-2:]
        if not (
            height % self.model.stride
            or width % self.model.stride
            or max(height, width) > (self.tile or math.inf)
        ):
            return self.model(x, t)[:, :3]
        x = mirrored_after(mirrored_after(x, self.model.stride, -2), self.model.stride, -1)
        evaluate = self._tiled if max(x.shape[-2:]) > (self.tile or math.inf) else self.model
        return evaluate(x, t)[:, :3, :height, :width]

    def _tiled(self, x, t):
        starts = [tile_starts(length, self.tile, self.model.stride) for length in x.shape[-2:]]
        sides = [min(length, self.tile) for length in x.shape[-2:]]
        weights = [tile_weights(side, x.device) for side in sides]
        window = weights[0][:, None] * weights[1]
        total, weight = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        for top in starts[0]:
            for left in starts[1]:
                place = (..., slice(top, top + sides[0]), slice(left, left + sides[1]))
                eps = checkpoint(
                    self.model, x[place], t, use_reentrant=False, preserve_rng_state=False
                )[:, :3]
                total[place] += window * eps
                weight[place] += window
        return total / weight


def kept_per_pixel(model, prior_size, device):
    """Bytes that the network keeps for its gradient, for each pixel of a picture larger than the prior's: those of one that is
    a little larger."""
    side, kept = prior_size + model.stride, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(
            torch.zeros(1, 3, side, side, device=device, requires_grad=True),
            torch.zeros(1, device=device),
        )
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    del out  # until here, or another tensor might have come to lie where a kept one was
    return sum(kept.values()) / side**2


def choose_tile(model, size, prior_size, batch, device):
    """The side of the tiles in which `batch` pictures of `size` (H, W) at once go through the network if nobody says: None, whole,
    where that fits into memory, as pictures no larger than the prior's are taken to do. GPU's batches come down to what fits."""
    if max(size) <= prior_size:
        return None
    room = (
        MEMORY_SHARE * available_memory(device) / kept_per_pixel(model, prior_size, device) / batch
    )
    if size[0] * size[1] <= room:
        return None
    return max(
        prior_size, min(LARGEST_TILE * prior_size, int(room**0.5) // model.stride * model.stride)
    )
