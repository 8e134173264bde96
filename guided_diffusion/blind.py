"""Blur by a kernel that nobody knows: found along with the picture."""
import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from guided_diffusion.kernels import blurring, correlating, mirrored

STEPS = 60  # of FISTA, for one fit of the kernel
PART = 256  # pixels a side, from which the kernel is told
SHIFT = 4  # pixels; by so much kernel and picture may have moved against each other


def onto_simplex(v):
    """The nearest (B, n) with no negative entry and sum one (Duchi et al. 2008)."""
    sorted_v = v.sort(dim=1, descending=True).values
    excess = (sorted_v.cumsum(1) - 1) / torch.arange(1, v.shape[1] + 1, device=v.device)
    last = (sorted_v > excess).sum(1, keepdim=True) - 1
    return (v - excess.gather(1, last)).clamp(min=0)


def most_structured(y, side):
    """(top, left) of the part of y, (B, C, H, W), of at most side x side pixels that has the largest differences."""
    differences = y.diff(dim=-2)[..., :, :-1].square() + y.diff(dim=-1)[..., :-1, :].square()
    sides = [min(side, length - 1) for length in y.shape[-2:]]
    step = max(1, side // 8)
    energy = F.avg_pool2d(differences.sum((0, 1), keepdim=True), sides, step)[0, 0]
    row, column = divmod(int(energy.argmax()), energy.shape[1])
    return row * step, column * step


class UnknownBlur:
    """Cross-correlation of each picture with a kernel of its own, (B, side, side), which `refit` finds from a guess of the picture.

    side: of the largest kernel to expect, odd; size: (H, W) of the pictures; mirror: is the border mirrored (simulated tasks), or does a
    picture reach beyond what was measured? `unknown` holds the kernels as they are now; they begin at `start`, a wide Gaussian, for a
    point would never move.
    """

    def __init__(self, side, size, device, mirror):
        self.side, self.size, self.mirror = side, size, mirror
        point = np.zeros((1, side, side))
        point[0, side // 2, side // 2] = 1
        start = torch.from_numpy(gaussian_filter(point, (0, side / 6, side / 6))).float().to(device)
        self.unknown = self.start = start / start.sum()

    def __call__(self, x):
        return (blurring if self.mirror else correlating)(self.unknown, self.size)(x)

    @torch.no_grad()
    def refit(self, x, y):
        """Find the kernels that explain y, (B, 3, H', W'), best from the pictures x, (B, 3, H, W): least squares over non-negative kernels of
        sum one, by FISTA (Beck & Teboulle 2009). Of large pictures a part with much structure has to do."""
        border = self.side // 2
        x = mirrored(mirrored(x, border, -2), border, -1) if self.mirror else x
        top, left = most_structured(y, PART)
        y = y[..., top : top + PART, left : left + PART]
        x = x[..., top : top + PART + 2 * border, left : left + PART + 2 * border]
        gram = target = 0
        for channel, wanted in zip(x.split(1, 1), y.split(1, 1)):
            patches = F.unfold(channel, self.side)
            gram, target = gram + patches @ patches.mT, target + patches @ wanted.flatten(1)[..., None]
        rate = 1 / torch.linalg.matrix_norm(gram, 2)[:, None]
        k = previous = self.unknown.flatten(1).expand(len(x), -1)
        for step in range(STEPS):
            ahead = k + step / (step + 3) * (k - previous)
            k, previous = onto_simplex(ahead - rate * (gram @ ahead[..., None] - target).squeeze(-1)), k
        self.unknown = k.reshape(-1, self.side, self.side)

    def softmax(self, logits):
        """The kernels, (B, side, side), behind logits, (B, side^2): for who finds them by gradient."""
        return logits.softmax(1).reshape(-1, self.side, self.side)

    def centre(self, x):
        """Move the kernels' centres of mass to their middle and the pictures along; returns these. Both moved explain the same."""
        along = torch.arange(self.side, device=x.device) - self.side // 2
        moved, kernels = [], []
        for picture, kernel in zip(x, self.unknown):
            shift = [-round((kernel.sum(other) * along).sum().item()) for other in (1, 0)]
            moved.append(picture.roll(shift, (-2, -1)))
            kernels.append(kernel.roll(shift, (-2, -1)))
        self.unknown = torch.stack(kernels)
        return torch.stack(moved)


def kernel_error(found, true):
    """||found - true|| / ||true||, two (k, k), the found one moved as `shifted` moves it to be nearest."""
    true = true.to(found)
    return min((one - true).norm() for one in shifted(found)).item() / true.norm().item()


def shifted(x):
    """x (…, H, W) itself first, then moved by up to SHIFT pixels in every direction, what leaves at one side entering at the other."""
    steps = sorted(range(-SHIFT, SHIFT + 1), key=abs)
    return [x.roll((down, right), (-2, -1)) for down in steps for right in steps]
