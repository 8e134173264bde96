"""Files that appear whole or not at all, where the project's own ones are, and the error that every mistake of a user ends in."""

import glob
import io
import os
import re
import sys
import uuid
from contextlib import contextmanager

import torch

PROJECT = os.path.dirname(
    os.path.dirname(os.path.abspath(__file__))
)  # a link to util/ is in the project that holds the link


class UserError(Exception):
    """Something that the user can put right: one line that says what is wrong, where, and what to do."""


class PictureError(UserError):
    """A UserError of one picture that cannot be restored, while others of the same command can."""


def say(line, stream="stdout"):
    """Print a line; of several processes under torchrun, the first one alone does."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(line, file=getattr(sys, stream))


def warn(line):
    """Say a warning, on standard error."""
    say(f"warning: {line}", "stderr")


def project(path):
    """A path within the project, such as "configs/dmilo.yaml", from where the user stands: in the project itself as it is, elsewhere
    absolute. An absolute path stays what it is."""
    return path if os.path.samefile(os.curdir, PROJECT) else os.path.join(PROJECT, path)


def project_files(pattern):
    """Paths of the project's files that match a glob pattern, sorted, as `project` gives them."""
    return sorted(glob.glob(glob.escape(project("")) + pattern, recursive=True))


def here_or_project(path):
    """A path that a user has typed: from where they stand or, where nothing is there, within the project."""
    return path if os.path.exists(path) else project(path)


@contextmanager
def atomic(path):
    """`with atomic(path) as tmp:` — write to `tmp`, a hidden file beside `path` with its suffix; it becomes `path` at the end.

    If the block fails, `path` is untouched and `tmp` is gone.
    """
    directory, name = os.path.split(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    # Not tempfile's, which nobody else may read: changing that is refused by disks without modes (exFAT, SMB), while a plain new file
    # has what the umask says. Without the name, which may be as long as the disk allows.
    tmp = os.path.join(directory, f".{uuid.uuid4().hex}{os.path.splitext(name)[1]}")
    try:
        open(tmp, "xb").close()
        yield tmp
        os.replace(tmp, path)
    finally:
        if os.path.exists(tmp):
            os.unlink(tmp)


def write_text(path, text):
    """Write a text file whole. What is no Unicode, as a file's name may be, is written as an escape."""
    with atomic(path) as tmp, open(tmp, "w", encoding="utf-8", errors="backslashreplace") as f:
        f.write(text)


def save_tensors(path, content):
    """torch.save of a file that appears whole. Raises the OSError of a full disk, which torch.save itself would hide."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic(path) as tmp, open(tmp, "wb") as f:
        f.write(buffer.getbuffer())


NESTED = (
    "ema",
    "state_dict",
    "model",
)  # where training programs put the weights; the averaged ones first
PREFIXES = (
    "module.",
    "_orig_mod.",
)  # of weights saved through DistributedDataParallel, torch.compile
BEGINNINGS = {  # of what a download brings in a checkpoint's place
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull)",
}


def bare_state_dict(content, depth=3):
    """The state dict that a checkpoint's content is, or holds under one of the NESTED keys, or below these; None if there is none."""
    if not isinstance(content, dict) or depth == 0:
        return None
    if all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        return content
    return next(
        filter(None, (bare_state_dict(content.get(key), depth - 1) for key in NESTED)), None
    )


def unreadable(path, error):
    """The UserError of a checkpoint that torch.load has refused with `error`."""
    with open(path, "rb") as f:
        beginning = f.read(32)
    for known, what in BEGINNINGS.items():
        if beginning.startswith(known):
            return UserError(f"{path}: is {what}, not a checkpoint; get it anew")
    if path.endswith(".safetensors"):
        return UserError(
            f"{path}: is in the safetensors format; save it by torch.save(safetensors.torch.load_file(…), …)"
        )
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    if foreign:
        return UserError(
            f"{path}: holds an object of the class {foreign[1]}, and reading such ones can run code. If you trust its source, "
            'extract the state dict: python -c "import torch; torch.save(torch.load('
            f"'{path}', map_location='cpu', weights_only=False)['state_dict'], 'bare.pt')\", or whatever its key is there"
        )
    return UserError(
        f"{path}: cannot be read as a checkpoint ({type(error).__name__}); get it anew"
    )


def read_state_dict(path):
    """A checkpoint -> {name: tensor} on the CPU, by `weights_only=True`: a pickle with code in it cannot run. A state dict within a
    training's checkpoint is found, PREFIXES that all names have are taken off.

    Raises UserError for a file that holds no state dict, and for one with other objects in it.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read as a checkpoint ({error.strerror or error})"
        ) from error
    except Exception as error:  # a foreign file makes the unpickler raise nearly anything
        raise unreadable(path, error) from error
    state = bare_state_dict(content)
    if state is None:
        raise UserError(
            f"{path}: holds no state dict, bare or as {', '.join(NESTED)}; save model.state_dict() by itself"
        )
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            raise UserError(
                f"{path}: {name} is sparse or without values; save the state dict of a network in memory, as plain tensors"
            )
    while state and (
        prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
    ):
        state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return state
