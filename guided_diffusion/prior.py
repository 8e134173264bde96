"""Model config + checkpoint -> a frozen network, with errors a user can act on."""
import os

import torch

from guided_diffusion.unet import create_model
from util.config import load_yaml
from util.files import UserError


def load_model_config(path):
    """The keys of a `model_config_*.yaml` as a dict for `create_model`. Raises UserError for a broken file."""
    config = load_yaml(path)
    for key in ("image_size", "num_channels", "num_res_blocks"):
        if key not in config:
            raise UserError(f"{path}: the key {key} is missing; configs/model_config_demo.yaml shows a complete file")
    return config


def build_model(config, path):
    """`create_model(**config)`, its complaints as a UserError that names the file `path`."""
    try:
        return create_model(**config)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {str(error).replace('create_model() ', '')}") from error


def load_prior(config, path, device):
    """Build the UNet of `config` (read from `path`), load its checkpoint strictly and freeze it.

    The checkpoint is the config's `model_path`: a bare state dict, read with `weights_only=True`, so that a pickle
    with code in it cannot run. Returns the network in eval mode with no parameter that takes a gradient.
    """
    checkpoint = config["model_path"]
    if not os.path.isfile(checkpoint):
        raise UserError(f"{checkpoint}: no such checkpoint ({path} names it); models/README.md says where to get it")
    model = build_model(config, path)
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except Exception as error:
        raise UserError(f"{checkpoint}: is no checkpoint for {path} ({str(error).splitlines()[0]})") from error
    return model.eval().requires_grad_(False).to(device)
