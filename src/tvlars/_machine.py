"""The machine in words. Needs torch alone, so that ``tvlars doctor`` can say it where the laboratory is missing."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

PROC = Path("/proc")


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def faster_in_bf16(device: torch.device) -> bool:
    """Whether training is expected to be faster in bf16-mixed than in float32.

    On CPUs that takes matrix units (AMX): with bfloat16 in vector instructions alone, torch's convolutions are slower
    than in float32 (docs/results/speed.md).
    """
    return native_bf16(device) and (device.type != "cpu" or bool(torch.cpu._is_amx_tile_supported()))


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The model, where the system tells it, else the architecture."""
    with suppress(OSError):
        for line in (PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
