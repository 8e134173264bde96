"""Model config + checkpoint -> a frozen network, with errors a user can act on."""
import glob
import os

import torch

from guided_diffusion.unet import create_model
from util.config import Section, load_yaml
from util.files import UserError, read_state_dict


REQUIRED = {"image_size": int, "num_channels": int, "num_res_blocks": int, "model_path": str}
OPTIONAL = {
    "channel_mult": str, "attention_resolutions": (int, str), "num_heads": int, "num_head_channels": int,
    "num_heads_upsample": int, "dropout": float, "learn_sigma": bool, "class_cond": bool, "use_checkpoint": bool,
    "use_scale_shift_norm": bool, "resblock_updown": bool, "use_fp16": bool, "use_new_attention_order": bool,
    "norm_groups": int,
}
MAY_BE_UNSET = ("num_head_channels", "num_heads_upsample")  # -1: not given


def load_model_config(path):
    """The keys of a `model_config_*.yaml` as a dict for `create_model`. Raises UserError, naming file and key, for one
    that is missing, unknown or of the wrong type, and for a class-conditional model."""
    section = Section(load_yaml(path), path)
    config = {}
    for key, kind in {**REQUIRED, **OPTIONAL}.items():
        if key in REQUIRED or key in section.values:
            config[key] = section.take(key, kind, lambda v: kind is not int or v > 0 or (v == -1 and key in MAY_BE_UNSET))
    section.finish()
    if config.get("class_cond"):
        raise section.error("class_cond", "is True, but both methods need a prior without class labels")
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
    for path in sorted(glob.glob("configs/model_config_*.yaml")):
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


def load_prior(config, path, device, precision="fp32"):
    """Build the UNet of `config` (read from `path`), load its checkpoint strictly and freeze it.

    The checkpoint is the config's `model_path`, a bare state dict. Returns what `frozen` returns. Raises UserError for a
    missing, unreadable or foreign checkpoint.
    """
    checkpoint = config["model_path"]
    if not os.path.isfile(checkpoint):
        raise UserError(f"{checkpoint}: no such checkpoint ({path} names it); models/README.md says where to get it")
    model = build_model(config, path)
    state = read_state_dict(checkpoint)
    if shapes(state) != shapes(model.state_dict()):
        fitting = ", ".join(fitting_configs(state)) or "none of the shipped configs"
        raise UserError(f"{checkpoint}: does not fit {path}; it fits {fitting}")
    model.load_state_dict(state)
    return frozen(model, device, precision)
