"""What a figure was measured with."""
import os
import platform
import subprocess

import numpy as np
import torch


def git_revision():
    """The project's revision, with a + if files were changed since, or None outside a git checkout."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"], cwd=folder, capture_output=True, text=True
        )
    except OSError:  # no git here
        return None
    return described.stdout.strip() or None


def provenance(device):
    """{"revision", "versions", "device", "threads"} of what is computed here now."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {"revision": git_revision(), "versions": versions, "device": f"{device}, {name}", "threads": torch.get_num_threads()}
