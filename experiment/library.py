"""`restore`: restoration from Python, without files."""

import functools
import math
import numbers

import torch

from experiment.methods import load_method
from experiment.presets import load_row, row_names
from experiment.problem import SMALLEST, Batch, Problem
from experiment.recommended import recommended
from experiment.restoration import Iterates
from guided_diffusion.physics import from_physics, is_physics
from guided_diffusion.prior import load_model_config, load_prior
from guided_diffusion.tiles import AnySize, choose_tile
from solvers.least_squares import is_linear, silent
from util.config import config_path
from util.devices import first_line
from util.files import UserError, warn
from util.rng import LAST_SEED, BatchRandom

FAR = 4  # times the largest probe: a y beyond that has other units


@functools.lru_cache(maxsize=1)
def network(prior, device):
    """(the frozen network, the side of its training images) of configs/model_config_<prior>.yaml,
    cached."""
    path = config_path("dataset", prior, "configs/model_config_{}.yaml")
    config = load_model_config(path)
    return load_prior(config, path, device), config["image_size"]


def is_whole(value, low, high):
    return isinstance(value, numbers.Integral) and low <= value <= high


def is_measurement(y):
    is_float = isinstance(y, torch.Tensor) and y.is_floating_point()
    return is_float and y.dim() > 1 and len(y) and torch.isfinite(y).all()


def is_size(size):
    is_pair = isinstance(size, (tuple, list)) and len(size) == 2
    return is_pair and all(is_whole(side, SMALLEST, math.inf) for side in size)


def refuse(y, sigma, task, size, seed, samples):
    """Raise UserError for an argument of `restore` that is wrong for any operator."""
    if not is_measurement(y):
        raise UserError(
            "y: must be a tensor of finite floating-point numbers, (B, …); for complex ones use "
            "torch.view_as_real"
        )
    if not (isinstance(sigma, numbers.Real) and 0 <= sigma < math.inf):
        raise UserError(
            f"sigma: is {sigma}, must be the standard deviation of the noise in units of [-1, 1], "
            "0 or more"
        )
    if not is_whole(samples, 1, LAST_SEED):
        raise UserError(f"samples: is {samples!r}, must be a whole number, 1 or more")
    seeds = seed.seeds if isinstance(seed, BatchRandom) else [seed] * len(y)
    in_range = all(is_whole(one, 0, LAST_SEED + 1 - samples) for one in seeds)
    if len(seeds) != len(y) or not in_range:
        raise UserError(
            f"seed: is {seed!r}, must be a whole number from 0 to 2^32 - 1, as must be those of "
            f"the samples after it, or a BatchRandom of {len(y)} of them"
        )
    if size is not None and not is_size(size):
        raise UserError(f"size: is {size!r}, must be (H, W), {SMALLEST} px or more each")
    if task is not None and task not in row_names():
        raise UserError(f"task: is {task!r}, must be one of {', '.join(sorted(row_names()))}")


def is_of_one_channel(A, y, size):
    """Whether A accepts images of one channel, (B, 1, H, W), and y is shaped like their
    measurement but not like that of three channels."""

    def shape(channels):
        try:
            with torch.no_grad():
                return A(torch.zeros(len(y), channels, *size, device=y.device)).shape
        except Exception:  # anything an operator raises for images of the wrong kind
            return None

    return shape(3) != y.shape == shape(1)


def thrice(channels):
    """Measurements of three channels, a list of three (B, …), as one tensor."""
    return torch.cat(channels, 1) if channels[0].shape[1] == 1 else torch.stack(channels, 1)


def per_channel(operator):
    """An operator on one channel -> an operator on three."""
    return lambda x: thrice([operator(channel) for channel in x.split(1, 1)])


def batch_of(y, operator, sigma, size):
    """The Batch of y = operator(x) + noise, or of a deepinv physics, for images x of `size` (H, W).

    Images of one channel are repeated three times, as grey photographs are. Raises UserError for an
    operator that does not fit y or is not differentiable.
    """
    try:
        grey = is_of_one_channel(operator, y, size)
        if is_physics(operator):
            y, operator, sigma = from_physics(operator, y, sigma, (1 if grey else 3, *size))
        if grey:
            y, operator = thrice([y] * 3), per_channel(operator)
        x = torch.zeros(len(y), 3, *size, device=y.device, requires_grad=True)
        out = operator(x)
        torch.autograd.grad(out.sum(), x)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # anything a user's operator raises
        raise UserError(
            f"operator: cannot be used for images of {size[0]} x {size[1]} ({first_line(error)}); "
            "it must be a differentiable function of (B, 3, H, W); for other sizes pass size=(H, W)"
        ) from error
    if out.shape != y.shape:
        raise UserError(
            f"y: is {tuple(y.shape)}, but operator returns {tuple(out.shape)} for images of "
            f"{size[0]} x {size[1]}; for other sizes pass size=(H, W)"
        )
    problem = Problem(operator, y, sigma, tuple(size))
    return Batch(problem, [str(i) for i in range(len(y))], grey=grey)


def device_of(device, y):
    """The device to compute on, y's by default. Raises UserError for one that is unavailable."""
    try:
        device = y.device if device is None else torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device: is {device!r}, must be cpu or an available GPU, cuda:0, cuda:1, … "
            f"({first_line(error)})"
        ) from error
    return device


def sample_rng(seed, sample, batch):
    """The BatchRandom of a sample, whose seeds are seed + sample; the first continues a BatchRandom
    that was passed."""
    if isinstance(seed, BatchRandom):
        return BatchRandom([one + sample for one in seed.seeds]) if sample else seed
    return BatchRandom([seed + sample] * batch)


@torch.no_grad()
def row_for(operator, x):
    """The row for an operator that no task file describes; x: (B, 3, H, W), not zero."""
    y = operator(x)
    if y.shape == x.shape and torch.equal(y, x):
        return "denoising"
    return "default" if is_linear(operator, x) else "nonlinear"


@torch.no_grad()
def warn_if_far(problem, probe):
    """Warn if y is far larger than what the operator makes of images in [-1, 1]: it may be in
    0 … 255. probe: (B, 3, H, W) standard normal."""
    images = torch.ones_like(probe), -torch.ones_like(probe), probe.sign()
    largest = max(problem.operator(x).norm().item() for x in images)
    noise, size = problem.sigma * problem.y.numel() ** 0.5, problem.y.norm().item()
    if size > FAR * (largest + noise):
        warn(
            f"y: is {size / (largest + noise):.3g} times as large as operator makes images in "
            "[-1, 1]; scale y, sigma and operator to that range (x / 127.5 - 1 for 0 … 255)"
        )


@torch.inference_mode(False)
@torch.enable_grad()
def restore(
    y,
    operator,
    sigma=0.01,
    prior="demo",
    method=None,
    preset="fast",
    size=None,
    seed=123,
    samples=1,
    device=None,
    on_iterate=None,
    task=None,
):
    """Restore images x from y = operator(x) + noise -> (B, 3, H, W) in [-1, 1], or with samples > 1
    (samples, B, 3, H, W), sample k with seed + k.

    With preset="posterior" the samples are posterior samples: their standard deviation s is the
    uncertainty of each value, and mean -+ t s sqrt(1 + 1 / samples) is an interval for the value
    (`util.intervals.interval`).

    y: (B, …). operator: any differentiable function of (B, 3, H, W) in [-1, 1], or a deepinv
    physics, whose images are in [0, 1] and whose y and sigma are scaled accordingly. sigma:
    standard deviation of the noise in units of [-1, 1]. prior: configs/model_config_<prior>.yaml.
    preset: of configs/restore.yaml, which chooses the method: quick, fast, sharp or posterior; or,
    with a method's name as `method`, of configs/<method>.yaml. task: the row of the preset; by
    default `denoising` for the identity, `nonlinear` for operators that are not linear, and
    `default`. size: (H, W), by default the prior's. seed: an integer or a BatchRandom to continue.
    device: by default y's. on_iterate(name, x): called with every iterate.

    Raises UserError, in one line, for anything that cannot be restored. Global state (PyTorch's
    flags, the current GPU, matplotlib's backend) is left unchanged.
    """
    refuse(y, sigma, task, size, seed, samples)
    method = method and load_method(method)
    device = device_of(device, y)
    model, side = network(prior, device)
    y = y.detach().clone()  # else it remains a tensor of the caller's inference mode
    batch = batch_of(y.to(device, torch.float32), operator, sigma, size or (side, side))
    problem = batch.problem
    eps = AnySize(model, choose_tile(model, problem.size, side, len(y), device))
    probe = BatchRandom([0] * len(y)).randn((3, *problem.size), device)
    warn_if_far(problem, probe)
    task = task or row_for(problem.operator, probe)
    if method is None:
        name, preset = recommended(preset, task, prior)
        method = load_method(name)
    h = load_row(method, task, preset, dataset=prior)
    restored = []
    for sample in range(samples):
        iterates = Iterates(problem, eps, sample_rng(seed, sample, len(y)), h)
        for iterate in iterates(method.solver, silent):
            if not torch.isfinite(iterate.x).all():
                raise UserError(
                    f"restore: {iterate.name} is not finite; the operator's values or gradients "
                    "may be too large, scale it and y"
                )
            if on_iterate:
                on_iterate(iterate.name, batch.output(iterate.x))
        restored.append(batch.output(iterate.x))
    return torch.stack(restored) if samples > 1 else restored[0]
