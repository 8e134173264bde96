"""Blind deblurring: a blur kernel that is estimated together with the image."""

import itertools
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from guided_diffusion.kernels import blurring, correlating, mirrored

STEPS = 60  # of FISTA per fit of the kernel
CROP = 256  # px a side, on which the kernel is fitted
LARGE = 128  # px; if the shorter side has as many, the image is restored at half size first
LEAST = 9  # unless the kernel's side has fewer px
SHIFT = 4  # px; the largest ambiguous shift between kernel and image


def onto_simplex(v):
    """The projection of each row of v, (B, n), onto the probability simplex (Duchi et al. 2008)."""
    sorted_v = v.sort(dim=1, descending=True).values
    excess = (sorted_v.cumsum(1) - 1) / torch.arange(1, v.shape[1] + 1, device=v.device)
    last = (sorted_v > excess).sum(1, keepdim=True) - 1
    return (v - excess.gather(1, last)).clamp(min=0)


def most_structured(y, side):
    """(top, left) of the crop of at most side x side px with the largest gradients, for each image
    of y, (B, C, H, W)."""
    differences = y.diff(dim=-2)[..., :, :-1].square() + y.diff(dim=-1)[..., :-1, :].square()
    sides = [min(side, length - 1) for length in y.shape[-2:]]
    step = max(1, side // 8)
    energy = F.avg_pool2d(differences.sum(1, keepdim=True), sides, step)[:, 0]
    corners = [divmod(index, energy.shape[-1]) for index in energy.flatten(1).argmax(1).tolist()]
    return [(row * step, column * step) for row, column in corners]


class UnknownOperator(ABC):
    """An operator A, linear in the image, that estimates an unknown part of itself.

    Maps images (B, 3, H, W) in [-1, 1] to measurements (B, …) with the current estimate.
    `solvers.unknown` calls the methods. Attributes: unknown, the estimate, (B, …), or (1, …) while
    it is the same for all images; start: the initial one; size: (H, W) of the images; logits: how
    many numbers per image `softmax` takes.
    """

    @abstractmethod
    def __call__(self, x): ...

    @abstractmethod
    def refit(self, xs, y):
        """Estimate `unknown` from xs, images as a list of (B, 3, H, W), and y, (B, …)."""

    @abstractmethod
    def centre(self, xs):
        """Resolve the shift between `unknown` and images, a list of (B, 3, H, W), that leaves the
        measurement unchanged; returns the shifted images."""

    @abstractmethod
    def halved(self, y):
        """(operator for images of half the size, its measurement) from y, (B, …), or None."""

    @abstractmethod
    def take_over(self, half, x):
        """Initialise `unknown` from a `halved` operator; returns its images x, enlarged by two."""

    @abstractmethod
    def softmax(self, logits):
        """`unknown` as a differentiable function of numbers (B, logits) or (1, logits)."""


class UnknownBlur(UnknownOperator):
    """Cross-correlation of each image with a kernel of its own, (B, side, side).

    side: of the largest expected kernel, odd; size: (H, W) of the images; mirror: whether the
    border is mirrored (simulated tasks), or the image extends beyond the measurement. The initial
    kernel is a wide Gaussian: a single point would never move.
    """

    def __init__(self, side, size, device, mirror):
        self.side, self.size, self.mirror, self.logits = side, size, mirror, side**2
        point = np.zeros((1, side, side))
        point[0, side // 2, side // 2] = 1
        gaussian = ndimage.gaussian_filter(point, (0, side / 6, side / 6))
        start = torch.from_numpy(gaussian).float().to(device)
        self.unknown = self.start = start / start.sum()

    def __call__(self, x):
        return (blurring if self.mirror else correlating)(self.unknown, self.size)(x)

    def normal_equations(self, xs, y):
        """(K^T K, K^T y), (B, side^2, side^2) and (B, side^2, 1), of the least squares fit of the
        kernels to the gradients of xs and y, in grey, on the crop with the largest gradients."""
        border = self.side // 2
        corners = most_structured(y, CROP)

        def crops(x, side):
            boxes = zip(x, corners)
            return torch.stack([one[:, i : i + side, j : j + side] for one, (i, j) in boxes])

        y = crops(y.mean(1, keepdim=True), CROP)
        gram = target = 0
        for x in xs:
            x = x.mean(1, keepdim=True)
            x = mirrored(mirrored(x, border, -2), border, -1) if self.mirror else x
            x = crops(x, CROP + 2 * border)
            for dim in (-2, -1):
                patches = F.unfold(x.diff(dim=dim), self.side)
                gram = gram + patches @ patches.mT
                target = target + patches @ y.diff(dim=dim).flatten(1)[..., None]
        return gram, target

    @torch.no_grad()
    def refit(self, xs, y):
        """Fit the kernels to images, a list of (B, 3, H, W), and y, (B, 3, H', W').

        Least squares of the gradients, in which the error of x0_hat is smallest and nearly white,
        over non-negative kernels of sum one, by FISTA (Beck & Teboulle 2009).
        """
        gram, target = self.normal_equations(xs, y)
        finite = gram.isfinite().all((1, 2)) & target.isfinite().all((1, 2))
        finite = finite[:, None, None]  # an image that is not keeps its kernel
        gram, target = gram.where(finite, 0), target.where(finite, 0)
        norm = torch.linalg.matrix_norm(gram, 2)[:, None]
        rate = 1 / norm.clamp(min=1e-12)  # 0 for a flat image
        k = previous = self.unknown.flatten(1).expand(len(y), -1)
        for step in range(STEPS):
            ahead = k + step / (step + 3) * (k - previous)
            gradient = (gram @ ahead[..., None] - target).squeeze(-1)
            k, previous = onto_simplex(ahead - rate * gradient), k
        self.unknown = k.reshape(-1, self.side, self.side)

    def halved(self, y):
        """(UnknownBlur for images of half the size, its measurement), from y, (B, 3, H', W'); None
        for small images or kernels."""
        if min(self.size) < LARGE or self.side < LEAST:
            return None
        y, side = F.avg_pool2d(y, 2), self.side // 4 * 2 + 1
        size = y.shape[-2:] if self.mirror else [length + side - 1 for length in y.shape[-2:]]
        return UnknownBlur(side, tuple(size), y.device, self.mirror), y

    def take_over(self, half, x):
        small, options = half.unknown[:, None], {"mode": "bilinear", "align_corners": True}
        kernels = F.interpolate(small, size=2 * half.side - 1, **options)[:, 0]
        kernels = F.pad(kernels, [(self.side - kernels.shape[-1]) // 2] * 4)
        self.unknown = kernels / kernels.sum((1, 2), keepdim=True)
        x = F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False).clamp(-1, 1)
        # Rows and columns before the first of the smaller image.
        first = 0 if self.mirror else self.side // 2 - half.side // 2 * 2
        down, right = (length - first - had for length, had in zip(self.size, x.shape[-2:]))
        return F.pad(x, (first, right, first, down), mode="replicate")

    def softmax(self, logits):
        return logits.softmax(1).reshape(-1, self.side, self.side)

    def centre(self, xs):
        """Shift the kernels' centres of mass to their middle, and the images, a list of (B, 3, H,
        W), by as much; returns these."""
        along = torch.arange(self.side, device=self.unknown.device) - self.side // 2
        shifts = [
            [-round((kernel.sum(other) * along).sum().item()) for other in (1, 0)]
            for kernel in self.unknown
        ]

        def together(batch):
            return torch.stack([one.roll(shift, (-2, -1)) for one, shift in zip(batch, shifts)])

        self.unknown = together(self.unknown)
        return [together(x) for x in xs]


def moved(x, shift):
    """x, (…, H, W), shifted cyclically by (down, right), fractions of px, by cubic splines."""
    if not any(shift):
        return x
    shift = (*(0,) * (x.dim() - 2), *shift)
    return torch.from_numpy(ndimage.shift(x.cpu().numpy(), shift, order=3, mode="grid-wrap")).to(x)


def nearest_moved(x, truth):
    """(x, (…, H, W), shifted to be nearest to truth, the shift (down, right)): up to SHIFT px, in
    quarters. No measurement determines the shift between kernel and image."""

    def error(shift, move):
        return (move(x, shift) - truth).square().mean().item()

    def rolled(x, shift):
        return x.roll(shift, (-2, -1))

    steps = sorted(range(-SHIFT, SHIFT + 1), key=abs)
    down, right = min(itertools.product(steps, steps), key=lambda shift: error(shift, rolled))
    quarters = [quarter / 4 for quarter in sorted(range(-3, 4), key=abs)]
    near = [(down + i, right + j) for i in quarters for j in quarters]
    shift = min(near, key=lambda shift: error(shift, moved))
    return moved(x, shift), shift


def kernel_error(kernel, true):
    """||kernel - true|| / ||true||, both (k, k), after `nearest_moved`."""
    true = true.to(kernel)
    return ((nearest_moved(kernel, true)[0] - true).norm() / true.norm()).item()
