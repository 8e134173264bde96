"""PSNR, SSIM and LPIPS as the published scripts compute them."""
import os
import sys
import warnings

import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from util.files import UserError, read_state_dict
from util.images import to_pixels

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
ALEXNET_URL = f"https://download.pytorch.org/models/{ALEXNET_FILE}"


class Metrics:
    """`Metrics(device)(x, reference)` -> {"psnr": dB, "ssim": …, "lpips_alex": … or None}.

    LPIPS (Zhang et al. 2018, the lpips package) needs torchvision's AlexNet. Its file is never fetched here: where it
    is missing or broken, one warning (none if `quiet`) says what to put where, and lpips_alex is None.
    """

    def __init__(self, device, quiet=False):
        self.device, self.lpips = device, None
        path = os.path.join(torch.hub.get_dir(), "checkpoints", ALEXNET_FILE)
        try:
            read_state_dict(path)
            import lpips  # here, because it takes torchvision along, which nothing else needs

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # lpips calls torchvision by deprecated names
                self.lpips = lpips.LPIPS(net="alex", verbose=False).requires_grad_(False).to(device)
        except (UserError, RuntimeError):  # missing; a file of something else
            if not quiet:
                print(f"warning: no LPIPS, it needs {path}: download it from {ALEXNET_URL}", file=sys.stderr)

    def __call__(self, x, reference):
        """x and reference: (3, H, W) in [-1, 1]; x is clamped to it."""
        pixels, reference_pixels = to_pixels(x), to_pixels(reference)
        lpips_alex = None
        if self.lpips:
            with torch.no_grad():
                pair = [image.to(self.device).clamp(-1, 1)[None] for image in (reference, x)]
                lpips_alex = self.lpips(*pair).item()
        return {
            "psnr": float(peak_signal_noise_ratio(reference_pixels, pixels, data_range=1)),
            "ssim": float(structural_similarity(reference_pixels, pixels, channel_axis=2, data_range=1)),
            "lpips_alex": lpips_alex,
        }
