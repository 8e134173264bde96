"""The names of operators and noises in task files."""

from util.files import UserError

OPERATORS, NOISES = {}, {}


def registering(table, name):
    """Class decorator: table[name] = cls. Raises UserError if another class has that name; the same
    one, defined again in a notebook, replaces it."""

    def path(cls):
        return f"{cls.__module__}.{cls.__qualname__}"

    def register(cls):
        if name in table and path(table[name]) != path(cls):
            raise UserError(
                f"{path(cls)}: {path(table[name])} is named {name}; choose another name"
            )
        table[name] = cls
        return cls

    return register


def operator(name):
    """Class decorator; name: a task file's measurement.operator.name. Raises UserError if taken."""
    return registering(OPERATORS, name)


def noise(name):
    """Class decorator; name: a task file's measurement.noise.name. Raises UserError if taken."""
    return registering(NOISES, name)
