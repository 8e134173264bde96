"""PSNR, SSIM and LPIPS as the published scripts compute them."""

import warnings

import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from util.files import UserError, project, read_state_dict
from util.images import to_pixels

ALEXNET = "models/alexnet_features.pt"  # the convolutions of torchvision's AlexNet; lpips itself brings the layers on top


def load_lpips(device):
    """LPIPS (Zhang et al. 2018, the lpips package) with AlexNet, from files that are here. Raises UserError if they are not."""
    import lpips  # here, because it takes torchvision along, which nothing else needs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision by deprecated names
        model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = read_state_dict(project(ALEXNET))
    try:
        for part in (
            model.net.children()
        ):  # slice1 … slice5, whose layers keep their numbers in AlexNet's features
            part.load_state_dict(
                {
                    key: value
                    for key, value in state.items()
                    if key.split(".")[0] in dict(part.named_children())
                }
            )
    except RuntimeError as error:
        raise UserError(
            f"{ALEXNET}: holds other weights than AlexNet's convolutions; restore the file"
        ) from error
    return model.requires_grad_(False).eval().to(device)


class Metrics:
    """`Metrics(device)(x, reference)` -> {"psnr": dB, "ssim": …, "lpips_alex": …}.

    PSNR and SSIM on [0, 1], SSIM with a uniform window of 7 x 7, the sample covariance and all channels, before pictures are
    rounded to 8 bits.
    """

    def __init__(self, device):
        self.device, self.lpips = device, load_lpips(device)

    @torch.no_grad()
    def __call__(self, x, reference):
        """x and reference: (3, H, W) or, grey, (1, H, W), in [-1, 1]; x is clamped to it."""
        pixels, reference_pixels = to_pixels(x), to_pixels(reference)
        pair = [image.to(self.device).clamp(-1, 1).expand(1, 3, -1, -1) for image in (reference, x)]
        return {
            "psnr": float(peak_signal_noise_ratio(reference_pixels, pixels, data_range=1)),
            "ssim": float(
                structural_similarity(reference_pixels, pixels, channel_axis=2, data_range=1)
            ),
            "lpips_alex": self.lpips(*pair).item(),
        }
