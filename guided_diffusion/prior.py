"""Model config + checkpoint -> a frozen network, with errors a user can act on."""

import math
import os

import torch

from guided_diffusion.ddim import linear_alphas_cumprod
from guided_diffusion.errors import load_errors
from guided_diffusion.unet import create_model
from util.config import Section, load_yaml
from util.files import UserError, project, project_files, read_state_dict, warn

REQUIRED = {"image_size": int, "num_channels": int, "num_res_blocks": int, "model_path": str}
OPTIONAL = {
    "channel_mult": str,
    "attention_resolutions": (int, str),
    "num_heads": int,
    "num_head_channels": int,
    "num_heads_upsample": int,
    "dropout": float,
    "learn_sigma": bool,
    "class_cond": bool,
    "use_checkpoint": bool,
    "use_scale_shift_norm": bool,
    "resblock_updown": bool,
    "use_fp16": bool,
    "use_new_attention_order": bool,
    "norm_groups": int,
}
MAY_BE_UNSET = ("num_head_channels", "num_heads_upsample")  # -1: not given

# Options which change no shape: weights load with whatever they say. TRIED: what they may be instead, where predictions look wrong.
SHAPELESS = (
    "use_new_attention_order",
    "num_heads",
    "num_head_channels",
    "num_heads_upsample",
    "norm_groups",
)
HEADS = [{"num_head_channels": n} for n in (64, 32, 128, 16)] + [
    {"num_head_channels": -1, "num_heads": n} for n in (4, 1, 8, 2)
]
ORDERS = [{"use_new_attention_order": order} for order in (False, True)]
TRIED = (
    [{"norm_groups": n} for n in (32, 16, 8, 4)]
    + ORDERS
    + [{**order, **heads} for order in ORDERS for heads in HEADS]
)
LOOKED_AT = (100, 999)  # timesteps: attention shows in little noise, norms in much
EXPECTED = (
    0.03,
    0.001,
)  # the mean squared error of eps at these: what the built-in priors, old and new, stay well below
BETTER = 0.7  # the ratio of errors from which on another option is the right one
LARGEST_LOOK = 128  # pixels a side of the picture looked at


def load_model_config(path):
    """The keys of a `model_config_*.yaml` as a dict for `create_model`. Raises UserError, naming file and key, for one
    that is missing, unknown or of the wrong type, and for a class-conditional model."""
    section = Section(load_yaml(path), path)
    config = {}
    for key, kind in {**REQUIRED, **OPTIONAL}.items():
        if key in REQUIRED or key in section.values:
            config[key] = section.take(
                key, kind, lambda v: kind is not int or v > 0 or (v == -1 and key in MAY_BE_UNSET)
            )
    section.finish()
    if config.get("class_cond"):
        raise section.error(
            "class_cond", "is True, but both methods need a prior without class labels"
        )
    return config


def build_model(config, path):
    """`create_model(**config)`, its complaints as a UserError that names the file `path`."""
    try:
        return create_model(**config)
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise UserError(f"{path}: {str(error).replace('create_model() ', '')}") from error


def shapes(state):
    return {name: tensor.shape for name, tensor in state.items()}


def fitting_configs(state):
    """The shipped model configs whose network has exactly these keys and shapes."""
    fitting = []
    for path in project_files("configs/model_config_*.yaml"):
        try:
            with torch.device("meta"):  # shapes without weights
                model = build_model(load_model_config(path), path)
        except UserError:  # broken, but not what the user asked for
            continue
        if shapes(model.state_dict()) == shapes(state):
            fitting.append(path)
    return fitting


def frozen(model, device, precision="fp32"):
    """The network on the device in eval mode, with no parameter that takes a gradient. precision: "bf16" computes the torso's
    convolutions in bfloat16."""
    if precision == "bf16":
        model.convert_torso(torch.bfloat16)
    # Not in channels_last, which would be 5 to 10 % faster on a CPU: its rounding takes whole runs out of the tolerances of
    # tests/conformance.py.
    return model.eval().requires_grad_(False).to(device)


def first_difference(state, wanted, path):
    """The first tensor in which a checkpoint differs from the network of the config `path`, with both shapes; both {name: shape}."""
    for name, shape in wanted.items():
        if name not in state:
            return f"{name}, {tuple(shape)} by {path}, is missing"
        if state[name] != shape:
            return f"{name} is {tuple(state[name])}, {tuple(shape)} by {path}"
    name = next(name for name in state if name not in wanted)
    return f"{name}, {tuple(state[name])}, is not in the network of {path}"


@torch.no_grad()
def noise_errors(model, size, device):
    """The mean squared error of eps at each of LOOKED_AT, in a smooth picture of `size` pixels a side under noise: a list."""
    ramp = torch.linspace(-1, 1, size)
    y, x = ramp[:, None], ramp[None]
    picture = 0.5 * torch.stack(
        [(2 * x + 1).sin() * (1.5 * y).cos() - 0.2, (1.7 * x - y).sin(), (2 * y + x).cos()]
    )
    noise = torch.randn(len(LOOKED_AT), *picture.shape, generator=torch.Generator().manual_seed(0))
    abar = linear_alphas_cumprod()[list(LOOKED_AT)][:, None, None, None]
    x_t = (abar.sqrt() * picture + (1 - abar).sqrt() * noise).to(device)
    eps = model(x_t, torch.tensor(LOOKED_AT, dtype=torch.float32, device=device))[:, : len(picture)]
    return (eps.float().cpu() - noise).square().mean((1, 2, 3)).tolist()


def better_options(config, path, model, errors, size, device):
    """Those of TRIED with which the weights of `model` predict noise best; None if not much better than with the options of `config`."""
    ratio_of = {}
    for i, change in enumerate(TRIED):
        try:
            with torch.device("meta"):  # the weights are there already
                other = build_model({**config, **change}, path)
        except UserError:  # channels that do not divide so
            continue
        other.load_state_dict(model.state_dict(), assign=True)
        ratios = [
            new / old for new, old in zip(noise_errors(frozen(other, device), size, device), errors)
        ]
        ratio_of[i] = math.prod(ratios) ** (1 / len(ratios))
    best = min(ratio_of, key=ratio_of.get)
    return (
        {k: v for k, v in TRIED[best].items() if config.get(k) != v}
        if ratio_of[best] < BETTER
        else None
    )


def warn_of_options(config, path, model, device):
    """Look at what the network predicts, and warn if an option must be another one than in training, or the weights are untrained."""
    size = min(config["image_size"], LARGEST_LOOK)  # convolutional: a part of a large picture does
    errors = noise_errors(model, size, device)
    if all(error < expected for error, expected in zip(errors, EXPECTED)):
        return
    predicts_nothing = all(abs(error - 1) < 0.1 for error in errors)
    better = None if predicts_nothing else better_options(config, path, model, errors, size, device)
    if better or not errors[-1] < 0.3:  # nan, too
        seen = ", ".join(f"{error:.2g} at t = {t}" for error, t in zip(errors, LOOKED_AT))
        hint = (
            f"; {' with '.join(f'{key}: {value}' for key, value in better.items())} would do better"
            if better
            else ""
        )
        warn(
            f"{config['model_path']} predicts noise badly with {path} (mean squared error {seen}){hint}. The weights are untrained, or "
            f"one of the options which change no shape ({', '.join(SHAPELESS)}) is not as in their training"
        )


def load_prior(config, path, device, precision="fp32"):
    """Build the UNet of `config` (read from `path`), load its checkpoint strictly, freeze it and look at what it predicts.

    The checkpoint is the config's `model_path`, a state dict. Returns what `frozen` returns, with `errors`, the checkpoint's
    `guided_diffusion.errors.Errors` or None. Raises UserError for a missing, unreadable or foreign checkpoint or table.
    """
    checkpoint = project(config["model_path"])
    if not os.path.isfile(checkpoint):
        raise UserError(
            f"{checkpoint}: no such checkpoint ({path} names it); models/README.md says where to get it"
        )
    model = build_model(config, path)
    state = read_state_dict(checkpoint)
    if shapes(state) != shapes(model.state_dict()):
        fitting = ", ".join(fitting_configs(state)) or "none of the shipped configs"
        difference = first_difference(shapes(state), shapes(model.state_dict()), path)
        raise UserError(f"{checkpoint}: does not fit {path}; it fits {fitting}: {difference}")
    model.load_state_dict(state)
    model = frozen(model, device)
    warn_of_options(config, path, model, device)
    model.errors = load_errors(checkpoint)
    return frozen(model, device, precision)
