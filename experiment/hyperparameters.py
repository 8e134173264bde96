"""The rows of configs/<method>.yaml as dataclasses."""
import dataclasses
import glob
import math
import os

from guided_diffusion.ddim import TRAINING_STEPS
from guided_diffusion.measurements import nature
from util.config import Section, load_yaml
from util.files import UserError, project, project_files


def natures(task):
    """What the task files of that name degrade with, a data set's own variants included; broken ones left out."""
    found = set()
    for path in project_files(f"configs/tasks/**/{glob.escape(str(task))}_config.yaml"):
        try:
            found.add(nature(load_yaml(path)))
        except (UserError, TypeError):  # not what the user asked for; a name that is a list
            continue
    return found


def row_names():
    """What a row may be called: the tasks, `default`, and `nonlinear` for operators that `restore` is given."""
    tasks = {os.path.basename(path)[: -len("_config.yaml")] for path in project_files("configs/tasks/**/*_config.yaml")}
    return {"default", "nonlinear"} | tasks


def row_of(task, table):
    """The row of a preset's table, {row: …}, that a task takes: its own or, under a name without one, that of a task which degrades in
    the same way; else `default`."""
    if task in table:
        return task
    its = natures(task)
    return next((row for row in table if row != "default" and its & natures(row)), "default")


def load_hyperparameters(path, task, kind, preset=None, on_row=lambda line: None, **given):
    """The row of `task` (see `row_of`) in a preset of configs/<method>.yaml, its first one if None, as the dataclass `kind`;
    what is `given`, and not None, replaces its value. on_row: is told, in a line, where it is another task's row. Raises UserError for
    a preset that is not there and for a value that is missing, unknown or out of range."""
    path = project(path)
    presets = load_yaml(path)
    preset = next(iter(presets)) if preset is None else preset
    if preset not in presets:
        raise UserError(f"--preset {preset}: {path} has {', '.join(map(str, presets))}")
    section = Section(presets, path).section(preset)
    table = section.values
    known = row_names()
    for row in table:
        if row not in known:
            raise UserError(f"{path}: the row {row} is for no task in configs/tasks/; correct its name or remove it")
    row = row_of(task, table)
    if row != task:
        on_row(f"{path}: {preset} has no row {task}, its row {row} is used")
    section = section.section(row)
    values = {}
    for field in dataclasses.fields(kind):
        if field.metadata.get("of_the_problem"):
            continue
        low = field.metadata.get("low", 1 if field.type is int else 0)
        valid = field.metadata.get("valid", lambda value: low <= value < math.inf)
        hint = field.metadata.get("hint", "true or false" if field.type is bool else f"{field.type.__name__}, {low} or more")
        default = None if field.default is dataclasses.MISSING else field.default
        values[field.name] = section.take(field.name, field.type, valid, hint, default)
    section.finish()
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in values:
            raise UserError(f"--{name}: {path} knows no such setting")
    h = kind(**{**values, **given})
    if h.chain_steps > TRAINING_STEPS:
        raise section.error("chain_steps", f"is {h.chain_steps}, must be {TRAINING_STEPS} at most")
    return h
