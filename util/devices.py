"""Where it is computed: the device, its memory, and what a figure was measured with."""

import ctypes
import math
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from util.files import UserError

# glibc's mallopt (malloc.h): from which size on memory is mapped by itself, and how much free memory is kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2_000_000_000


def keep_memory():
    """Tell glibc to keep freed memory instead of giving it back to the system after every step and waiting for it again, which
    takes 40 % of a step at 256 px on a CPU. Elsewhere nothing happens."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no glibc
        return
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES // 2)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def first_line(error):
    """What an error says, without the advice below it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def driver_trouble():
    """What PyTorch has against the NVIDIA driver, if one is here and no GPU can be used for it; else None."""
    try:
        torch.cuda.init()
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # no driver, a PyTorch without CUDA: no GPU was meant to be used
        return first_line(error) if "too old" in str(error) else None
    return None


def choose_device(cuda, tf32=False):
    """The GPU of that number or, where there is none at all, the CPU with a line of warning; -1 is the CPU without it. tf32: may a GPU's
    convolutions compute in it? Raises UserError for a number that none of the GPUs has, and for a GPU that this PyTorch cannot use."""
    gpus = torch.cuda.device_count()
    if cuda >= gpus > 0:
        raise UserError(
            f"--cuda {cuda}: the GPUs here are 0 to {gpus - 1}; choose one of them, or -1 for the CPU"
        )
    if 0 <= cuda < gpus:
        # The same convolutions in every run; without TF32, but for rounding, on every device.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, tf32
        device = torch.device("cuda", cuda)
        try:
            torch.cuda.set_device(device)
            torch.ones(1, device=device).add_(
                1
            ).item()  # a GPU that the wheel has no kernels for fails at the first one
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"--cuda {cuda}: this PyTorch cannot use the GPU ({first_line(error)}); install one that fits GPU and driver, "
                "or choose -1 for the CPU"
            ) from error
        return device
    trouble = driver_trouble() if cuda >= 0 else None
    if trouble:
        raise UserError(
            f"--cuda {cuda}: this PyTorch cannot use the GPU ({trouble}); install one that fits the driver, or choose -1 for the CPU"
        )
    if cuda >= 0:
        print(
            f"warning: no GPU {cuda} here, running on the CPU (--cuda -1 says so without this line)",
            file=sys.stderr,
        )
    return torch.device("cpu")


def compile_network(network, device):
    """torch.compile(network). Raises UserError where nothing can be compiled: it would come out after minutes, at the first step."""
    x = torch.ones(
        random.randrange(1000, 10**6), device=device
    )  # of no size for which a compiled one is kept
    try:
        torch.compile(lambda x: x.sin().cumsum(0), dynamic=False)(x)
    except Exception as error:  # what a compiler says, in many classes
        raise UserError(
            f"--compile: nothing can be compiled here ({first_line(error)}); install a C++ compiler, or leave the option out"
        ) from error
    # For every size anew: code for any size, which a second one would get, is more than some releases of PyTorch can make of this.
    return torch.compile(network, dynamic=False)


def room_in_groups(membership="/proc/self/cgroup", root="/sys/fs/cgroup"):
    """Bytes that the limit of each control group (Linux's, version 2) above this process leaves, a container's or a Slurm step's; [] where there is
    no limit. Pages of files that nobody uses are no hindrance: the system gives them back when memory is asked for."""
    try:
        own = next(
            line[3:] for line in Path(membership).read_text().splitlines() if line.startswith("0::")
        )
    except (OSError, StopIteration):  # no Linux, or version 1
        own = "/"
    group, room = Path(root, own.lstrip("/")), []
    for folder in (group, *group.parents):
        try:
            limit, taken = (
                int((folder / name).read_text()) for name in ("memory.max", "memory.current")
            )
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group here, or "max": none of its own
            continue
        room.append(max(0, limit - max(0, taken - int(stat.get("inactive_file", 0)))))
    return room


def available_memory(device):
    """Bytes that this process may still take: a GPU's free ones; on a CPU what the system and the limits of `room_in_groups` leave, shared
    among the processes that torchrun has started. Infinite where the system does not say (Windows)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [math.inf]
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as f:
            free += [1024 * int(line.split()[1]) for line in f if line.startswith("MemAvailable")]
    elif hasattr(os, "sysconf"):  # macOS says what there is, not what is free
        free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2)
    return min(free + room_in_groups()) / int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_out_of_memory(error):
    """Does this RuntimeError say so? cuFFT, cuBLAS and cuDNN have words of their own for it."""
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def git_revision():
    """The project's revision, with a + if files were changed since, or None outside a git checkout."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
    except OSError:  # no git here
        return None
    return described.stdout.strip() or None


def provenance(device):
    """{"revision", "versions", "device", "threads"} of what is computed here now."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
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
