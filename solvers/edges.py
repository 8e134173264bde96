"""The blur kernel of a photograph from its strong edges; no network is needed.

Kernel and sharp picture are estimated in turn, from coarse to fine (Xu, Zheng & Jia, CVPR 2013; Pan
et al., CVPR 2014). Kernels are those of a cross-correlation; pictures are grey, (H, W) in [0, 1].
"""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy import fft, ndimage

from guided_diffusion.blind import kernel_error, most_structured, nearest_moved, onto_simplex
from guided_diffusion.kernels import FAMILIES

SCALE = 2**-0.5  # of the pyramid: from one scale to the next smaller one
COARSEST = 3  # px: side of the kernel at the smallest scale
ROUNDS = 8  # at each scale: a sharp picture for the kernel, then a kernel for the picture
# What a nonzero gradient of the sharp picture costs: at first, in attempts whose likely kernels are
# averaged; its decrease per round; at last.
WEIGHTS, DECREASE, LEAST_WEIGHT = (8e-3, 2e-2, 4e-2, 8e-2), 1.1, 1e-3
STIFFEST = 1e4  # the last of the doubling weights that tie the picture to its sparse gradients
STRONGEST = 0.15  # share of the sharp picture's gradients that the kernel is fitted to
RIDGE = 0.02  # weight of the kernel's squares, in units of the energy of these gradients
STEPS = 60  # of FISTA per fit of the kernel
POWERS = 15  # of the matrix of that fit, for its largest eigenvalue
CUT = 0.05  # of a kernel's largest value: smaller ones are noise
EVIDENCE_ROUNDS, EVIDENCE_STEPS = 5, 6  # of `evidence_cost`, with conjugate gradients in each
LEAST_SIGMA = 2 / 255  # of the evidence: no kernel, and no model of gradients, is more exact
LEAST_GAIN = 0.08  # of a kernel's evidence over no blur; with less the picture is not blurred
ALIKE = 0.03  # difference of evidence up to which two kernels are equally likely
TIE = 0.01  # by which a kernel near to a family's may be likelier, as it has more numbers
NARROWEST = 0.4  # largest value of a kernel that blurs
LARGEST_DOUBT = 1 / 2  # of a kernel; with more the picture has too few edges
CROP, FAMILY_CROP = 384, 144  # px a side: the part of a picture with the strongest gradients
FINER, STARTS = 3, 4  # times that the grid of a family's numbers is halved; around how many
ROUND = "disk", "gauss"  # families without a direction
PART = 0.1  # of a kernel's sum: smaller connected components are noise


def gradients(x):
    """Cyclic forward differences of x, (…, H, W) -> (…, 2, H, W): down, right."""
    return torch.stack([x.roll(-1, -2) - x, x.roll(-1, -1) - x], -3)


def difference_filters(size, like):
    """The transfer functions of `gradients`, (2, H, W // 2 + 1)."""
    point = torch.zeros(size).to(like)
    point[0, 0] = 1
    return torch.fft.rfft2(gradients(point))


def transfer(kernel, size):
    """The transfer function of the cyclic cross-correlation with a kernel, (k, k), k odd."""
    side = len(kernel)
    padded = F.pad(kernel, (0, size[1] - side, 0, size[0] - side))
    return torch.fft.rfft2(padded.roll((-(side // 2),) * 2, (0, 1))).conj()


def periodic(y, margin):
    """y, (H, W), extended at the ends of both axes by `margin` px or more, which lead linearly back
    to the first ones, to a size with a fast Fourier transform."""
    for dim in (0, 1):
        missing = fft.next_fast_len(y.shape[dim] + margin, real=True) - y.shape[dim]
        share = torch.arange(1, missing + 1).to(y) / (missing + 1)
        share = share[:, None] if dim == 0 else share
        first, last = y.narrow(dim, 0, 1), y.narrow(dim, y.shape[dim] - 1, 1)
        y = torch.cat([y, (1 - share) * last + share * first], dim)
    return y


def sharp_picture(y, kernel, weight):
    """argmin_x ||k * x - y||^2 + weight (number of nonzero gradients of x), by half-quadratic
    splitting with doubling stiffness. y: (H, W), periodic."""
    H, D = transfer(kernel, y.shape), difference_filters(y.shape, y)
    data, gain = H.conj() * torch.fft.rfft2(y), H.abs().square()
    roughness = D.abs().square().sum(0)
    x, beta = y, 2 * weight
    while beta < STIFFEST:
        g = gradients(x)
        g = g * (g.square().sum(0) > weight / beta)
        spectrum = data + beta * (D.conj() * torch.fft.rfft2(g)).sum(0)
        x = torch.fft.irfft2(spectrum / (gain + beta * roughness), y.shape)
        beta *= 2
    return x


def largest_eigenvalue(gram):
    """Of a symmetric (n, n), by power iteration, rounded up."""
    v = torch.linspace(1, 2, len(gram)).to(gram)
    for _ in range(POWERS):
        v = gram @ (v / v.norm().clamp(min=1e-30))
    return 1.05 * v.norm().clamp(min=1e-12)


def fitted_kernel(x, y, observed, start):
    """The non-negative kernel of sum one that maps gradients x, (2, H, W), to those of the blurred
    picture, y, by least squares where `observed`, (H, W), is 1. FISTA (Beck & Teboulle 2009) from
    the kernel `start`, (k, k)."""
    size, side = x.shape[-2:], len(start)
    X, Y, of_observed = (torch.fft.rfft2(one) for one in (x, observed * y, observed * x))
    products = torch.stack([(X * one.conj()).sum(0) for one in (Y, of_observed)])
    with_y, with_x = torch.fft.irfft2(products, size).double()
    along = torch.arange(side, device=x.device) - side // 2
    rows, columns = (one.flatten() for one in torch.meshgrid(along, along, indexing="ij"))
    gram = with_x[rows[:, None] - rows, columns[:, None] - columns]
    gram = (gram + gram.T) / 2  # of the observed px and all others, in both orders
    gram.diagonal().add_(RIDGE * with_x[0, 0])
    rate = 1 / largest_eigenvalue(gram)
    target = with_y[rows, columns]
    k = previous = start.flatten().double()
    for step in range(STEPS):
        ahead = k + step / (step + 3) * (k - previous)
        k, previous = onto_simplex((ahead - rate * (gram @ ahead - target))[None])[0], k
    return k.reshape(side, side).to(x)


def centred(kernel):
    """The kernel, (k, k), moved by whole px so that its centre of mass is in its middle px."""
    along = torch.arange(len(kernel)).to(kernel) - len(kernel) // 2
    shift = [-round((kernel.sum(other) * along).sum().item()) for other in (1, 0)]
    return kernel.roll(shift, (0, 1))


def cleaned(kernel):
    """The kernel, (k, k), without small values and small components, centred, of sum one."""
    k = kernel * (kernel >= CUT * kernel.max())
    labels, count = ndimage.label(k.numpy(), [[1] * 3] * 3)
    sums = ndimage.sum_labels(k.numpy(), labels, range(count + 1))
    k = k * torch.from_numpy(sums >= min(PART * sums.sum(), sums.max()))[torch.from_numpy(labels)]
    return centred(k / k.sum())


def resized(x, size):
    """x, (H, W), by bicubic interpolation, antialiased."""
    options = {"mode": "bicubic", "align_corners": False, "antialias": True}
    return F.interpolate(x[None, None], size=tuple(size), **options)[0, 0]


def scales(side):
    """(the kernel's odd side, the factor of the picture) at each scale, from COARSEST to `side`."""
    count = max(0, math.ceil(math.log(COARSEST / side, SCALE)))
    factors = [SCALE**n for n in range(count, -1, -1)]
    return [(max(COARSEST, math.ceil(side * factor) | 1), factor) for factor in factors]


def kernel_from_edges(y, side, weight):
    """The blur kernel, (side, side), of a blurred picture y. side: odd, 3 or more; weight: what a
    nonzero gradient of the sharp picture costs at first."""
    k = torch.full((COARSEST, COARSEST), 1 / COARSEST**2)
    for here, factor in scales(side):
        size = [round(length * factor) for length in y.shape]
        small = periodic(resized(y, size) if factor < 1 else y, 2 * here)
        observed, border = torch.zeros_like(small), here // 2
        observed[border : size[0] - 1 - border, border : size[1] - 1 - border] = 1
        if here > len(k):
            k = resized(k, (here, here)).clamp(min=0)
            k = cleaned(k / k.sum())
        for _ in range(ROUNDS):
            x = gradients(sharp_picture(small, k, weight))
            strength = x.square().sum(0)
            x = x * (strength > strength.flatten().quantile(1 - STRONGEST))
            k = cleaned(fitted_kernel(x, gradients(small), observed, k))
            weight = max(weight / DECREASE, LEAST_WEIGHT)
    return k


def evidence_cost(y, kernel, sigma, border):
    """Minus twice the log likelihood of the kernel per gradient of y, without a constant: gradients
    of the sharp picture have independent normal distributions of unknown variance, the posterior is
    approximated by independent ones (variational Bayes: Wipf & Zhang 2014).

    sigma: of the noise of y; border: px, half the side of the largest kernel that is compared.
    """
    (height, width), down_right = y.shape, ((1, 0), (0, 1))
    size = [fft.next_fast_len(length + 2 * border, real=True) for length in y.shape]
    g, observed = torch.zeros(2, *size), torch.zeros(2, *size)
    for dim, (down, right) in enumerate(down_right):
        inside = slice(border, border + height - down), slice(border, border + width - right)
        g[dim][inside], observed[dim][inside] = y.diff(dim=dim), 1
    H, energy, noise = transfer(kernel, size), kernel.square().sum(), 2 * sigma**2

    def blurred(x, H):
        return torch.fft.irfft2(H * torch.fft.rfft2(x), size)

    x, precision = g, 1 / (g.square() + g.square().mean())
    for _ in range(EVIDENCE_ROUNDS):
        variance = 1 / (energy / noise + precision)  # of the posterior, and the preconditioner

        def apply(x):
            return blurred(observed * blurred(x, H), H.conj()) / noise + precision * x

        x = preconditioned(apply, blurred(g, H.conj()) / noise, x, variance)
        precision = 1 / (x.square() + variance).mean(0, keepdim=True)
    residual = observed * (blurred(x, H) - g)
    cost = precision * x.square() + (noise + energy / precision).log()
    return ((residual.square().sum() / noise + (observed * cost).sum()) / observed.sum()).item()


def preconditioned(apply, b, x, inverse):
    """A few conjugate gradient steps for apply(x) = b from x, with a diagonal preconditioner."""
    residual = b - apply(x)
    direction = scaled = inverse * residual
    norm = (residual * scaled).sum()
    for _ in range(EVIDENCE_STEPS):
        image = apply(direction)
        rate = norm / (direction * image).sum().clamp(min=1e-30)
        x, residual = x + rate * direction, residual - rate * image
        scaled, previous = inverse * residual, norm
        norm = (residual * scaled).sum()
        direction = scaled + norm / previous.clamp(min=1e-30) * direction
    return x


class FoundKernel(NamedTuple):
    """kernel: (k, k), its centre of mass in its middle px; doubt: the largest `kernel_error` of the
    likely estimates to it, 0 for a family; gain: by how much its `evidence_cost` is smaller than
    without blur."""

    kernel: torch.Tensor
    doubt: float
    gain: float

    @property
    def is_idle(self):
        """Whether it explains the picture hardly better than no blur, or hardly blurs."""
        return self.gain < LEAST_GAIN or self.kernel.max().item() > NARROWEST

    @property
    def is_trusted(self):
        return not self.is_idle and self.doubt < LARGEST_DOUBT


def cropped(y, side):
    """At most side x side px of y, (H, W): those with the largest gradients."""
    if max(y.shape) <= side:
        return y
    ((top, left),) = most_structured(y[None, None], side)
    return y[top : top + side, left : left + side]


def point(y):
    """The kernel of no blur, (3, 3)."""
    return F.pad(torch.ones(1, 1).to(y), [1] * 4)


def straight_motion(kernel):
    """(length in px, angle in degrees) of the straight line whose longer standard deviation is that
    of a kernel, (k, k)."""
    along = torch.arange(len(kernel)).to(kernel) - len(kernel) // 2
    up, right = torch.meshgrid(-along, along, indexing="ij")
    positions = torch.stack([right, up]).flatten(1)
    positions = positions - (positions * kernel.flatten()).sum(1, keepdim=True)
    variances, axes = torch.linalg.eigh(positions * kernel.flatten() @ positions.T)
    angle = torch.atan2(axes[1, 1], axes[0, 1]).rad2deg().item() % 180
    return (12 * variances[1]).sqrt().item(), angle


def padded(kernel, side):
    """A kernel with zeros around it, (side, side) or larger."""
    return F.pad(kernel, [max(0, side - len(kernel)) // 2] * 4)


def find_kernel(y, side, sigma):
    """(the FoundKernel of a blurred picture y with noise sigma, its family or None, the numbers):
    the mean of the likely ones among estimates from edges with different WEIGHTS, or the member of
    a family that is likelier, or as likely and near. Kernels are at most `side` px a side, odd, 3
    or more."""
    y, border, sigma = cropped(y, CROP), side // 2 + 1, max(sigma, LEAST_SIGMA)
    kernels = [kernel_from_edges(y, side, weight) for weight in WEIGHTS]
    costs = [evidence_cost(y, kernel, sigma, border) for kernel in kernels]
    best = kernels[costs.index(min(costs))]
    likely = [one for one, cost in zip(kernels, costs) if cost < min(costs) + ALIKE]
    aligned = torch.stack([nearest_moved(one, best)[0] for one in likely])
    mean = cleaned(aligned.mean(0).clamp(min=0))
    of_mean = cost = evidence_cost(y, mean, sigma, border)
    chosen, doubt = (mean, None, ()), max(kernel_error(one, mean) for one in likely)

    grids = {name: FAMILIES[name].grids for name in ROUND}
    length, angle = straight_motion(mean)
    grids["motion"] = [[v - step, v, v + step] for v, step in ((length, 2), (angle, 10))]
    choices = {}
    for name, grid in grids.items():
        estimate, numbers = find_of_family(name, y, sigma, side, grid)
        ahead = of_mean - evidence_cost(y, estimate.kernel, sigma, border)
        kernel, edges = padded(estimate.kernel, side), padded(mean, len(estimate.kernel))
        if ahead > ALIKE:
            choices[ahead] = (estimate.kernel, name, numbers), 0.0
        elif ahead > -TIE and kernel_error(kernel, edges) < LARGEST_DOUBT:
            choices[ahead] = (estimate.kernel, name, numbers), doubt
    if choices:
        cost = of_mean - max(choices)
        chosen, doubt = choices[max(choices)]
    gain = evidence_cost(y, point(y), sigma, border) - cost
    return FoundKernel(chosen[0], doubt, gain), *chosen[1:]


def find_of_family(name, y, sigma, side, grids=None):
    """(the FoundKernel of a blurred picture y with noise sigma, its numbers) in a family of
    `guided_diffusion.kernels.FAMILIES`, of at most `side` px a side: the one with the least
    `evidence_cost` on a grid (grids: of each number; None: the family's), then on finer ones around
    the best STARTS first numbers."""
    y, family, border = cropped(y, FAMILY_CROP), FAMILIES[name], side // 2
    grids, sigma = grids or family.grids, max(sigma, LEAST_SIGMA)

    def cost(numbers):
        if not 0 < numbers[0] * family.widest <= side:
            return math.inf
        kernel = torch.from_numpy(family.kernel(*numbers)).float()
        return evidence_cost(y, kernel, sigma, border + 1)

    costs, initial = {one: cost(one) for one in itertools.product(*grids)}, {}
    for numbers in sorted(costs, key=costs.get):
        initial.setdefault(numbers[0], numbers)  # the best of each first number
    for best in [*initial.values()][:STARTS]:
        steps = [grid[1] - grid[0] for grid in grids]
        for _ in range(FINER):
            steps = [step / 2 for step in steps]
            near = itertools.product(*((v - step, v, v + step) for v, step in zip(best, steps)))
            near = {one: costs[one] if one in costs else cost(one) for one in near}
            costs.update(near)
            best = min(near, key=near.get)
    best = min(costs, key=costs.get)
    kernel = torch.from_numpy(family.kernel(*best)).float()
    gain = evidence_cost(y, point(y), sigma, border + 1) - costs[best]
    return FoundKernel(kernel, 0.0, gain), best
