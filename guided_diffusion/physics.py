"""The operators of deepinv (github.com/deepinv/deepinv), whose pictures are in [0, 1], for pictures in [-1, 1]. deepinv is optional."""

import inspect
import sys
import warnings

import torch


def is_physics(operator):
    """Is it one of deepinv's? Nothing is imported: who has one has deepinv."""
    return "deepinv" in sys.modules and isinstance(operator, sys.modules["deepinv"].physics.Physics)


def is_linear_physics(physics):
    return isinstance(physics, sys.modules["deepinv"].physics.LinearPhysics)


def in_our_range(physics):
    """A for pictures in [-1, 1], such that noise of y = A(x) + n is twice that of physics(u) + n / 2, u = (x + 1) / 2."""
    return physics.A if is_linear_physics(physics) else lambda x: 2 * physics.A((x + 1) / 2)


def as_task(physics, y, sigma, size):
    """What was measured by a physics of pictures in [0, 1], as (y, operator, sigma) of pictures in [-1, 1] and `size` (C, H, W). By a linear
    one: physics.A(2 u - 1) = 2 physics.A(u) - physics.A(1)."""
    A = in_our_range(physics)
    with torch.no_grad():
        offset = A(torch.ones(len(y), *size, device=y.device)) if is_linear_physics(physics) else 0
    return 2 * y - offset, A, 2 * sigma


def load_physics(options, size):
    """The physics that a task file names with its arguments, for pictures of `size` (H, W); what is random in it is drawn once, by a
    generator of its own, for an instrument is the same for every picture. options: the section measurement.operator.

    img_size and img_width follow from the pictures unless they are given. Raises UserError where deepinv is not installed, for a
    name that it does not have and for arguments that the physics refuses or for which it gives no real, differentiable tensor.
    """
    try:
        from deepinv import physics as known
    except ImportError as error:
        raise options.error(
            "name", f"is deepinv, which cannot be imported here ({error}); pip install deepinv"
        ) from error
    name = options.take("physics", str)
    kind = getattr(known, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, known.Physics)):
        raise options.error(
            "physics",
            f"is {name}, must be the name of a class in deepinv.physics, such as Tomography",
        )
    accepted = inspect.signature(kind.__init__).parameters
    usual = {"img_size": (3, *size), "img_width": size[1], "rng": torch.Generator().manual_seed(0)}
    given = {
        key: options.take(key, object) for key in options.values if key not in ("name", "physics")
    }
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "error", "Arguments .* are ignored"
            )  # deepinv only warns of an argument that it does not know
            physics = kind(
                **{**{key: value for key, value in usual.items() if key in accepted}, **given}
            )
        x = torch.full((1, 3, *size), 0.5, requires_grad=True)
        torch.autograd.grad(in_our_range(physics)(x).square().sum(), x)
    except Exception as error:  # whatever a constructor of theirs says
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise options.error(
            "physics",
            f"{name} cannot be used for pictures of {size[0]} x {size[1]} ({said}); correct its arguments",
        ) from error
    return physics.requires_grad_(False)
