"""Blur kernels of random camera shake, after Levi Borodenko's ``motionblur``.

python -c "from motionblur.motionblur import Kernel; Kernel((64, 64), 0.5).displayKernel()"
"""

import os
from functools import cached_property
from numbers import Integral, Real

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

EPS = 0.1  # keeps steps and angles from vanishing at the ends of the intensity range


def _step_lengths(rng, diagonal, intensity):
    """Lengths of the path's steps in canvas px: together at least a random path length."""
    max_length = 0.75 * diagonal * (rng.uniform() + rng.uniform(0, intensity**2))
    steps, total = [], 0.0
    while total < max_length:
        step = rng.beta(1, 30) * (1 - intensity + EPS) * diagonal
        if step < max_length:
            steps.append(step)
            total += step
    return np.array(steps)


def _step_angles(rng, count, intensity):
    """Direction of each step in radians: it keeps turning one way until a jitter reverses it."""
    max_angle = rng.uniform(0, intensity * np.pi)
    jitter = rng.beta(2, 20)
    angles = [rng.uniform(-max_angle, max_angle)]
    while len(angles) < count:
        angle = rng.triangular(0, intensity * max_angle, max_angle + EPS)
        turn = -1 if rng.uniform() < jitter else 1
        angles.append(turn * np.sign(angles[-1]) * angle)
    return np.array(angles)


def _random_path(rng, diagonal, intensity):
    """Positions x + 1j*y of the shaking camera in canvas px, their mean at the origin."""
    steps = _step_lengths(rng, diagonal, intensity)
    path = np.cumsum(steps * np.exp(1j * _step_angles(rng, len(steps), intensity)))
    return (path - path.mean()) * np.exp(1j * rng.uniform(0, np.pi))


def _draw(path, size, diagonal):
    """The path as a soft white line on black, rendered at twice `size` and reduced to it."""
    canvas = Image.new("L", (2 * size[0], 2 * size[1]))
    points = [(p.real + size[0], p.imag + size[1]) for p in path]
    # The published width is 0, which leaves the canvas empty, where the diagonal is below 150.
    ImageDraw.Draw(canvas).line(points, fill=255, width=max(1, int(diagonal / 150)))
    canvas = canvas.filter(ImageFilter.GaussianBlur(radius=int(diagonal * 0.01)))
    return np.asarray(canvas.resize(size, Image.LANCZOS), dtype=np.float64)


def _as_image(image):
    """`image` (path, Pillow image or uint8 array) as a Pillow image with 8 bits a band."""
    if isinstance(image, (str, os.PathLike)):
        image = Image.open(image)
    elif not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.dtype != np.uint8:
            raise ValueError(f"an image given as an array must be uint8, got {array.dtype}")
        image = Image.fromarray(array)
    return image if image.mode in ("L", "LA", "RGB", "RGBA") else image.convert("RGB")


class Kernel:
    """One random camera shake as a blur kernel (method of Levi Borodenko's motionblur).

    Args:
        size: (width, height) of the kernel in px, a tuple of two positive ints.
        intensity: in [0, 1]; 0 gives a straight line, 1 the most erratic path.
        rng: `np.random` or a `np.random.RandomState`, used when `kernelMatrix` is first read.

    Raises:
        ValueError: `size` or `intensity` is not as described.
    """

    def __init__(self, size=(100, 100), intensity=0, rng=np.random):
        if not (
            isinstance(size, tuple)
            and len(size) == 2
            and all(isinstance(side, Integral) and side > 0 for side in size)
        ):
            raise ValueError(f"size must be a tuple of two positive ints (w, h), got {size!r}")
        if not (isinstance(intensity, Real) and 0 <= intensity <= 1):
            raise ValueError(f"intensity must be a number in [0, 1], got {intensity!r}")
        self.size = size
        self.intensity = intensity
        self.rng = rng

    @cached_property
    def kernelMatrix(self):
        """The kernel: float64 array (height, width), non-negative, sum 1."""
        diagonal = 2 * np.hypot(*self.size)
        path = _random_path(self.rng, diagonal, self.intensity)
        line = _draw(path, self.size, diagonal)
        if not line.any():
            # A path bent round the canvas: centre it on its middle step, not on its mean.
            line = _draw(path - path[len(path) // 2], self.size, diagonal)
        return line / line.sum()

    def displayKernel(self, show=True):
        """Return the kernel as a Pillow image, its largest entry white; `show` opens a viewer."""
        image = Image.fromarray(
            np.uint8(np.rint(255 * self.kernelMatrix / self.kernelMatrix.max()))
        )
        if show:
            image.show()
        return image

    def applyTo(self, image, keep_image_dim=False):
        """Convolve every band of an image with the kernel.

        Args:
            image: a path, a Pillow image, or a uint8 array (H, W) or (H, W, C).
            keep_image_dim: True mirrors the borders and keeps the size; False gives the region
                that needs no border, (H - h + 1, W - w + 1) for a kernel of (h, w).

        Returns:
            A Pillow image of mode L, LA, RGB or RGBA (other modes become RGB).

        Raises:
            ValueError: an array that is not uint8, or an image smaller than the kernel where
                the size is not kept.
        """
        image = _as_image(image)
        if not keep_image_dim and (image.width < self.size[0] or image.height < self.size[1]):
            raise ValueError(
                f"image {image.size} is smaller than the kernel {self.size}: "
                "pass keep_image_dim=True"
            )
        bands = np.asarray(image, dtype=np.float64).reshape(image.height, image.width, -1)
        if keep_image_dim:
            width, height = self.size
            borders = ((height // 2, (height - 1) // 2), (width // 2, (width - 1) // 2), (0, 0))
            bands = np.pad(bands, borders, mode="symmetric")
        from scipy.signal import fftconvolve  # here, as importing it takes a second

        blurred = fftconvolve(bands, self.kernelMatrix[..., None], mode="valid", axes=(0, 1))
        values = np.uint8(np.clip(np.rint(blurred), 0, 255))
        return Image.fromarray(values.squeeze(2) if values.shape[2] == 1 else values)
