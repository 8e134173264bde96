"""A run's folder: created with the run's settings and resumed only with the same ones."""

import hashlib
import json
import os
import time
from typing import NamedTuple

from util.files import UserError

# Settings that are paths. The content of what they name is compared elsewhere.
PATHS = ("data", "model_path")
FORMAT = 2  # of a run's files and settings
PATIENCE = 3  # seconds for which settings that another job is writing are awaited


class Folder(NamedTuple):
    """Where a run writes.

    top: settings.json, report.html and, for photographs, the results; files: everything else, in
    `below`, a folder of top's, or in top itself.
    """

    top: str
    below: str = ""

    @property
    def files(self):
        return os.path.join(self.top, self.below) if self.below else self.top


def same_path(path, other):
    """Whether two settings name the same file or folder; true if the first no longer exists, as
    after moving the project."""
    both = isinstance(path, str) and isinstance(other, str)
    return both and (not os.path.exists(path) or os.path.realpath(path) == os.path.realpath(other))


def differences(before, now, prefix=""):
    """Yield (key, old value, new value) where two nested dicts of settings differ; None for a
    missing key. Two spellings of one path are equal."""
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new and not (key in PATHS and same_path(old, new)):
            yield f"{prefix}{key}", old, new


def with_defaults(before, defaults):
    """Nested settings, missing keys filled in: a run older than a setting can be resumed."""
    nested = {
        key: with_defaults(before[key], value)
        for key, value in defaults.items()
        if isinstance(before.get(key), dict) and isinstance(value, dict)
    }
    return {**defaults, **before, **nested}


def checkpoint_digest(path):
    """A short hash of a checkpoint's content: a run cannot be resumed with another one."""
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as f:
        while block := f.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def read_settings(directory, path):
    """The content of a settings.json. Raises UserError for another file, and for a run of an older
    version, whose presets, records and folders were others."""
    end, settings = time.monotonic() + PATIENCE, None
    while settings is None:
        try:
            with open(path, encoding="utf-8") as f:
                settings = json.load(f)
        except ValueError as error:
            if time.monotonic() > end or os.path.getsize(path):
                raise UserError(
                    f"{path}: cannot be read ({error}); choose another --name NAME"
                ) from error
            time.sleep(0.1)  # another job has just created it
    if not isinstance(settings, dict):
        raise UserError(f"{path}: does not hold a run's settings; choose another --name NAME")
    if settings.get("format") != FORMAT:
        raise UserError(
            f"{directory}: was created by an older version of this program; choose another --name "
            "NAME"
        )
    return settings


def unused(directory):
    """Create a run's folder and return its path: `directory` or, where another job has it, that
    and -2, -3, … Raises UserError where it cannot be created."""
    path, count = directory, 1
    while True:
        try:
            os.makedirs(path)
            return path
        except FileExistsError:
            count += 1
            path = f"{directory}-{count}"
        except OSError as error:
            raise cannot_write(directory, error) from error


def cannot_write(directory, error):
    return UserError(f"{directory}: cannot be written ({error.strerror}); choose another --logdir")


def write_new(path, text):
    """Write a text file; nothing if another job has created it. Raises OSError."""
    try:
        with open(path, "x", encoding="utf-8") as f:
            f.write(text)
    except FileExistsError:
        return
    except OSError:  # a full disk
        if os.path.exists(path):
            os.unlink(path)
        raise


def open_run(directory, settings, adjustable, defaults):
    """Create the folder of a run with its settings.json, or check an existing one against it.

    adjustable: further settings, which may differ when a run is resumed; defaults: of keys of the
    settings, nested alike. Returns the `adjustable` that the run was created with.

    Raises UserError if the folder is no run, cannot be written, or was created with other settings
    (the first difference is named).
    """
    path = os.path.join(directory, "settings.json")
    # Tuples become lists, as in the file.
    now = json.loads(json.dumps({"format": FORMAT, **settings}))
    try:
        if not os.path.exists(path):
            # Another process may have finished meanwhile.
            others = os.listdir(directory) if os.path.isdir(directory) else []
            if any(not name.startswith(".") and name != "settings.json" for name in others):
                raise UserError(
                    f"{directory}: exists and is no run of this program; choose another --name NAME"
                )
            os.makedirs(directory, exist_ok=True)
            write_new(path, json.dumps({**now, **adjustable}, indent=1))
        before = read_settings(directory, path)
    except OSError as error:
        raise cannot_write(directory, error) from error
    before = with_defaults(before, json.loads(json.dumps(defaults)))
    kept = {key: before.pop(key, value) for key, value in adjustable.items()}
    for key, old, new in differences(before, now):
        raise UserError(
            f"{directory}: was created with {key} {old}, now it is {new}; resume with the former "
            "or choose another --name NAME"
        )
    return kept
