"""Reasons why the Triton kernels cannot run on a device, if there are any."""

from __future__ import annotations

import functools
import warnings

import torch

DEVICE_TYPES = ["cuda"]
"""Types of devices whose layers may use the kernels; tests add "cpu" under Triton's interpreter."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def why_not(device: torch.device) -> str | None:
    """Return why the kernels cannot run on ``device``, or None if they can.

    The first call for a device compiles and launches a kernel, since Triton may be installed without a C compiler.
    """
    if device.type not in DEVICE_TYPES:
        return f"there are no Triton kernels for {device.type}"
    try:
        from tvlars.optim.triton.kernels import probe
    except ModuleNotFoundError:
        return "Triton is not installed (pip install triton)"
    except Exception as error:  # a version that is too old, or damaged
        return f"Triton cannot be imported: {type(error).__name__}: {error}"
    if device.type != "cuda":
        return None
    if torch.version.hip is not None:
        return "the Triton kernels have not been tried on AMD's GPUs"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"Triton needs a GPU of compute capability 8.0 or more, and {device} has {major}.{minor}"
    try:
        with torch.cuda.device(device):
            probe[(1,)](torch.empty(1, device=device))
    except Exception as error:  # whatever a compiler or driver may raise
        return f"Triton does not work here: {type(error).__name__}: {error}"
    return None


@functools.cache
def warn_once(message: str, stacklevel: int) -> None:
    """Warn once per message and place in a process."""
    warnings.warn(message, stacklevel=stacklevel + 1)
