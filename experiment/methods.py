"""Every method by its name: the one list for the scripts, tables, benchmarks and `restore`.

A method is a module with a METHOD (`solvers.method.Method`) and a table configs/<name>.yaml. The modules are loaded when they are asked
for: the two methods stand above this file, and some of the others take long to load.
"""

import importlib

from util.files import UserError

OURS = ("dmilo", "dmilo-pgd")
BASELINES = (
    "least_squares",
    "total_variation",
    "denoiser",
    "dpir",
    "diffpir",
    "deepinv_diffpir",
    "ddiff",
    "dmplug",
    "dps",
    "reddiff",
    "daps",
    "subdaps",
)


def module(name):
    """The dotted name of a method's module. Raises UserError for a name that none has."""
    if name not in OURS + BASELINES:
        raise UserError(f"method: is {name!r}, must be one of {', '.join(OURS + BASELINES)}")
    return name if name in OURS else f"baselines.{name}"


def load_method(name):
    """The Method of that name. Raises UserError for one that there is none of."""
    return importlib.import_module(module(name)).METHOD
