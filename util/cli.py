"""Argument types of the command lines, and how a script ends."""

import argparse
import io
import math
import os
import re
import sys

import torch

from util.devices import first_line, is_out_of_memory, keep_memory, make_no_cache
from util.files import UserError

LARGEST = 10**9  # of whole numbers; far larger ones fit no index
GOES_ON = "finished images are saved, the same command (with its --name NAME) goes on"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that prints the script's docstring as written, and errors as one line."""

    def __init__(self, doc):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        raise UserError(f"{message}; --help lists all options")


def run_script(function):
    """Call `function`, the whole of a script. A UserError, OSError or failing GPU prints one line
    to standard error and exits with code 2, an interruption with 130."""
    script = os.path.basename(sys.argv[0])
    keep_memory()
    make_no_cache()
    # Names of files may be no Unicode, a terminal may not support "…", and logs need lines at once.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):  # others: of a notebook, an editor, a logger
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        return function()
    except UserError as error:
        problem = " ".join(str(error).split())
    except OSError as error:  # a full disk, a network share that is gone
        problem = f"{error.filename or 'a file'}: {error.strerror or error}; {GOES_ON}"
    except torch.OutOfMemoryError:
        problem = "the GPU's memory is full; free it or choose another with --cuda"
    except torch.AcceleratorError as error:
        problem = f"the GPU fails ({first_line(error)}); {GOES_ON}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        problem = f"the memory is full ({first_line(error)}); use smaller images or batches"
    except KeyboardInterrupt:
        print(f"{script}: interrupted; {GOES_ON}", file=sys.stderr)
        sys.exit(130)
    print(f"{script}: error: {problem}", file=sys.stderr)
    sys.exit(2)


def number(kind, low, high=math.inf):
    """An argparse type: a finite `kind` (int or float) from `low` to `high`; for int, LARGEST by
    default."""
    high = LARGEST if kind is int and high == math.inf else high

    def parse(text):
        value = kind(text)
        if not (low <= value <= high and value < math.inf):
            most = f", {high} at most" if high < math.inf else ""
            raise argparse.ArgumentTypeError(f"must be {low} or more{most}, not {text}")
        return value

    parse.__name__ = kind.__name__  # argparse says "invalid int value" where kind() fails
    return parse


def folder_name(text):
    """An argparse type: the name of a folder inside another."""
    if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", text):
        raise argparse.ArgumentTypeError(
            f"must be a folder's name of letters, digits, '.', '-' and '_', not {text!r}"
        )
    return text


def typed_path(text):
    """An argparse type: a path; expands ~, which shells do not expand in --data=~/photos."""
    if not text:  # as from an unset variable
        raise argparse.ArgumentTypeError("must not be empty")
    return os.path.expanduser(text)
