"""KernelWizard: blur with a latent code (Tran et al., "Explore Image Deblurring via Encoded Blur
Kernel Space", CVPR 2021), state-dict compatible with the GOPRO_wVAE.pth published at
VinAIResearch/blur-kernel-space-exploring.

The options fix all but the sizes of the network; "norm: none" is why no convolution of the
adapter or the extractor is normalised, and why they have no bias.
"""

import torch
from torch import nn

# Options whose published value is the only one implemented, by section ("" is KernelWizard's own).
PUBLISHED = {
    "": {"input_nc": 3, "N_frames": 1, "use_vae": True},
    "KernelExtractor": {
        "norm": "none",
        "use_sharp": True,
        "padding_type": "reflect",
        "use_dropout": False,
    },
    "Adapter": {"norm": "none", "use_dropout": False},
}


def check_options(opt):
    """Raise ValueError, naming the key, for an option that asks for another network."""
    for section, values in PUBLISHED.items():
        given = opt[section] if section else opt
        for key, value in values.items():
            if given.get(key) != value:
                name = f"{section}.{key}" if section else key
                raise ValueError(
                    f"KernelWizard option {name} must be {value!r}, got {given.get(key)!r}"
                )
    if opt["kernel_dim"] != 8 * opt["nf"]:
        raise ValueError(
            f"KernelWizard option kernel_dim must be 8 * nf = {8 * opt['nf']}, "
            f"got {opt['kernel_dim']!r}"
        )


def conv3(in_nc, out_nc, stride=1):
    return nn.Conv2d(in_nc, out_nc, 3, stride, 1)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, nf):
        super().__init__()
        self.conv1 = conv3(nf, nf)
        self.conv2 = conv3(nf, nf)

    def forward(self, x):
        return x + self.conv2(torch.relu(self.conv1(x)))


class PaddedResidualBlock(nn.Module):
    """Residual block of the kernel extractor: reflection padding, no bias."""

    def __init__(self, nf):
        super().__init__()
        # The identities are the norms that "none" leaves out: they hold the published key numbers.
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(nf, nf, 3, bias=False),
            nn.Identity(),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(nf, nf, 3, bias=False),
            nn.Identity(),
        )

    def forward(self, x):
        return x + self.conv_block(x)


class KernelExtractor(nn.Module):
    """Blur code of a pair: features (B, nf, H, W) of both -> mean, logvar (B, kernel_dim, H/32,
    W/32)."""

    def __init__(self, nf, kernel_dim, n_blocks):
        super().__init__()
        layers = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(2 * nf, nf, 7, bias=False),
            nn.Identity(),
            nn.ReLU(),
        ]
        widths = [min(nf * 2**i, 2 * kernel_dim) for i in range(6)]
        for in_nc, out_nc in zip(widths, widths[1:]):
            layers += [nn.Conv2d(in_nc, out_nc, 3, 2, 1, bias=False), nn.Identity(), nn.ReLU()]
        layers += [PaddedResidualBlock(2 * kernel_dim) for _ in range(n_blocks)]
        self.model = nn.Sequential(*layers)

    def forward(self, sharp, blur):
        return self.model(torch.cat((sharp, blur), dim=1)).chunk(2, dim=1)


class SkipBlock(nn.Module):
    """One scale of the adapter: (B, outer_nc, H, W) and the code -> (B, 2 * outer_nc, H, W)."""

    def __init__(self, outer_nc, inner_nc, submodule=None):
        super().__init__()
        self.down = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Conv2d(outer_nc, inner_nc, 4, 2, 1, bias=False)
        )
        self.submodule = submodule
        self.up = nn.Sequential(
            nn.ReLU(), nn.ConvTranspose2d(2 * inner_nc, outer_nc, 4, 2, 1, bias=False)
        )

    def forward(self, x, code):
        activation, conv = self.down
        # The published activation works in place, so the skip carries x as it is after it.
        x = activation(x)
        inner = conv(x)
        inner = self.submodule(inner, code) if self.submodule else torch.cat((inner, code), dim=1)
        return torch.cat((self.up(inner), x), dim=1)


class OutermostBlock(nn.Module):
    """The adapter's first scale: (B, nf, H, W) and the code -> (B, nf, H, W) in [-1, 1], no
    skip."""

    def __init__(self, nf, submodule):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(nf, nf, 4, 2, 1, bias=False))
        self.submodule = submodule
        self.up = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(2 * nf, nf, 4, 2, 1), nn.Tanh())

    def forward(self, x, code):
        return self.up(self.submodule(self.down(x), code))


class KernelAdapter(nn.Module):
    """Blurs sharp features (B, nf, H, W) as the code (B, 8 * nf, H/32, W/32) says."""

    def __init__(self, nf):
        super().__init__()
        block = SkipBlock(8 * nf, 8 * nf)
        for outer_nc in (4 * nf, 2 * nf, nf):
            block = SkipBlock(outer_nc, 2 * outer_nc, block)
        self.model = OutermostBlock(nf, block)

    def forward(self, x, code):
        return self.model(x, code)


class KernelWizard(nn.Module):
    """Generative blur in a learned kernel space.

    Images are RGB in [0, 1], (B, 3, H, W) with sides that are multiples of 128; a kernel code is
    (B, kernel_dim, H/128, W/128). Nothing is loaded or frozen here: `opt["pretrained"]` names the
    checkpoint for whoever builds the network.

    Args:
        opt: the `KernelWizard` section of options/generate_blur/default.yml, as a dict.

    Raises:
        ValueError: an option asks for a network that the published options do not describe.
    """

    def __init__(self, opt):
        super().__init__()
        check_options(opt)
        nf = opt["nf"]
        self.feature_extractor = nn.Sequential(
            conv3(3, nf),
            nn.LeakyReLU(0.1),
            conv3(nf, nf, stride=2),
            nn.LeakyReLU(0.1),
            conv3(nf, nf, stride=2),
            nn.LeakyReLU(0.1),
            *(ResidualBlock(nf) for _ in range(opt["front_RBs"])),
        )
        self.kernel_extractor = KernelExtractor(
            nf, opt["kernel_dim"], opt["KernelExtractor"]["n_blocks"]
        )
        self.adapter = KernelAdapter(nf)
        self.recon_trunk = nn.Sequential(
            *(ResidualBlock(nf) for _ in range(opt["back_RBs"])),
            conv3(nf, 4 * nf),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1),
            conv3(nf, 256),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1),
            conv3(64, 64),
            nn.LeakyReLU(0.1),
            conv3(64, 3),
        )

    def adaptKernel(self, x_sharp, kernel):
        """Blur `x_sharp` with a kernel code; the code of one image serves a whole batch.

        Returns the blurred images, (B, 3, H, W); nearly in [0, 1], not clamped.
        """
        kernel = kernel.expand(len(x_sharp), -1, -1, -1)
        return x_sharp + self.recon_trunk(self.adapter(self.feature_extractor(x_sharp), kernel))

    def forward(self, x_sharp, x_blur):
        """Mean and log variance of the kernel code that turns `x_sharp` into `x_blur`.

        Both are (B, kernel_dim, H/128, W/128); the images' sides are at least 256.
        """
        return self.kernel_extractor(
            self.feature_extractor(x_sharp), self.feature_extractor(x_blur)
        )
