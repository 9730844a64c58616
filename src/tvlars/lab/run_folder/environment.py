"""Environment of a run: versions, hardware and command, to reproduce its numbers."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """Return versions, hardware and command, for environment.json."""
    versions = {}
    for name in ("tvlars", "torch", "torchvision", "lightning-fabric", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command": command_line(),
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }


def command_line() -> str:
    """Return the command of this process, quoted for a shell."""
    program = Path(sys.argv[0]).name
    program = "python -m tvlars" if program == "__main__.py" else program
    return " ".join([program, *map(shlex.quote, sys.argv[1:])])
