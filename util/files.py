"""Files that appear whole or not at all, and the error that every mistake of a user ends in."""
import os
import tempfile
from contextlib import contextmanager


class UserError(Exception):
    """Something that the user can put right: one line that says what is wrong, where, and what to do."""


@contextmanager
def atomic(path):
    """`with atomic(path) as tmp:` — write to `tmp`, a file beside `path` with its suffix; it becomes `path` at the end.

    If the block fails, `path` is untouched and `tmp` is gone.
    """
    directory, name = os.path.split(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    handle, tmp = tempfile.mkstemp(dir=directory, prefix=".", suffix=f".{name}")
    os.close(handle)
    try:
        yield tmp
        os.chmod(tmp, 0o644)  # mkstemp gives 0600, which would hide results on a shared disk
        os.replace(tmp, path)
    finally:
        if os.path.exists(tmp):
            os.unlink(tmp)


def write_text(path, text):
    """Write a text file whole."""
    with atomic(path) as tmp, open(tmp, "w", encoding="utf-8") as f:
        f.write(text)
