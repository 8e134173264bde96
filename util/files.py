"""Files that appear whole or not at all, and the error that every mistake of a user ends in."""
import io
import os
import tempfile
from contextlib import contextmanager

import torch


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


def save_tensors(path, content):
    """torch.save of a file that appears whole. Raises the OSError of a full disk, which torch.save itself would hide."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic(path) as tmp, open(tmp, "wb") as f:
        f.write(buffer.getbuffer())


def read_state_dict(path):
    """A checkpoint -> {name: tensor} on the CPU, by `weights_only=True`: a pickle with code in it cannot run.

    Raises UserError for a file that holds anything but a bare state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file makes the unpickler raise nearly anything
        raise UserError(f"{path}: cannot be read as a checkpoint ({type(error).__name__}); get it anew") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no bare state dict; save model.state_dict() by itself")
    return state
