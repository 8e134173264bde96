"""A restoration from Python, without files: `dmilo.restore`."""

import functools
import math
import numbers

import torch

from experiment.methods import OURS, load_method
from experiment.presets import load_hyperparameters, row_names
from experiment.problem import SMALLEST, Problem
from experiment.restoration import Iterates
from guided_diffusion.physics import as_task, is_physics
from guided_diffusion.prior import load_model_config, load_prior
from guided_diffusion.tiles import AnySize, choose_tile
from solvers.least_squares import is_linear, silent
from util.config import config_path
from util.devices import first_line
from util.files import UserError
from util.rng import LAST_SEED, BatchRandom


@functools.lru_cache(maxsize=1)
def network(prior, device):
    """(the frozen network, the side of the pictures it was trained on) of configs/model_config_<prior>.yaml, loaded once."""
    path = config_path("dataset", prior, "configs/model_config_{}.yaml")
    config = load_model_config(path)
    return load_prior(config, path, device), config["image_size"]


def is_whole(value, low, high):
    return isinstance(value, numbers.Integral) and low <= value <= high


def refuse(y, sigma, task, size, seed, samples):
    """Raise UserError for an argument of `restore` that cannot be right whatever the operator."""
    if not (
        isinstance(y, torch.Tensor)
        and y.is_floating_point()
        and y.dim() > 1
        and len(y)
        and torch.isfinite(y).all()
    ):
        raise UserError(
            "y: must be a tensor of finite floating-point numbers, (B, …); of complex ones torch.view_as_real"
        )
    if not (isinstance(sigma, numbers.Real) and 0 <= sigma < math.inf):
        raise UserError(
            f"sigma: is {sigma}, must be the noise's standard deviation in units of [-1, 1], 0 or more"
        )
    if not is_whole(samples, 1, LAST_SEED):
        raise UserError(f"samples: is {samples!r}, must be a whole number, 1 or more")
    seeds = seed.seeds if isinstance(seed, BatchRandom) else [seed] * len(y)
    if not (
        len(seeds) == len(y) and all(is_whole(one, 0, LAST_SEED + 1 - samples) for one in seeds)
    ):
        raise UserError(
            f"seed: is {seed!r}, must be a whole number from 0 to 2^32 - 1, with the samples' that follow, or a BatchRandom of {len(y)} of them"
        )
    if size is not None and not (
        isinstance(size, (tuple, list))
        and len(size) == 2
        and all(is_whole(side, SMALLEST, math.inf) for side in size)
    ):
        raise UserError(f"size: is {size!r}, must be (H, W), {SMALLEST} pixels or more each")
    if task is not None and task not in row_names():
        raise UserError(f"task: is {task!r}, must be one of {', '.join(sorted(row_names()))}")


def is_of_one_channel(A, y, size):
    """Is y what A makes of pictures of one channel, (B, 1, H, W), and of no others?"""

    def shape(channels):
        try:
            with torch.no_grad():
                return A(torch.zeros(len(y), channels, *size, device=y.device)).shape
        except (
            Exception
        ):  # whatever an operator of somebody's says of pictures that it is not made for
            return None

    return shape(3) != y.shape == shape(1)


def problem_of(y, operator, sigma, size):
    """The Problem of y = operator(x) + noise, or of a physics of deepinv, for pictures x of `size` (H, W). Those of one channel stand in x three
    times, as grey photographs do. Raises UserError for what cannot be one."""
    try:
        grey = is_of_one_channel(operator, y, size)
        if is_physics(operator):
            y, operator, sigma = as_task(operator, y, sigma, (1 if grey else 3, *size))
        if grey:
            one = operator
            thrice = lambda of_each: (
                torch.cat(of_each, 1) if of_each[0].shape[1] == 1 else torch.stack(of_each, 1)
            )  # (B, 3, …)
            y, operator = (
                thrice([y] * 3),
                lambda x: thrice([one(channel) for channel in x.split(1, 1)]),
            )
        x = torch.zeros(len(y), 3, *size, device=y.device, requires_grad=True)
        out = operator(x)
        torch.autograd.grad(out.sum(), x)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an operator of somebody's says
        said = f"cannot be used for pictures of {size[0]} x {size[1]} ({first_line(error)})"
        raise UserError(
            f"operator: {said}; it must be a differentiable function of (B, 3, H, W), say their size=(H, W)"
        ) from error
    if out.shape != y.shape:
        raise UserError(
            f"y: is {tuple(y.shape)}, operator gives {tuple(out.shape)} for pictures of {size[0]} x {size[1]}; say their size=(H, W)"
        )
    return Problem(
        [str(i) for i in range(len(y))], operator, y, sigma, {}, tuple(size), None, grey=grey
    )


def device_of(device, y):
    """The device that `restore` computes on. Raises UserError for one that is not here."""
    try:
        device = y.device if device is None else torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device: is {device!r}, must be cpu or cuda:0, cuda:1, … of a GPU that is here ({first_line(error)})"
        ) from error
    return device


def draws(seed, sample, batch):
    """The BatchRandom of a sample: the first goes on with the one that is given, or begins at the seed; the others at seed + sample."""
    if isinstance(seed, BatchRandom):
        return BatchRandom([one + sample for one in seed.seeds]) if sample else seed
    return BatchRandom([seed + sample] * batch)


@torch.no_grad()
def row_for(operator, x):
    """The row of an operator that no task file names; x: (B, 3, H, W), not zero."""
    y = operator(x)
    if y.shape == x.shape and torch.equal(y, x):
        return "denoising"
    return "default" if is_linear(operator, x) else "nonlinear"


@torch.enable_grad()
def restore(
    y,
    operator,
    sigma=0.01,
    prior="demo",
    method="dmilo",
    preset="fast",
    size=None,
    seed=123,
    samples=1,
    device=None,
    on_iterate=None,
    task=None,
):
    """The pictures behind y = operator(x) + noise, (B, 3, H, W) in [-1, 1]; with samples > 1 (samples, B, 3, H, W), sample k from the
    draws of seed + k.

    With preset="posterior" each sample is a draw from the pictures that y leaves open: their standard deviation says how sure each value is,
    and mean -+ t s sqrt(1 + 1 / samples) holds the share of true values that Student's t says (`util.intervals.interval`).

    y: (B, …); operator: any differentiable function of (B, 3, H, W) in [-1, 1], or a physics of deepinv, whose y belongs to pictures in
    [0, 1], and sigma to y; sigma: the noise's standard deviation in units of [-1, 1]; prior: configs/model_config_<prior>.yaml; method:
    "dmilo" or "dmilo-pgd"; preset, task: the table in configs/<method>.yaml and its row, by default `default` or, of an operator that does
    nothing, `denoising` and of one that is not linear, `nonlinear`; size: (H, W), by default the prior's; seed: a number or a BatchRandom to go on with; device: by default y's;
    on_iterate(name, X): hears of every iterate. Raises UserError, one line, for what cannot be restored. What is set for the whole
    process (PyTorch's flags, its current GPU, how plots are shown) is left as it is.
    """
    refuse(y, sigma, task, size, seed, samples)
    if method not in OURS:
        raise UserError(f"method: is {method!r}, must be one of {', '.join(OURS)}")
    device = device_of(device, y)
    model, side = network(prior, device)
    problem = problem_of(
        y.detach().to(device, torch.float32), operator, sigma, size or (side, side)
    )
    eps = AnySize(model, choose_tile(model, problem.size, side, len(y), device))
    probe = BatchRandom([0] * len(y)).randn((3, *problem.size), device)
    row = task or row_for(problem.operator, probe)
    method = load_method(method)
    h = load_hyperparameters(method, row, preset, dataset=prior)
    found = []
    for sample in range(samples):
        for iterate in Iterates(problem, eps, draws(seed, sample, len(y)), h)(
            method.solver, silent
        ):
            if not torch.isfinite(iterate.x).all():
                raise UserError(
                    f"restore: {iterate.name} is not finite; the operator's values or gradients may be too large, scale it and y"
                )
            if on_iterate:
                on_iterate(iterate.name, problem.shown(iterate.x))
        found.append(problem.shown(iterate.x))
    return torch.stack(found) if samples > 1 else found[0]
