"""The rows of configs/<method>.yaml as dataclasses: a `Row`, or a `Preset` for the paper's two."""

import dataclasses
import glob
import math
import os

from guided_diffusion.ddim import TRAINING_STEPS
from guided_diffusion.measurements import degradation
from solvers.method import Row
from solvers.preset import Preset
from util.config import Section, load_yaml
from util.files import UserError, project, project_files

EXTENDS, EVERY = "extends", "every"  # keys of a file and of a preset: see `load_presets`


def degradations(task):
    """What the task files of that name degrade with, data set variants included; broken files are
    left out."""
    kinds = set()
    for path in project_files(f"configs/tasks/**/{glob.escape(str(task))}_config.yaml"):
        try:
            kinds.add(degradation(load_yaml(path)))
        except (UserError, TypeError):  # not what the user asked for; a name that is a list
            continue
    return kinds


def row_names():
    """The possible names of a row: the tasks, `default`, and `nonlinear` for Python operators."""
    paths = project_files("configs/tasks/**/*_config.yaml")
    tasks = {os.path.basename(path)[: -len("_config.yaml")] for path in paths}
    return {"default", "nonlinear"} | tasks


def row_of(task, table, dataset=None):
    """The name of a task's row in a preset's table, {row: …}: `dataset/task`, `task`, a task with
    the same degradation, if possible with the same kind of noise, or `default`."""
    for row in (f"{dataset}/{task}", task):
        if row in table:
            return row
    own = degradations(task)
    others = {row: degradations(row) for row in table if row != "default"}
    for row, kinds in others.items():
        if own & kinds:
            return row
    without_noise = {one[:-1] for one in own}
    for row, kinds in others.items():
        if without_noise & {one[:-1] for one in kinds}:
            return row
    return "default"


def load_presets(method):
    """{preset: {row: {key: value}}} of configs/<method>.yaml.

    A file with the key `extends: <another method>` holds its differences from that method's file:
    its presets have the other's rows, with the keys of their own row `every` added to each and
    their own rows' keys to those of the same name.
    """
    path = project(f"configs/{method}.yaml")
    presets = load_yaml(path)
    if EXTENDS not in presets:
        return presets
    others_path = project(f"configs/{presets.pop(EXTENDS)}.yaml")
    others, extended = load_yaml(others_path), {}

    def keys(section, row):
        return section.section(row).values if row in section.values else {}

    for preset in presets:
        table = Section(presets, path).section(preset)
        other = Section(others, others_path).section(preset) if preset in others else None
        other = other or Section({}, others_path)
        every, rows = keys(table, EVERY), {**other.values, **table.values}
        rows.pop(EVERY, None)
        extended[preset] = {row: {**keys(other, row), **every, **keys(table, row)} for row in rows}
    return extended


def part_of(section, field):
    """The value of a field that is a dataclass: that under its key, or its default."""
    if field.name not in section.values:
        return field.default
    part, kind = section.section(field.name), field.metadata.get("part")
    if kind is None:
        kinds = field.metadata["kinds"]
        kind = kinds[part.take("kind", str, kinds.__contains__, f"one of {', '.join(kinds)}")]
    return read(part, kind)


def value_of(section, field):
    """The value of a dataclass' field from a Section."""
    about = field.metadata
    if "part" in about or "kinds" in about:
        return part_of(section, field)
    low = about.get("low", 1 if field.type is int else 0)
    valid = about.get("valid", lambda value: low <= value < math.inf)
    hint = "true or false" if field.type is bool else f"{field.type.__name__}, {low} or more"
    default = None if field.default is dataclasses.MISSING else field.default
    return section.take(field.name, field.type, valid, about.get("hint", hint), default)


def read(section, kind):
    """The dataclass `kind` from a Section. Raises UserError for a value that is missing or out of
    range."""
    fields = [f for f in dataclasses.fields(kind) if f.init and "of_the_problem" not in f.metadata]
    return kind(**{f.name: value_of(section, f) for f in fields})


def read_preset(section, kind):
    """A Preset from a Section whose keys are the hyperparameters, of type `kind`, and its own."""
    fields = {f.name: f for f in dataclasses.fields(Preset)}
    around = {name: part_of(section, fields[name]) for name in ("init", "restarts", "data_term")}
    return Preset(hyperparameters=read(section, kind), **around)


def assigned(values, key, value):
    """Nested values with that of the dotted key replaced, or removed if it is None."""
    name, _, rest = key.partition(".")
    if rest:
        inner = values.get(name)
        value = assigned(inner if isinstance(inner, dict) else {}, rest, value)
    return {
        **{k: v for k, v in values.items() if k != name},
        **({} if value is None else {name: value}),
    }


def table_of(presets, preset, path):
    """A preset's Section, its row names checked. Raises UserError for an unknown preset or row."""
    if preset not in presets:
        raise UserError(f"--preset {preset}: {path} has {', '.join(map(str, presets))}")
    section, known = Section(presets, path).section(preset), row_names()
    for row in section.values:
        prior, _, task = str(row).rpartition("/")
        config = project(f"configs/model_config_{prior}.yaml")
        if task not in known or prior and not os.path.isfile(config):
            raise UserError(
                f"{path}: the row {row} names no task of configs/tasks/ or no prior of configs/; "
                "correct or remove it"
            )
    return section


def load_row(method, task, preset=None, on_row=lambda line: None, dataset=None, given=None):
    """The row of `task` with a data set's prior (see `row_of`) in a preset of a Method, the first
    preset if None: a Row, or a Preset for the paper's methods. given: {dotted key: value} that
    replace the row's; None removes a key. on_row: called with a line if it is another task's row
    or, for the paper's methods, `default`. Raises UserError for an unknown preset and for a value
    that is missing, unknown or out of range."""
    path, given = project(f"configs/{method.name}.yaml"), given or {}
    presets = load_presets(method.name)
    preset = next(iter(presets)) if preset is None else preset
    table = table_of(presets, preset, path)
    row = row_of(task, table.values, dataset)
    own_row = row in (task, f"{dataset}/{task}")
    if not own_row and (row != "default" or not issubclass(method.row, Row)):
        on_row(f"{path}: {preset} has no row {task}, its row {row} is used")
    section = table.section(row)
    values = section.values
    for key, value in given.items():
        values = assigned(values, key, value)
    section = Section(values, path, section.prefix)
    h = (
        read(section, method.row)
        if issubclass(method.row, Row)
        else read_preset(section, method.row)
    )
    for key in given:
        if key.partition(".")[0] in section.unread:
            raise UserError(f"{key}: {path} has no such setting")
    section.finish()
    if h.chain_steps > TRAINING_STEPS:
        raise section.error("chain_steps", f"is {h.chain_steps}, must be at most {TRAINING_STEPS}")
    return h


def about(method, h, given=None):
    """A Method with a row h, in a few words for tables; given: the values that were replaced."""
    ours = isinstance(h, Preset) and not h.is_published
    what = f"variant of {method.about} (ours)" if ours else method.about
    return ", ".join([what, *(f"{key} {value}" for key, value in (given or {}).items())])
