"""Model config + checkpoint -> a frozen network, with errors a user can act on."""
import glob
import os

import torch

from guided_diffusion.unet import create_model
from util.config import load_yaml
from util.files import UserError, read_state_dict


def load_model_config(path):
    """The keys of a `model_config_*.yaml` as a dict for `create_model`. Raises UserError for a broken file."""
    config = load_yaml(path)
    for key in ("image_size", "num_channels", "num_res_blocks", "model_path"):
        if key not in config:
            raise UserError(f"{path}: the key {key} is missing; configs/model_config_demo.yaml shows a complete file")
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
        with torch.device("meta"):  # shapes without weights
            if shapes(build_model(load_model_config(path), path).state_dict()) == shapes(state):
                fitting.append(path)
    return fitting


def load_prior(config, path, device):
    """Build the UNet of `config` (read from `path`), load its checkpoint strictly and freeze it.

    The checkpoint is the config's `model_path`, a bare state dict. Returns the network in eval mode with no parameter
    that takes a gradient. Raises UserError for a missing, unreadable or foreign checkpoint.
    """
    checkpoint = config["model_path"]
    if not os.path.isfile(checkpoint):
        raise UserError(f"{checkpoint}: no such checkpoint ({path} names it); models/README.md says where to get it")
    if config.get("class_cond"):
        raise UserError(f"{path}: class_cond is True, but both methods need a prior without class labels")
    model = build_model(config, path)
    state = read_state_dict(checkpoint)
    if shapes(state) != shapes(model.state_dict()):
        fitting = ", ".join(fitting_configs(state)) or "none of the shipped configs"
        raise UserError(f"{checkpoint}: does not fit {path}; it fits {fitting}")
    model.load_state_dict(state)
    return model.eval().requires_grad_(False).to(device)
