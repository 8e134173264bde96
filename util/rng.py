"""Random draws that belong to an image, not to its batch, its device or the order in which images are taken."""

import numpy as np
import torch

LAST_SEED = 2**32 - 1  # numpy's


class BatchRandom:
    """One torch and one numpy generator for each image of a batch, from `seeds`, an integer an image.

    The published scripts seed torch and numpy with 123 anew for every image. An image's draws are the same alone or in
    a batch and on any device, for they are made on the CPU.

    seeds: those integers; torch: list of B torch.Generator; numpy: list of B numpy.random.RandomState (the legacy stream of np.random.seed).
    """

    def __init__(self, seeds):
        self.seeds = list(seeds)
        self.torch = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.numpy = [np.random.RandomState(seed) for seed in seeds]

    def randn(self, shape, device="cpu"):
        """Standard normal (B, *shape) float32 on `device`; `shape` is that of one image."""
        return torch.cat([torch.randn(1, *shape, generator=g) for g in self.torch]).to(device)

    def randn_like(self, y):
        """Standard normal of y's shape (B, …) and device, drawn in y's memory order, as torch.randn_like draws it.

        The published noise is drawn so: a measurement that keeps the pixel order of the image file (inpainting) gets
        another noise than one that does not.
        """
        like = y[:1].detach().cpu()
        return torch.cat([torch.empty_like(like).normal_(generator=g) for g in self.torch]).to(
            y.device
        )
