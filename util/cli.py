"""The ground of every command line: argument types, and how a script ends."""

import argparse
import math
import os
import re
import sys

import torch

from util.devices import first_line, keep_memory
from util.files import UserError

GOES_ON = (
    "what was finished is on disk, the same command (a restoration's with its --name NAME) goes on"
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help shows the script's docstring as written, and whose errors are one line."""

    def __init__(self, doc):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        raise UserError(f"{message}; --help shows what there is")


def run_script(function):
    """Call `function`, the whole of a script; a UserError or a failing disk becomes one line on standard error and exit code 2."""
    script = os.path.basename(sys.argv[0])
    keep_memory()
    # A file's name may be no Unicode, a terminal may know no "…"; and in a job's log a line is to stand as soon as it is printed.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, open(os.devnull, "w"))
        getattr(sys, name).reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        function()
    except UserError as error:
        print(f"{script}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (
        OSError
    ) as error:  # a full disk, a share that went away: what was finished is on disk, whole
        print(
            f"{script}: error: {error.filename or 'a file'}: {error.strerror or error}; {GOES_ON}",
            file=sys.stderr,
        )
        sys.exit(2)
    except torch.OutOfMemoryError:
        print(
            f"{script}: error: the GPU's memory is full; free it or choose another with --cuda",
            file=sys.stderr,
        )
        sys.exit(2)
    except torch.AcceleratorError as error:
        print(f"{script}: error: the GPU fails ({first_line(error)}); {GOES_ON}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{script}: interrupted; {GOES_ON}", file=sys.stderr)
        sys.exit(130)


def number(kind, low, high=math.inf):
    """An argparse type: a finite `kind` (int or float) from `low` to `high`."""

    def parse(text):
        value = kind(text)
        if not (low <= value <= high and value < math.inf):
            raise argparse.ArgumentTypeError(
                f"must be {low} or more{f', {high} at most' if high < math.inf else ''}, not {text}"
            )
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
    """An argparse type: a path, with the ~ that a shell leaves in --data=~/photos; "" is what an unset variable leaves."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return os.path.expanduser(text)
