"""Every method by its name: the one list for scripts, tables, benchmarks and `restore`.

A method is a module with a METHOD (`solvers.method.Method`) and a table configs/<name>.yaml. Its
module is imported on demand: all of them import this package, and some take long to load.
"""

import importlib

from util.files import UserError

PAPER = ("dmilo", "dmilo-pgd")  # scripts at the root
# Ours, without a layer search.
SAMPLERS = ("pnp", "antithetic", "posterior", "denoiser", "quantised")
BASELINES = (
    "least_squares",
    "total_variation",
    "dpir",
    "diffpir",
    "deepinv_diffpir",
    "dmplug",
    "dps",
    "reddiff",
    "daps",
    "fast_dips",
    "admm",
)
METHODS = (*PAPER, *SAMPLERS, *BASELINES)


def module(name):
    """The dotted name of a method's module. Raises UserError for an unknown method."""
    if name not in METHODS:
        raise UserError(f"method: is {name!r}, must be one of {', '.join(METHODS)}")
    folder = "" if name in PAPER else "samplers." if name in SAMPLERS else "baselines."
    return folder + name


def load_method(name):
    """The Method of that name. Raises UserError for an unknown one."""
    return importlib.import_module(module(name)).METHOD
