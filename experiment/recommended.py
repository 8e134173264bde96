"""configs/restore.yaml: the method and preset behind each preset of restore.py and `restore`."""

from experiment.presets import row_of
from util.config import Section, load_yaml
from util.files import UserError, project


def recommended(preset, task, prior):
    """(method, its preset) for a preset of configs/restore.yaml, a task and a prior. Raises
    UserError if there is no such preset or it has no row for the task."""
    path = project("configs/restore.yaml")
    presets = load_yaml(path)
    if preset not in presets:
        raise UserError(f"--preset {preset}: {path} has {', '.join(map(str, presets))}")
    table = Section(presets, path).section(preset)
    method, slash, row = table.take(row_of(task, table.values, prior), str).partition("/")
    if not slash:
        raise table.error(task, f"is {method}, must be method/preset")
    return method, row
