"""PSNR, SSIM and LPIPS as the published scripts compute them."""

import warnings

import torch

from util.files import UserError, project, read_state_dict
from util.images import to_pixels

# The convolutions of torchvision's AlexNet; the lpips package includes the layers on top.
ALEXNET = "models/alexnet_features.pt"


def load_lpips(device):
    """LPIPS (Zhang et al. 2018, the lpips package) with AlexNet, from local files. Raises UserError
    if they are missing or broken."""
    import lpips  # here, as it imports torchvision, which nothing else needs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by deprecated names
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = read_state_dict(project(ALEXNET))
    try:
        # slice1 … slice5, whose layers keep their numbers in AlexNet's features
        for part in model.net.children():
            own = dict(part.named_children())
            part.load_state_dict({k: v for k, v in state.items() if k.split(".")[0] in own})
    except RuntimeError as error:
        raise UserError(
            f"{ALEXNET}: holds other weights than AlexNet's convolutions; restore the file"
        ) from error
    return model.requires_grad_(False).eval().to(device)


class Metrics:
    """`Metrics(device)(x, reference)` -> {"psnr": dB, "ssim": …, "lpips_alex": …}.

    PSNR and SSIM are of values in [0, 1], not rounded to 8 bits; SSIM with a uniform 7 x 7 window
    and the sample covariance over all channels.
    """

    def __init__(self, device):
        self.device, self.lpips = device, load_lpips(device)

    @torch.no_grad()
    def __call__(self, x, reference):
        """x, reference: (3, H, W) or, grey, (1, H, W), in [-1, 1], to which x is clamped."""
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity  # slow

        a, b = to_pixels(reference), to_pixels(x)
        pair = [image.to(self.device).clamp(-1, 1).expand(1, 3, -1, -1) for image in (reference, x)]
        return {
            "psnr": float(peak_signal_noise_ratio(a, b, data_range=1)),
            "ssim": float(structural_similarity(a, b, channel_axis=2, data_range=1)),
            "lpips_alex": self.lpips(*pair).item(),
        }
