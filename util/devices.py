"""The device, its memory, and the provenance of results."""

import ctypes
import math
import os
import platform
import random
import subprocess
from pathlib import Path

import numpy as np
import torch

from util.files import PROJECT, UserError, warn

# glibc's mallopt (malloc.h): the size above which memory is mapped, and how much free memory is
# kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 1_000_000_000  # bytes
CACHE = "TORCHINDUCTOR_CACHE_DIR"  # the variable that names PyTorch's folder for compiled code


def keep_memory(largest=LARGEST_KEPT):
    """Make glibc keep freed blocks of up to `largest` bytes, and return all that it keeps now;
    returning blocks to the system after every step and requesting them again costs 40 % of a step
    at 256 px on a CPU. No effect without glibc."""
    try:
        glibc = ctypes.CDLL(None)
        glibc.mallopt(M_MMAP_THRESHOLD, largest)
        glibc.mallopt(M_TRIM_THRESHOLD, 2 * largest)
        glibc.malloc_trim(0)
    except (OSError, TypeError, AttributeError):  # no glibc
        return


def make_no_cache():
    """Keep PyTorch from creating its folder for compiled code, which it does in the first search of
    every process, and fails where no folder for temporary files can be written."""
    os.environ.setdefault(CACHE, PROJECT)  # exists; nothing is written into it


def first_line(error):
    """The first line of an error's message, without advice below it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def driver_trouble():
    """PyTorch's error if the NVIDIA driver is too old, else None."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # others: no driver, no CUDA, so no GPU
        return first_line(error) if "too old" in str(error) else None
    return None


def choose_device(cuda, tf32=False):
    """GPU `cuda`, or the CPU: for -1, and with a warning if there is no GPU.

    tf32: whether the GPU's convolutions may use TF32. Raises UserError for a number above the last
    GPU's, and for a GPU that this PyTorch cannot use.
    """
    gpus = torch.cuda.device_count()
    unusable = f"--cuda {cuda}: this PyTorch cannot use the GPU"
    if cuda >= gpus > 0:
        raise UserError(
            f"--cuda {cuda}: the GPUs here are 0 to {gpus - 1}; choose one of them, or -1 for the "
            "CPU"
        )
    if 0 <= cuda < gpus:
        # Reproducible; without TF32 equal on all devices up to rounding.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, tf32
        device = torch.device("cuda", cuda)
        try:
            torch.cuda.set_device(device)
            torch.ones(1, device=device).add_(1).item()  # fails without kernels for this GPU
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"{unusable} ({first_line(error)}); install one for this GPU and driver, or choose "
                "-1 for the CPU"
            ) from error
        return device
    trouble = driver_trouble() if cuda >= 0 else None
    if trouble:
        raise UserError(
            f"{unusable} ({trouble}); install one for this driver, or choose -1 for the CPU"
        )
    if cuda >= 0:
        warn(f"no GPU {cuda}, running on the CPU (--cuda -1 avoids this message)")
    return torch.device("cpu")


def compile_network(network, device):
    """torch.compile(network). Raises UserError at once if nothing can be compiled."""
    if os.environ.get(CACHE) == PROJECT:  # `make_no_cache`
        del os.environ[CACHE]
    x = torch.ones(random.randrange(1000, 10**6), device=device)  # a size that is not in a cache
    try:
        torch.compile(lambda x: x.sin().cumsum(0), dynamic=False)(x)
    except Exception as error:  # compilers raise many classes
        raise UserError(
            f"--compile: nothing can be compiled here ({first_line(error)}); install a C++ "
            "compiler, set TMPDIR to a folder that can be written, or omit the option"
        ) from error
    # Compiled for each size: some releases of PyTorch fail to compile this for dynamic sizes.
    return torch.compile(network, dynamic=False)


def room_in_groups(membership="/proc/self/cgroup", root="/sys/fs/cgroup"):
    """Bytes that the memory limit of each control group above this process leaves (Linux, version
    2), as of a container or Slurm step; [] without limits. Inactive pages of files are
    free."""
    try:
        own = next(
            line[3:] for line in Path(membership).read_text().splitlines() if line.startswith("0::")
        )
    except (OSError, StopIteration):  # not Linux, or version 1
        own = "/"
    group, room = Path(root, own.lstrip("/")), []
    for folder in (group, *group.parents):
        try:
            limit, taken = (
                int((folder / name).read_text()) for name in ("memory.max", "memory.current")
            )
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or no limit, "max"
            continue
        room.append(max(0, limit - max(0, taken - int(stat.get("inactive_file", 0)))))
    return room


def available_memory(device):
    """Free bytes: of a GPU, or of the system within the limits of `room_in_groups`, divided by the
    number of torchrun's processes; infinite where unknown (Windows)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [math.inf]
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as f:
            free += [1024 * int(line.split()[1]) for line in f if line.startswith("MemAvailable")]
    elif hasattr(os, "sysconf"):  # macOS: the total only
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2)
    return min(free + room_in_groups()) / int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_out_of_memory(error):
    """Whether an error means that memory is full, in PyTorch's words or a library's."""
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(word in str(error) for word in words)


def git_revision():
    """The project's git revision, with a + if files were changed since; None without git, and for a
    copy in another repository."""
    folder = os.path.realpath(PROJECT)
    # Variables of a hook name its own repository, and git would search the folders above, too.
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    variables["GIT_CEILING_DIRECTORIES"] = os.path.dirname(folder)
    # Whose code runs is trusted already; no lock, so that no commit made meanwhile fails.
    typed = ["git", "-c", f"safe.directory={folder}", "--no-optional-locks", "status"]
    typed += ["--porcelain=v2", "--branch", "--untracked-files=no"]
    options = {"cwd": folder, "env": variables, "capture_output": True}
    try:
        lines = subprocess.run(typed, **options).stdout.decode(errors="replace").splitlines()
    except OSError:  # git is not installed
        return None
    commits = [line.split()[2] for line in lines if line.startswith("# branch.oid ")]
    if not commits or commits[0] == "(initial)":
        return None
    return commits[0][:12] + ("+" if any(line[0] != "#" for line in lines) else "")


def provenance(device):
    """{"revision", "versions", "device", "threads"} of results computed now."""
    name = platform.processor() or platform.machine()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else name
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    return {
        "revision": git_revision(),
        "versions": versions,
        "device": f"{device}, {name}",
        "threads": torch.get_num_threads(),
    }
