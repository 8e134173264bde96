"""Blur by a kernel that nobody knows: found along with the picture."""

import itertools
from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from guided_diffusion.kernels import blurring, correlating, mirrored

STEPS = 60  # of FISTA, for one fit of the kernel
PART = 256  # pixels a side, from which the kernel is told
LARGE = 128  # pixels; a picture whose shorter side has as many is first restored at half its size, where a prior of small ones knows it better,
LEAST = 9  # unless the kernel's side has fewer: of half of them little could be told
SHIFT = 4  # pixels; by so much kernel and picture may have moved against each other


def onto_simplex(v):
    """The nearest (B, n) with no negative entry and sum one (Duchi et al. 2008)."""
    sorted_v = v.sort(dim=1, descending=True).values
    excess = (sorted_v.cumsum(1) - 1) / torch.arange(1, v.shape[1] + 1, device=v.device)
    last = (sorted_v > excess).sum(1, keepdim=True) - 1
    return (v - excess.gather(1, last)).clamp(min=0)


def most_structured(y, side):
    """(top, left) of the part of each picture of y, (B, C, H, W), of at most side x side pixels that has the largest differences."""
    differences = y.diff(dim=-2)[..., :, :-1].square() + y.diff(dim=-1)[..., :-1, :].square()
    sides = [min(side, length - 1) for length in y.shape[-2:]]
    step = max(1, side // 8)
    energy = F.avg_pool2d(differences.sum(1, keepdim=True), sides, step)[:, 0]
    places = [divmod(place, energy.shape[-1]) for place in energy.flatten(1).argmax(1).tolist()]
    return [(row * step, column * step) for row, column in places]


class UnknownOperator(ABC):
    """An operator, linear in the picture, that has to find a part of itself: what a solver is given where nobody knows all of A.

    Called with pictures (B, 3, H, W) in [-1, 1] it gives their measurements, (B, …), with the part as it is now. The pictures may move
    with what is found. `solvers.unknown` says when it is asked for what.

    unknown: the part as it is now, (B, …), or (1, …) while it is the same for all; start: what it is before anything was found;
    size: (H, W) of the pictures; logits: how many numbers `softmax` takes for each picture.
    """

    @abstractmethod
    def __call__(self, x): ...

    @abstractmethod
    def refit(self, xs, y):
        """Find `unknown` from guesses of the pictures, a list of (B, 3, H, W), and their measurement y, (B, …)."""

    @abstractmethod
    def centre(self, xs):
        """Move `unknown` to where it belongs and the pictures, a list of (B, 3, H, W), along; returns these. Both moved explain the same."""

    @abstractmethod
    def halved(self, y):
        """(the operator for pictures of half the size, what it makes of them), from y, (B, …); None where that is of no use."""

    @abstractmethod
    def take_over(self, half, x):
        """Have what `half`, as `halved` gives it, has found. Returns its pictures x, (B, 3, H / 2, W / 2), enlarged."""

    @abstractmethod
    def softmax(self, logits):
        """What `unknown` is by numbers without bounds, (B, logits) or (1, logits): for who finds it by gradient."""


class UnknownBlur(UnknownOperator):
    """Cross-correlation of each picture with a kernel of its own, (B, side, side), which `refit` finds from a guess of the picture.

    side: of the largest kernel to expect, odd; size: (H, W) of the pictures; mirror: is the border mirrored (simulated tasks), or does a
    picture reach beyond what was measured? `unknown` holds the kernels as they are now; they begin at `start`, a wide Gaussian, for a
    point would never move.
    """

    def __init__(self, side, size, device, mirror):
        self.side, self.size, self.mirror, self.logits = side, size, mirror, side**2
        point = np.zeros((1, side, side))
        point[0, side // 2, side // 2] = 1
        start = (
            torch.from_numpy(ndimage.gaussian_filter(point, (0, side / 6, side / 6)))
            .float()
            .to(device)
        )
        self.unknown = self.start = start / start.sum()

    def __call__(self, x):
        return (blurring if self.mirror else correlating)(self.unknown, self.size)(x)

    @torch.no_grad()
    def refit(self, xs, y):
        """Find the kernels that explain the differences between neighbours in y, (B, 3, H', W'), best from those in guesses of the pictures, a
        list of (B, 3, H, W): least squares over non-negative kernels of sum one, by FISTA (Beck & Teboulle 2009). A guess errs least in its
        differences, whose errors are nearly white. Grey pictures do, and of large ones a part with much structure."""
        border = self.side // 2
        places = most_structured(y, PART)
        parts = lambda x, side: torch.stack(
            [one[:, top : top + side, left : left + side] for one, (top, left) in zip(x, places)]
        )
        y = parts(y.mean(1, keepdim=True), PART)
        gram = target = 0
        for x in xs:
            x = x.mean(1, keepdim=True)
            x = mirrored(mirrored(x, border, -2), border, -1) if self.mirror else x
            x = parts(x, PART + 2 * border)
            for dim in (-2, -1):
                patches = F.unfold(x.diff(dim=dim), self.side)
                gram, target = (
                    gram + patches @ patches.mT,
                    target + patches @ y.diff(dim=dim).flatten(1)[..., None],
                )
        whole = (gram.isfinite().all((1, 2)) & target.isfinite().all((1, 2)))[
            :, None, None
        ]  # else that picture keeps its kernel
        gram, target = gram.where(whole, 0), target.where(whole, 0)
        rate = 1 / torch.linalg.matrix_norm(gram, 2)[:, None].clamp(
            min=1e-12
        )  # a guess without differences tells nothing
        k = previous = self.unknown.flatten(1).expand(len(y), -1)
        for step in range(STEPS):
            ahead = k + step / (step + 3) * (k - previous)
            k, previous = (
                onto_simplex(ahead - rate * (gram @ ahead[..., None] - target).squeeze(-1)),
                k,
            )
        self.unknown = k.reshape(-1, self.side, self.side)

    def halved(self, y):
        """(the same for pictures of half the size, what it makes of them), from y, (B, 3, H', W'); None if these, or the
        kernels, are small already."""
        if min(self.size) < LARGE or self.side < LEAST:
            return None
        y, side = F.avg_pool2d(y, 2), self.side // 4 * 2 + 1
        size = y.shape[-2:] if self.mirror else [length + side - 1 for length in y.shape[-2:]]
        return UnknownBlur(side, tuple(size), y.device, self.mirror), y

    def take_over(self, half, x):
        """Have the kernels that `half`, as `halved` gives it, has found, enlarged; returns its pictures x, (B, 3, H / 2, W / 2), enlarged, too."""
        kernels = F.interpolate(
            half.unknown[:, None], size=2 * half.side - 1, mode="bilinear", align_corners=True
        )[:, 0]
        kernels = F.pad(kernels, [(self.side - kernels.shape[-1]) // 2] * 4)
        self.unknown = kernels / kernels.sum((1, 2), keepdim=True)
        x = F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False).clamp(-1, 1)
        first = (
            0 if self.mirror else self.side // 2 - half.side // 2 * 2
        )  # rows and columns before the half one's first
        down, right = (length - first - had for length, had in zip(self.size, x.shape[-2:]))
        return F.pad(x, (first, right, first, down), mode="replicate")

    def softmax(self, logits):
        return logits.softmax(1).reshape(-1, self.side, self.side)

    def centre(self, xs):
        """Move the kernels' centres of mass to their middle and the pictures, a list of (B, 3, H, W), along; returns these. Both moved explain
        the same."""
        along = torch.arange(self.side, device=self.unknown.device) - self.side // 2
        shifts = [
            [-round((kernel.sum(other) * along).sum().item()) for other in (1, 0)]
            for kernel in self.unknown
        ]
        together = lambda batch: torch.stack(
            [one.roll(shift, (-2, -1)) for one, shift in zip(batch, shifts)]
        )
        self.unknown = together(self.unknown)
        return [together(x) for x in xs]


def moved(x, shift):
    """x, (…, H, W), moved down and to the right by fractions of a pixel, by cubic splines; what leaves at one side enters at the other."""
    if not any(shift):
        return x
    whole = (0,) * (x.dim() - 2)
    return torch.from_numpy(
        ndimage.shift(x.cpu().numpy(), (*whole, *shift), order=3, mode="grid-wrap")
    ).to(x)


def nearest_moved(x, truth):
    """(x, (…, H, W), moved to be nearest to truth, its shift down and to the right) by up to SHIFT pixels in quarters: no measurement tells
    kernel and picture from both moved against each other, by fractions neither."""
    error = lambda shift, move: (move(x, shift) - truth).square().mean().item()
    steps = sorted(range(-SHIFT, SHIFT + 1), key=abs)
    down, right = min(
        itertools.product(steps, steps),
        key=lambda shift: error(shift, lambda x, shift: x.roll(shift, (-2, -1))),
    )
    quarters = [quarter / 4 for quarter in sorted(range(-3, 4), key=abs)]
    near = [(down + i, right + j) for i in quarters for j in quarters]
    shift = min(near, key=lambda shift: error(shift, moved))
    return moved(x, shift), shift


def kernel_error(found, true):
    """||found - true|| / ||true||, two (k, k), the found one moved as `nearest_moved` does."""
    return ((nearest_moved(found, true.to(found))[0] - true.to(found)).norm() / true.norm()).item()
