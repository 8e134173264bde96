"""PSNR, SSIM and LPIPS as the published scripts compute them."""

import importlib.util
import os

import torch
import torch.nn.functional as F
from torch import nn

from util.files import UserError, project, read_state_dict
from util.images import to_pixels

# The convolutions of torchvision's AlexNet; the lpips package includes the layers on top.
ALEXNET = "models/alexnet_features.pt"
CONVOLUTIONS = {  # by their numbers in AlexNet's features: channels, kernel, stride, padding
    0: (3, 64, 11, 4, 2),
    3: (64, 192, 5, 1, 2),
    6: (192, 384, 3, 1, 1),
    8: (384, 256, 3, 1, 1),
    10: (256, 256, 3, 1, 1),
}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # lpips' of RGB in [-1, 1]


class LPIPS(nn.Module):
    """LPIPS (Zhang et al. 2018) with AlexNet: `model(x, reference)`, images (B, 3, H, W) in
    [-1, 1], -> (B,).

    As the lpips package computes it and with its weights, but without importing it: it imports
    torchvision, which takes as long as PyTorch and writes to the folder for temporary files.
    """

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(*shape) for shape in CONVOLUTIONS.values()]
        self.convolutions = nn.ModuleList(layers)
        self.weights = nn.ParameterList([torch.empty(1, one.out_channels, 1, 1) for one in layers])
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])

    def features(self, x):
        """The five layers' outputs, each px of unit length."""
        x = (x - self.shift) / self.scale
        for i, convolution in enumerate(self.convolutions):
            x = F.max_pool2d(x, 3, 2) if i in (1, 2) else x
            x = F.relu(convolution(x))
            yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)

    def forward(self, x, reference):
        pairs = zip(self.weights, self.features(x), self.features(reference))
        return sum(F.conv2d((a - b).square(), w).mean((1, 2, 3)) for w, a, b in pairs)


def load_lpips(device):
    """LPIPS from local files. Raises UserError if they are missing or broken."""
    model = LPIPS()
    state = read_state_dict(project(ALEXNET))
    package = importlib.util.find_spec("lpips").submodule_search_locations[0]
    on_top = read_state_dict(os.path.join(package, "weights", "v0.1", "alex.pth"))
    try:
        for number, layer in zip(CONVOLUTIONS, model.convolutions):
            layer.load_state_dict({k: state[f"{number}.{k}"] for k in ("weight", "bias")})
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{ALEXNET}: holds other weights than AlexNet's convolutions; restore the file"
        ) from error
    for i, weight in enumerate(model.weights):
        weight.data = on_top[f"lin{i}.model.1.weight"]
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
