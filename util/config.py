"""YAML files of the published format, read by a safe loader and checked key by key."""

import math
import re

import yaml

from util.files import UserError, project, project_files

LARGEST = 10**7  # bytes


class DuplicateKey(yaml.YAMLError):
    """A key twice in one mapping; yaml itself silently uses the last one."""


class Loader(yaml.SafeLoader):
    """yaml.SafeLoader that also reads the tag `!!python/tuple` of the published task files and 1e-3
    as a number. Raises DuplicateKey, except for `<<`, whose mappings are merged later."""

    def compose_mapping_node(self, anchor):
        node, keys = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            first = keys.setdefault((key.tag, str(key.value)), key)
            if key is not first and key.value != "<<":
                line, earlier = key.start_mark.line + 1, first.start_mark.line + 1
                raise DuplicateKey(
                    f"{key.value}, line {line}, repeats the key of line {earlier}; remove one"
                )
        return node


Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node))
)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    "-+0123456789",
)


def load_yaml(path):
    """A YAML file -> dict. Raises UserError for one that is missing, invalid or not a mapping."""
    try:
        with open(path, "rb") as f:  # yaml detects UTF-8 and UTF-16
            content = f.read(LARGEST)
            if len(content) == LARGEST:  # a device may never end
                raise UserError(f"{path}: is too large for a YAML file")
            config = yaml.load(content, Loader=Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except DuplicateKey as error:
        raise UserError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 30 February
        raise UserError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: must hold 'key: value' lines")
    return config


def parse_setting(text):
    """KEY=VALUE, the value as in YAML -> (key, value). Raises ValueError for anything else."""
    key, _, value = text.partition("=")
    if not re.fullmatch(r"\w+(\.\w+)*", key) or not value:
        raise ValueError(text)
    try:
        return key, yaml.load(value, Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError(text) from error


class Section:
    """A mapping of a YAML file whose keys are read one by one, so that errors name the key.

    `take` and `section` read a key; `finish`, called last, refuses all others. path: the file;
    prefix: of the keys in errors, as "measurement.".
    """

    def __init__(self, values, path, prefix=""):
        self.path, self.prefix = path, prefix
        self.values = values
        self.unread = set(values)
        self.sections = {}

    def error(self, key, problem):
        return UserError(f"{self.path}: {self.prefix}{key} {problem}")

    def take(self, key, kind, valid=None, hint="", default=None):
        """The value of `key`, or `default` if it is absent.

        Raises UserError unless the value is of type `kind` and valid(value), in words `hint`, and
        if the key is absent and default is None.
        """
        self.unread.discard(key)
        hint = hint or getattr(kind, "__name__", "a number or text")
        if key not in self.values:
            if default is None:
                raise self.error(key, f"is missing ({hint})")
            return default
        value = self.values[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is tuple and isinstance(value, list):
            value = tuple(value)
        of_kind = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        if not of_kind or (valid and not valid(value)):
            raise self.error(key, f"is {value!r}, must be {hint}")
        return value

    def section(self, key):
        """The mapping under `key` as a Section, the same one in every call."""
        if key not in self.sections:
            values = self.take(key, dict, hint="a mapping")
            self.sections[key] = Section(values, self.path, f"{self.prefix}{key}.")
        return self.sections[key]

    def finish(self):
        """Raise UserError for a key that was not read."""
        for key in sorted(self.unread, key=str):
            raise self.error(key, "is not a known key; remove it or correct its name")
        for section in self.sections.values():
            section.finish()


def at_least_0(value):
    return 0 <= value < math.inf


def above_0(value):
    return 0 < value < math.inf


def named_by(pattern):
    """{name: path} of the project's files like configs/tasks/{}_config.yaml, {} being the name."""
    head, tail = project(pattern).split("{}")
    paths = project_files(pattern.replace("{}", "*"))
    return {path[len(head) : -len(tail)]: path for path in paths}


def config_path(option, name, *patterns):
    """The path of the config that `--option name` names; later patterns (`named_by`) take
    precedence. Raises UserError without one."""
    known = {key: path for pattern in patterns for key, path in named_by(pattern).items()}
    if name not in known:
        missing, names = project(patterns[0]).format(name), ", ".join(known) or "none"
        raise UserError(f"--{option} {name}: there is no {missing} (known: {names})")
    return known[name]
