"""Atomic writing, checkpoints, paths of the project, and the error for every mistake of a user."""

import errno
import glob
import io
import os
import re
import sys
import uuid
from contextlib import contextmanager

import torch

# Not realpath: a symbolic link to util/ belongs to the project that contains the link.
PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class UserError(Exception):
    """A mistake that the user can correct: one line with what is wrong, where, and what to do."""


class PictureError(UserError):
    """A UserError about one image; others of the same command can still be restored."""


def say(line, stream="stdout"):
    """Print a line, under torchrun in the first process only."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(line, file=getattr(sys, stream))


def warn(line):
    """Print a warning to standard error."""
    say(f"warning: {line}", "stderr")


def project(path):
    """A path within the project, such as "configs/dmilo.yaml", unchanged if the project is the
    current directory, else absolute; absolute paths are unchanged."""
    return path if os.path.samefile(os.curdir, PROJECT) else os.path.join(PROJECT, path)


def project_files(pattern):
    """The paths (`project`) of the project's files that match a glob pattern, sorted."""
    return sorted(glob.glob(glob.escape(project("")) + pattern, recursive=True))


def here_or_project(path):
    """A typed path: in the current directory if it exists there, else in the project."""
    return path if os.path.exists(path) else project(path)


@contextmanager
def atomic(path):
    """`with atomic(path) as tmp:` writes to `tmp`, a hidden file in the same folder with the same
    suffix, and renames it to `path` at the end. If the block fails, `path` is unchanged and `tmp`
    removed.
    """
    directory, name = os.path.split(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    # Not tempfile, whose files are private: file systems without modes (exFAT, SMB) refuse chmod.
    # Without `name`, which may have the longest possible length.
    tmp = os.path.join(directory, f".{uuid.uuid4().hex}{os.path.splitext(name)[1]}")
    if os.path.exists(path) and not os.path.isfile(path):  # root could replace /dev/null
        raise FileExistsError(errno.EEXIST, "exists and is no regular file", path)
    try:
        open(tmp, "xb").close()
        yield tmp
        os.replace(tmp, path)
    finally:
        if os.path.exists(tmp):
            os.unlink(tmp)


def write_text(path, text):
    """Write a text file atomically; invalid Unicode, as in names of files, becomes escapes."""
    with atomic(path) as tmp, open(tmp, "w", encoding="utf-8", errors="backslashreplace") as f:
        f.write(text)


def save_tensors(path, content):
    """torch.save, atomically. Raises OSError for a full disk, which torch.save itself hides."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic(path) as tmp, open(tmp, "wb") as f:
        f.write(buffer.getbuffer())


NESTED = ("ema", "state_dict", "model")  # keys of weights in training checkpoints; averages first
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
BEGINNINGS = {  # of files that failed downloads leave
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"version https://git-lfs": "a Git LFS pointer (git lfs pull)",
}


def bare_state_dict(content, depth=3):
    """The state dict in a checkpoint's content: itself, or under NESTED keys; None without one."""
    if not isinstance(content, dict) or depth == 0:
        return None
    if all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()):
        return content
    inner = (bare_state_dict(content.get(key), depth - 1) for key in NESTED)
    return next(filter(None, inner), None)


def unreadable(path, error):
    """The UserError for a checkpoint for which torch.load raised `error`."""
    with open(path, "rb") as f:
        head = f.read(32)
    for beginning, what in BEGINNINGS.items():
        if head.startswith(beginning):
            return UserError(f"{path}: is {what}, not a checkpoint; download it again")
    if path.endswith(".safetensors"):
        return UserError(
            f"{path}: is in the safetensors format; convert it with "
            "torch.save(safetensors.torch.load_file(…), …)"
        )
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    if foreign:
        return UserError(
            f"{path}: holds an object of the class {foreign[1]}, and reading such objects can run "
            "code. If you trust its source, extract the state dict under its key: python -c "
            f"\"import torch; torch.save(torch.load('{path}', map_location='cpu', "
            "weights_only=False)['state_dict'], 'bare.pt')\""
        )
    reason = type(error).__name__
    return UserError(f"{path}: cannot be read as a checkpoint ({reason}); download it again")


def read_state_dict(path):
    """A checkpoint -> {name: tensor} on the CPU; no code in the file can run. Reads state dicts in
    training checkpoints (NESTED) and removes PREFIXES common to all names.

    Raises UserError for a file without a state dict or with other objects, and for sparse tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be read as a checkpoint ({reason})") from error
    except Exception as error:  # unpickling other files raises many classes
        raise unreadable(path, error) from error
    state = bare_state_dict(content)
    if state is None:
        keys = ", ".join(NESTED)
        raise UserError(
            f"{path}: holds no state dict, bare or as {keys}; save model.state_dict() by itself"
        )
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta:
            raise UserError(f"{path}: {name} is sparse or without values; save dense tensors")
    while state and (prefixes := [p for p in PREFIXES if all(n.startswith(p) for n in state)]):
        state = {name[len(prefixes[0]) :]: tensor for name, tensor in state.items()}
    return state
