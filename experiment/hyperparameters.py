"""The rows of configs/<method>.yaml as dataclasses."""
import dataclasses
import glob
import math
import os

from guided_diffusion.ddim import TRAINING_STEPS
from util.config import Section, load_yaml
from util.files import UserError


def load_hyperparameters(path, task, kind, preset=None, **given):
    """The row of `task` (or `default`) in a preset of configs/<method>.yaml, its first one if None, as the dataclass `kind`;
    what is `given`, and not None, replaces its value. Raises UserError for a preset that is not there and for a value
    that is missing, unknown or out of range."""
    presets = load_yaml(path)
    preset = next(iter(presets)) if preset is None else preset
    if preset not in presets:
        raise UserError(f"--preset {preset}: {path} has {', '.join(map(str, presets))}")
    section = Section(presets, path).section(preset)
    table = section.values
    tasks = {os.path.basename(p)[: -len("_config.yaml")] for p in glob.glob("configs/tasks/**/*_config.yaml", recursive=True)}
    for row in table:
        if row not in tasks | {"default"}:
            raise UserError(f"{path}: the row {row} is for no task in configs/tasks/; correct its name or remove it")
    section = section.section(task if task in table else "default")
    values = {}
    for field in dataclasses.fields(kind):
        if not field.metadata.get("row", True):  # the problem sets it; in a row it is an unknown key
            continue
        low = 1 if field.type is int else field.metadata.get("low", 0)
        hint = "true or false" if field.type is bool else f"{field.type.__name__}, {low} or more"
        default = None if field.default is dataclasses.MISSING else field.default
        values[field.name] = section.take(field.name, field.type, lambda value: low <= value < math.inf, hint, default)
    section.finish()
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in values:
            raise UserError(f"--{name}: {path} knows no such setting")
    h = kind(**{**values, **given})
    if h.chain_steps > TRAINING_STEPS:
        raise section.error("chain_steps", f"is {h.chain_steps}, must be {TRAINING_STEPS} at most")
    return h
