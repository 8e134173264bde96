"""The rows of configs/<method>.yaml as dataclasses."""

import dataclasses
import glob
import math
import os

from guided_diffusion.ddim import TRAINING_STEPS
from guided_diffusion.measurements import nature
from util.config import Section, load_yaml
from util.files import UserError, project, project_files

EXTENDS, EVERY = "extends", "every"  # keys of a file and of a preset: see `load_presets`


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
    tasks = {
        os.path.basename(path)[: -len("_config.yaml")]
        for path in project_files("configs/tasks/**/*_config.yaml")
    }
    return {"default", "nonlinear"} | tasks


def row_of(task, table, dataset=None):
    """The row of a preset's table, {row: …}, that a task takes: its own, if there is one with this data set's prior; or, under a name without
    one, that of a task which degrades in the same way, if possible with the same kind of noise; else `default`."""
    own = next((row for row in (f"{dataset}/{task}", task) if row in table), None)
    if own:
        return own
    its = natures(task)
    others = {row: natures(row) for row in table if row != "default"}
    degraded_alike = lambda row: {one[:-1] for one in its} & {one[:-1] for one in others[row]}
    return next(
        (row for row in others if its & others[row]),
        next(filter(degraded_alike, others), "default"),
    )


def load_presets(method):
    """{preset: {row: {key: value}}} of configs/<method>.yaml.

    A file that begins with `extends: <another method>` holds what differs from that one's: its presets have the other's rows, to each of
    which the keys of their row `every` are added, and to those which it names the keys that it gives them.
    """
    path = project(f"configs/{method}.yaml")
    presets = load_yaml(path)
    if EXTENDS not in presets:
        return presets
    others_path = project(f"configs/{presets.pop(EXTENDS)}.yaml")
    others, extended = load_yaml(others_path), {}
    for preset in presets:
        table = Section(presets, path).section(preset)
        its = (
            Section(others, others_path).section(preset)
            if preset in others
            else Section({}, others_path)
        )
        keys = lambda section, row: section.section(row).values if row in section.values else {}
        every, rows = keys(table, EVERY), {**its.values, **table.values}
        rows.pop(EVERY, None)
        extended[preset] = {row: {**keys(its, row), **every, **keys(table, row)} for row in rows}
    return extended


def taken(section, field):
    """The value of a dataclass' field from a Section: of a part that has fields itself, that dataclass."""
    about = field.metadata
    if "part" in about:
        return (
            read(section.section(field.name), about["part"])
            if field.name in section.values
            else field.default
        )
    if "kinds" in about:
        if field.name not in section.values:
            return field.default
        part = section.section(field.name)
        return read(
            part,
            about["kinds"][
                part.take(
                    "kind", str, about["kinds"].__contains__, f"one of {', '.join(about['kinds'])}"
                )
            ],
        )
    if "each" in about:
        mappings = lambda values: all(isinstance(one, dict) for one in values)
        values = section.take(field.name, tuple, mappings, "a list of mappings", field.default)
        parts = [
            Section(one, section.path, f"{section.prefix}{field.name}[{i}].")
            for i, one in enumerate(values)
        ]
        return tuple(read(part, about["each"]) for part in parts)
    low = about.get("low", 1 if field.type is int else 0)
    valid = about.get("valid", lambda value: low <= value < math.inf)
    hint = about.get(
        "hint", "true or false" if field.type is bool else f"{field.type.__name__}, {low} or more"
    )
    return section.take(
        field.name,
        field.type,
        valid,
        hint,
        None if field.default is dataclasses.MISSING else field.default,
    )


def read(section, kind, given=None):
    """A Section as the dataclass `kind`; what is `given` replaces its values. Raises UserError for a value that is missing, unknown or
    out of range."""
    fields = [
        field
        for field in dataclasses.fields(kind)
        if field.init and not field.metadata.get("of_the_problem")
    ]
    values = {field.name: taken(section, field) for field in fields}
    section.finish()
    for name in given or ():
        if name not in values:
            raise UserError(f"--{name}: {section.path} knows no such setting")
    value = kind(**{**values, **(given or {})})
    if getattr(value, "chain_steps", 1) > TRAINING_STEPS:
        raise section.error(
            "chain_steps", f"is {value.chain_steps}, must be {TRAINING_STEPS} at most"
        )
    return value


def load_hyperparameters(
    method, task, preset=None, on_row=lambda line: None, dataset=None, **given
):
    """The row of `task` with a data set's prior (see `row_of`) in a preset of a Method, its first one if None, as the method's dataclass;
    what is `given`, and not None, replaces its value. on_row: is told, in a line, where it is another task's row. Raises UserError for a preset that is not
    there and for a value that is missing, unknown or out of range."""
    path = project(f"configs/{method.name}.yaml")
    presets = load_presets(method.name)
    preset = next(iter(presets)) if preset is None else preset
    if preset not in presets:
        raise UserError(f"--preset {preset}: {path} has {', '.join(map(str, presets))}")
    section = Section(presets, path).section(preset)
    table = section.values
    known = row_names()
    for row in table:
        its_prior, _, its_task = str(row).rpartition("/")
        if (
            its_task not in known
            or its_prior
            and not os.path.isfile(project(f"configs/model_config_{its_prior}.yaml"))
        ):
            raise UserError(
                f"{path}: the row {row} is for no task in configs/tasks/, or no prior in configs/; correct its name or remove it"
            )
    row = row_of(task, table, dataset)
    if row not in (task, f"{dataset}/{task}"):
        on_row(f"{path}: {preset} has no row {task}, its row {row} is used")
    return read(
        section.section(row),
        method.row,
        {name: value for name, value in given.items() if value is not None},
    )
