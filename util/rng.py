"""Random numbers that depend on the image only, not on batch, device or order of images."""

import numpy as np
import torch

LAST_SEED = 2**32 - 1  # numpy's


class BatchRandom:
    """One torch and one numpy generator per image of a batch, all on the CPU.

    seeds: an integer per image; the published scripts seed torch and numpy with 123 for each image.
    torch: B torch.Generator; numpy: B numpy.random.RandomState (the stream of np.random.seed).
    """

    def __init__(self, seeds):
        self.seeds = list(seeds)
        self.torch = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.numpy = [np.random.RandomState(seed) for seed in seeds]

    def randn(self, shape, device="cpu"):
        """Standard normal (B, *shape) float32 on `device`; shape: of one image."""
        return torch.cat([torch.randn(1, *shape, generator=g) for g in self.torch]).to(device)

    def randn_like(self, y):
        """Standard normal of y's shape (B, …) on its device, sampled in y's memory order as by
        torch.randn_like and the published code: the order of px in memory changes the noise."""
        like = y[:1].detach().cpu()
        noise = torch.cat([torch.empty_like(like).normal_(generator=g) for g in self.torch])
        return noise.to(y.device)
