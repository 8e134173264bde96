"""A restoration from Python, without files: what `dmilo.restore` is made of."""
import functools

import torch

from experiment.arguments import config_path
from experiment.hyperparameters import load_hyperparameters
from experiment.problem import Problem
from experiment.restoration import Iterates
from experiment.runner import choose_tile
from guided_diffusion.physics import as_task, is_physics
from guided_diffusion.prior import load_model_config, load_prior
from guided_diffusion.tiles import AnySize
from solvers.least_squares import is_linear, silent
from util.devices import choose_device
from util.files import UserError
from util.rng import BatchRandom


@functools.lru_cache(maxsize=1)
def network(prior, device):
    """(the frozen network, the side of the pictures it was trained on) of configs/model_config_<prior>.yaml, loaded once."""
    path = config_path("dataset", prior, "configs/model_config_{}.yaml")
    config = load_model_config(path)
    return load_prior(config, path, device), config["image_size"]


def checked(y, operator, sigma, size):
    """The Problem of y = operator(x) + noise for pictures x of `size` (H, W). Raises UserError for what cannot be one."""
    if not (isinstance(y, torch.Tensor) and y.is_floating_point() and y.dim() > 1 and torch.isfinite(y).all()):
        raise UserError("y: must be a tensor of finite floating-point numbers, (B, …); of complex ones torch.view_as_real")
    if not 0 <= sigma < 2:
        raise UserError(f"sigma: is {sigma}, must be the noise's standard deviation in units of [-1, 1], 0 or more")
    with torch.no_grad():
        shape = operator(torch.zeros(len(y), 3, *size, device=y.device)).shape
    if shape != y.shape:
        raise UserError(f"y: is {tuple(y.shape)}, operator gives {tuple(shape)} for pictures of {size[0]} x {size[1]}; say their size=(H, W)")
    return Problem([str(i) for i in range(len(y))], operator, y, sigma, {}, tuple(size), None)


def draws(seed, sample, batch):
    """The BatchRandom of a sample: the first goes on with the one that is given, or begins at the seed; the others at seed + sample."""
    if isinstance(seed, BatchRandom):
        return BatchRandom([one + sample for one in seed.seeds]) if sample else seed
    return BatchRandom([seed + sample] * batch)


@torch.enable_grad()
def restored(method, solver, kind, y, operator, sigma, prior, preset, task, size, seed, samples, device, on_iterate):
    """See `dmilo.restore`; solver, kind: the method's generator and the dataclass of its rows."""
    device = y.device if device is None else torch.device(device)
    device = choose_device(-1 if device.type == "cpu" else device.index or 0)
    model, side = network(prior, device)
    y, size = y.to(device), size or (side, side)
    if is_physics(operator):
        y, operator, sigma = as_task(operator, y, sigma, size)
    problem = checked(y, operator, sigma, size)
    eps = AnySize(model, choose_tile(model, problem.size, side, len(y), device))
    probe = BatchRandom([0] * len(y)).randn((3, *problem.size), device)
    row = task or ("default" if is_linear(operator, probe) else "nonlinear")
    h = load_hyperparameters(f"configs/{method}.yaml", row, kind, preset)
    found = []
    for sample in range(samples):
        for name, X, _ in Iterates(problem, eps, draws(seed, sample, len(y)), h)(solver, silent):
            if not torch.isfinite(X).all():
                raise UserError(f"restore: {name} is not finite; the operator's values or gradients may be too large, scale it and y")
            if on_iterate:
                on_iterate(name, X)
        found.append(X)
    return torch.stack(found) if samples > 1 else X
