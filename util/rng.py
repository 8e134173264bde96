"""Random draws that belong to an image, not to its batch, its device or the order in which images are taken."""
import numpy as np
import torch


class BatchRandom:
    """One torch and one numpy generator for each image of a batch, every one seeded alike.

    The published scripts seed torch and numpy with 123 anew for every image; so every image has the same mask, kernel
    and noise, and its draws are the same alone or in a batch, on any device, for they are made on the CPU.

    torch: list of B torch.Generator; numpy: list of B numpy.random.RandomState (the legacy stream of np.random.seed).
    """

    def __init__(self, batch, seed):
        self.torch = [torch.Generator().manual_seed(seed) for _ in range(batch)]
        self.numpy = [np.random.RandomState(seed) for _ in range(batch)]

    def randn(self, shape, device="cpu"):
        """Standard normal (B, *shape) float32 on `device`; `shape` is that of one image."""
        return torch.cat([torch.randn(1, *shape, generator=g) for g in self.torch]).to(device)

    def randn_like(self, y):
        """Standard normal of y's shape (B, …) and device, drawn in y's memory order, as torch.randn_like draws it.

        The published noise is drawn so: a measurement that keeps the pixel order of the image file (inpainting) gets
        another noise than one that does not.
        """
        like = y[:1].detach().cpu()
        return torch.cat([torch.empty_like(like).normal_(generator=g) for g in self.torch]).to(y.device)
