"""Operators of deepinv (github.com/deepinv/deepinv, optional), whose images are in [0, 1], for
images in [-1, 1]."""

import inspect
import sys
import warnings

import torch


def is_physics(operator):
    """Whether it is a physics of deepinv; does not import deepinv."""
    return "deepinv" in sys.modules and isinstance(operator, sys.modules["deepinv"].physics.Physics)


def is_linear_physics(physics):
    return isinstance(physics, sys.modules["deepinv"].physics.LinearPhysics)


def in_our_range(physics):
    """A for images x in [-1, 1]: physics.A(x) if linear, else 2 physics.A((x + 1) / 2). Either way
    the noise is twice that of deepinv's measurement."""
    return physics.A if is_linear_physics(physics) else lambda x: 2 * physics.A((x + 1) / 2)


def from_physics(physics, y, sigma, size):
    """deepinv's measurement y of images in [0, 1] and its noise, as (y, operator, sigma) for
    images in [-1, 1] of `size` (C, H, W).

    Linear: physics.A(2 u - 1) = 2 physics.A(u) - physics.A(1).
    """
    A = in_our_range(physics)
    with torch.no_grad():
        offset = A(torch.ones(len(y), *size, device=y.device)) if is_linear_physics(physics) else 0
    return 2 * y - offset, A, 2 * sigma


def load_physics(options, size):
    """The physics named in a task file, for images of `size` (H, W), the same for every image; its
    own generator has seed 0. options: the section measurement.operator.

    img_size and img_width default to the images'. Raises UserError if deepinv is not installed, for
    an unknown class, and for arguments that it refuses or with which it is not real and
    differentiable.
    """
    try:
        from deepinv import physics as known
    except ImportError as error:
        problem = f"is deepinv, which cannot be imported ({error}); pip install deepinv"
        raise options.error("name", problem) from error
    name = options.take("physics", str)
    kind = getattr(known, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, known.Physics)):
        problem = f"is {name}, must be a class of deepinv.physics, such as Tomography"
        raise options.error("physics", problem)
    accepted = inspect.signature(kind.__init__).parameters
    defaults = {"img_size": (3, *size), "img_width": size[1]}
    defaults["rng"] = torch.Generator().manual_seed(0)
    defaults = {key: value for key, value in defaults.items() if key in accepted}
    keys = [key for key in options.values if key not in ("name", "physics")]
    given = {key: options.take(key, object) for key in keys}
    try:
        with warnings.catch_warnings():  # deepinv only warns about unknown arguments
            warnings.filterwarnings("error", "Arguments .* are ignored")
            physics = kind(**{**defaults, **given})
        x = torch.full((1, 3, *size), 0.5, requires_grad=True)
        torch.autograd.grad(in_our_range(physics)(x).square().sum(), x)
    except Exception as error:  # deepinv raises many classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        problem = (
            f"{name} fails for images of {size[0]} x {size[1]} ({reason}); correct its arguments"
        )
        raise options.error("physics", problem) from error
    return physics.requires_grad_(False)
