"""YAML files of the published form, read by a safe loader and checked key by key."""

import re

import yaml

from util.files import UserError, project, project_files


class DuplicateKey(yaml.YAMLError):
    """A key that stands twice in one mapping, of which yaml itself would take the last one without a word."""


class Loader(yaml.SafeLoader):
    """yaml.SafeLoader that also reads the tag `!!python/tuple` of the published task files, and 1e-3 as a number, and that takes a key
    once: but for `<<`, whose mappings are merged later."""

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            first = seen.setdefault((key.tag, str(key.value)), key)
            if key is not first and key.value != "<<":
                line, earlier = key.start_mark.line + 1, first.start_mark.line + 1
                raise DuplicateKey(
                    f"{key.value}, line {line}, stands in line {earlier} already; remove one of them"
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
    """A YAML file -> dict. Raises UserError, naming the file, for one that is missing, broken or no mapping."""
    try:
        with open(path, "rb") as f:  # yaml tells UTF-8 and UTF-16 apart
            config = yaml.load(f, Loader=Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except DuplicateKey as error:
        raise UserError(f"{path}: {error}") from error
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: a date or a number that there is none of
        raise UserError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: must hold 'key: value' lines")
    return config


class Section:
    """A mapping of a YAML file whose keys are taken one by one, so that a missing, unknown or absurd one is named.

    `take` and `section` read a key; `finish`, called when everything has been read, complains about the rest.
    """

    def __init__(self, values, path, prefix=""):
        self.path, self.prefix = path, prefix
        self.values = values
        self.unread = set(values)
        self.sections = {}

    def error(self, key, problem):
        return UserError(f"{self.path}: {self.prefix}{key} {problem}")

    def take(self, key, kind, valid=None, hint="", default=None):
        """The value of `key`, which must be of `kind` (a type) and satisfy `valid` (a predicate, said as `hint`).

        A key that is absent gives `default`; without a default it is an error.
        """
        self.unread.discard(key)
        hint = hint or getattr(kind, "__name__", "a number or a text")
        if key not in self.values:
            if default is None:
                raise self.error(key, f"is missing ({hint})")
            return default
        value = self.values[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is tuple and isinstance(value, list):
            value = tuple(value)
        if (
            not isinstance(value, kind)
            or (kind is int and isinstance(value, bool))
            or (valid and not valid(value))
        ):
            raise self.error(key, f"is {value!r}, must be {hint}")
        return value

    def section(self, key):
        """The mapping under `key` as a Section of its own: always the same one, so that several may read from it."""
        if key not in self.sections:
            self.sections[key] = Section(
                self.take(key, dict, hint="a mapping"), self.path, f"{self.prefix}{key}."
            )
        return self.sections[key]

    def finish(self):
        """Raise UserError if the file has a key that nobody took."""
        for key in sorted(self.unread, key=str):
            raise self.error(key, "is not a known key; remove it or correct its name")
        for section in self.sections.values():
            section.finish()


def named_by(pattern):
    """The names for which a config of the project stands: configs/tasks/{}_config.yaml -> {task: path}."""
    head, tail = project(pattern).split("{}")
    return {
        path[len(head) : -len(tail)]: path for path in project_files(pattern.replace("{}", "*"))
    }


def config_path(option, name, *patterns):
    """The config that `--option name` means; patterns have {} where the name goes, and of two that know it the later one counts."""
    known = {key: path for pattern in patterns for key, path in named_by(pattern).items()}
    if name not in known:
        raise UserError(
            f"--{option} {name}: there is no {project(patterns[0]).format(name)} (known: {', '.join(known) or 'none'})"
        )
    return known[name]
