"""Loads a prior: model config and checkpoint -> a frozen network; explains what is wrong with
them."""

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
MAY_BE_UNSET = ("num_head_channels", "num_heads_upsample")  # by -1

# Options that do not change any shape, so that weights load with wrong values. TRIED: the values
# tested if predictions are bad.
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
CHECKED = (100, 999)  # timesteps: little noise depends on attention, much noise on norms
EXPECTED = (0.03, 0.001)  # upper bounds of eps' mean squared error there, far above our priors'
BETTER = 0.7  # ratio of errors below which other options are the right ones
LARGEST_CHECK = 128  # px a side of the test image


def load_model_config(path):
    """The keys of a `model_config_*.yaml` as a dict for `create_model`. Raises UserError, with file
    and key, for a missing, unknown or invalid one, and for a class-conditional model."""
    section, config = Section(load_yaml(path), path), {}

    def valid(value):
        return kind is not int or value > 0 or (value == -1 and key in MAY_BE_UNSET)

    for key, kind in {**REQUIRED, **OPTIONAL}.items():
        if key in REQUIRED or key in section.values:
            config[key] = section.take(key, kind, valid)
    section.finish()
    if config.get("class_cond"):
        raise section.error("class_cond", "is True, but the prior must not need class labels")
    return config


def build_model(config, path):
    """`create_model(**config)`; its errors become a UserError that names the file `path`."""
    try:
        return create_model(**config)
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise UserError(f"{path}: {str(error).replace('create_model() ', '')}") from error


def shapes(state):
    return {name: tensor.shape for name, tensor in state.items()}


def fitting_configs(state):
    """The paths of the included model configs whose network has exactly these names and shapes."""
    fitting = []
    for path in project_files("configs/model_config_*.yaml"):
        try:
            with torch.device("meta"):  # shapes only
                model = build_model(load_model_config(path), path)
        except UserError:  # invalid, but not the user's choice
            continue
        if shapes(model.state_dict()) == shapes(state):
            fitting.append(path)
    return fitting


def frozen(model, device, precision="fp32"):
    """The network in eval mode on the device, without gradients of its parameters. precision:
    "bf16" computes the torso's convolutions in bfloat16."""
    if precision == "bf16":
        model.convert_torso(torch.bfloat16)
    # Not channels_last, which is 5 to 10 % faster on a CPU: its rounding moves runs beyond the
    # tolerances of tests/conformance.py.
    return model.eval().requires_grad_(False).to(device)


def first_difference(state, wanted, path):
    """The first tensor in which a checkpoint's shapes `state` differ from `wanted`, those of the
    config `path`, as a text; both {name: shape}."""
    for name, shape in wanted.items():
        if name not in state:
            return f"{name}, {tuple(shape)} by {path}, is missing"
        if state[name] != shape:
            return f"{name} is {tuple(state[name])}, {tuple(shape)} by {path}"
    name = next(name for name in state if name not in wanted)
    return f"{name}, {tuple(state[name])}, is not in the network of {path}"


@torch.no_grad()
def noise_errors(model, size, device):
    """The mean squared errors of eps at CHECKED for a smooth image of size x size px, a list."""
    ramp = torch.linspace(-1, 1, size)
    y, x = ramp[:, None], ramp[None]
    channels = (2 * x + 1).sin() * (1.5 * y).cos() - 0.2, (1.7 * x - y).sin(), (2 * y + x).cos()
    image = 0.5 * torch.stack(channels)
    noise = torch.randn(len(CHECKED), *image.shape, generator=torch.Generator().manual_seed(0))
    abar = linear_alphas_cumprod()[list(CHECKED)][:, None, None, None]
    x_t = (abar.sqrt() * image + (1 - abar).sqrt() * noise).to(device)
    eps = model(x_t, torch.tensor(CHECKED, dtype=torch.float32, device=device))[:, :3]
    return (eps.float().cpu() - noise).square().mean((1, 2, 3)).tolist()


def better_options(config, path, model, errors, size, device):
    """The values of TRIED with which the weights of `model` predict noise best, {option: value};
    None unless much better than with `config`, whose errors are `errors`."""
    ratio_of = {}
    for i, change in enumerate(TRIED):
        try:
            with torch.device("meta"):  # without allocating weights
                other = build_model({**config, **change}, path)
        except UserError:  # channels that cannot be divided so
            continue
        other.load_state_dict(model.state_dict(), assign=True)
        others = noise_errors(frozen(other, device), size, device)
        ratios = [new / old for new, old in zip(others, errors)]
        ratio_of[i] = math.prod(ratios) ** (1 / len(ratios))
    best = min(ratio_of, key=ratio_of.get)
    if ratio_of[best] < BETTER:
        return {k: v for k, v in TRIED[best].items() if config.get(k) != v}
    return None


def warn_of_options(config, path, model, device):
    """Warn if the network predicts noise badly: the weights are untrained, or one of SHAPELESS is
    not as in training."""
    size = min(config["image_size"], LARGEST_CHECK)
    errors = noise_errors(model, size, device)
    if all(error < expected for error, expected in zip(errors, EXPECTED)):
        return
    predicts_nothing = all(abs(error - 1) < 0.1 for error in errors)
    better = None if predicts_nothing else better_options(config, path, model, errors, size, device)
    if better or not errors[-1] < 0.3:  # nan, too
        figures = ", ".join(f"{error:.2g} at t = {t}" for error, t in zip(errors, CHECKED))
        options = " with ".join(f"{key}: {value}" for key, value in (better or {}).items())
        hint = f"; {options} would do better" if better else ""
        warn(
            f"{config['model_path']} predicts noise badly with {path} (mean squared error "
            f"{figures}; trained: below {EXPECTED[0]:g} and {EXPECTED[1]:g}){hint}. The weights "
            "are untrained and results meaningless, or one of the options without a shape "
            f"({', '.join(SHAPELESS)}) is not as in training"
        )


@torch.inference_mode(False)  # within which tensors are created that allow no gradient
def load_prior(config, path, device, precision="fp32"):
    """The frozen UNet of `config`, read from `path`, with the weights of its `model_path`, a state
    dict.

    Its attribute `errors` is the checkpoint's `guided_diffusion.errors.Errors` or None. Raises
    UserError for a missing, unreadable or different checkpoint, and for an invalid table of errors;
    warns if its predictions are bad (`warn_of_options`).
    """
    checkpoint = project(config["model_path"])
    if not os.path.isfile(checkpoint):
        raise UserError(
            f"{checkpoint}: no such checkpoint ({path} names it); models/README.md says where to "
            "get it"
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
