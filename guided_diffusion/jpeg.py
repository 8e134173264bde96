"""JPEG as a linear operator, and the contract of operators whose measurements are quantised."""

import functools
import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F

from guided_diffusion.errors import cosines, dct

HALF = 0.5  # half an interval: y is known to within one step of its table
SIGMA = 12**-0.5  # standard deviation of quantisation in steps, for solvers that expect noise
BLOCK = 8  # px a side
# From R, G, B in [-1, 1] to Y, Cb, Cr as they are transformed, in levels of 8 bits (JFIF).
LEVELS = 127.5
TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)
TO_GREY = ((1 / 3, 1 / 3, 1 / 3),)
# Annex K of ITU-T T.81, as scaled by libjpeg's quality.
LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


class QuantisedOperator(ABC):
    """A linear operator A, (B, 3, H, W) in [-1, 1] -> (B, K, R, C), whose measurements y are
    quantised: A(x) + rounding e is within HALF of y, e standard normal.

    `solvers.quantised` calls the methods. Attributes: size: (H, W) of the images; rounding:
    (K, 1, 1), the standard deviation of the noise before quantisation, in steps; gains: (K, 1, 1),
    the squared norm of the image `inverse` of one step, up to a common factor.
    """

    @abstractmethod
    def __call__(self, x): ...

    @abstractmethod
    def rows(self):
        """(K, 3, h, w): the rows of A for one place (R, C), in the middle of a small image."""

    @abstractmethod
    def inverse(self, v):
        """An image, (B, 3, H, W), with A(inverse(v)) = v, (B, K, R, C)."""

    def possible(self, x):
        """The nearest images, (B, 3, H, W), that can have been measured: by default all can."""
        return x

    @functools.cached_property
    def _power(self):
        return dct(self.rows()).square()

    def deviation(self, errors, sigma):
        """The root mean squared error of A(x0_hat) under noise sigma, (K, 1, 1), in steps; errors:
        the `guided_diffusion.errors.Errors` of x0_hat."""
        power = self._power
        variance = errors.deviation(sigma, tuple(power.shape[-2:]), power.device).square()
        return (power * variance).sum((1, 2, 3)).sqrt()[:, None, None]


class Component(NamedTuple):
    """A colour component of a JPEG. table: (8, 8), steps of its DCT coefficients by vertical and
    horizontal frequency, in levels of 8 bits; blocks: (vertical, horizontal), in each MCU."""

    table: torch.Tensor
    blocks: tuple


def tables(quality):
    """libjpeg's tables of luma and chroma for a quality of 1 … 100, two (8, 8) float32."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [
        ((torch.tensor(table) * scale + 50) // 100).clamp(1, 255).float()
        for table in (LUMA_TABLE, CHROMA_TABLE)
    ]


def block_rows(component, mcu):
    """(n, h, w): the rows that measure a component's n coefficients in an MCU of (h, w) px, from
    its values there: means of px, transformed, in steps of the table."""
    height, width = (BLOCK * count for count in component.blocks)
    identity = torch.eye(height * width).reshape(-1, height, width)
    down, right = mcu[0] // height, mcu[1] // width
    means = identity.repeat_interleave(down, 1).repeat_interleave(right, 2) / (down * right)
    basis = cosines(BLOCK, torch.device("cpu"))
    patterns = torch.einsum("ui,vj->uvij", basis, basis) / component.table[:, :, None, None]
    rows = []
    for i in range(component.blocks[0]):
        for j in range(component.blocks[1]):
            corner = means.reshape(height, width, *mcu)
            corner = corner[BLOCK * i : BLOCK * (i + 1), BLOCK * j : BLOCK * (j + 1)]
            rows.append(torch.einsum("uvij,ijhw->uvhw", patterns, corner).flatten(0, 1))
    return torch.cat(rows)


class JPEG(QuantisedOperator):
    """y = D R C x / q: C converts to Y, Cb, Cr, R averages chroma over the px that share it, D is
    the DCT of blocks of 8 x 8, q are the tables. Block-diagonal by MCU: one matrix, (K, 3 h w).

    components: three Components, or one of a grey JPEG, which measures the mean of the channels;
    size: (H, W), multiples of the MCU's. y: (B, K, H / h, W / w), of each MCU the components' 64
    coefficients by block.
    """

    def __init__(self, components, size, device="cpu"):
        self.components, self.size = components, tuple(size)
        self.mcu = tuple(BLOCK * max(one.blocks[axis] for one in components) for axis in (0, 1))
        colours = torch.tensor(TO_YCBCR if len(components) == 3 else TO_GREY) * LEVELS
        back = torch.linalg.pinv(colours).T  # the rows of one component are orthogonal
        weight, inverse, steps = [], [], []
        for component, row, column in zip(components, colours, back):
            rows = block_rows(component, self.mcu)[:, None]
            weight.append(row[:, None, None] * rows)
            squares = rows.square().sum((1, 2, 3), keepdim=True)
            inverse.append(column[:, None, None] * rows / squares)
            steps.append(component.table.flatten().repeat(math.prod(component.blocks)))
        self.weight, self.pseudo_inverse = (torch.cat(w).to(device) for w in (weight, inverse))
        self.rounding = (SIGMA / torch.cat(steps))[:, None, None].to(device)
        self.gains = self.pseudo_inverse.square().sum((1, 2, 3))[:, None, None]

    @staticmethod
    def padded(components, y):
        """(H, W) of the images, whole MCUs, that y, (B, K, R, C), measures."""
        most = (max(one.blocks[axis] for one in components) for axis in (0, 1))
        return tuple(BLOCK * count * n for count, n in zip(most, y.shape[-2:]))

    def __call__(self, x):
        return F.conv2d(x, self.weight, stride=self.mcu)

    def inverse(self, v):
        return F.conv_transpose2d(v, self.pseudo_inverse, stride=self.mcu)

    def possible(self, x):
        """A grey JPEG's picture has three equal channels."""
        return x.mean(1, keepdim=True).expand_as(x) if len(self.components) == 1 else x

    def rows(self):
        return F.pad(self.weight, (self.mcu[1],) * 2 + (self.mcu[0],) * 2)


class ReducedJPEG(QuantisedOperator):
    """A JPEG of a picture reduced by an integer factor: y = A(M_h x M_w^T).

    jpeg: A; matrix: one of `guided_diffusion.kernels.FILTERS`, M of one axis.
    """

    def __init__(self, jpeg, factor, matrix, device="cpu"):
        self.jpeg, self.factor, self.rounding = jpeg, factor, jpeg.rounding
        self.size = tuple(factor * side for side in jpeg.size)
        axes = [matrix(side, factor) for side in self.size]
        self.reduction = [one.to(device) for one in axes]
        self.enlargement = [torch.linalg.pinv(one).to(device) for one in axes]
        self.matrix, self.gains = matrix, jpeg.gains

    def __call__(self, x):
        by_height, by_width = self.reduction
        return self.jpeg(by_height @ x @ by_width.T)

    def inverse(self, v):
        by_height, by_width = self.enlargement
        return by_height @ self.jpeg.inverse(v) @ by_width.T

    def possible(self, x):
        return self.jpeg.possible(x)

    def rows(self):
        rows = self.jpeg.rows()
        axes = (self.matrix(self.factor * side, self.factor) for side in rows.shape[-2:])
        by_height, by_width = (one.to(rows) for one in axes)
        return by_height.T @ rows @ by_width
