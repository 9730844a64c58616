"""Description of this machine, for ``tvlars doctor`` and ``tvlars bench``. Needs only torch, since the laboratory may
be missing."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from tvlars._words import counted

PROC = Path("/proc")


@dataclass(frozen=True)
class Machine:
    """Machine on which measurements were made."""

    cpu: str
    cores: int
    threads: int
    torch: str
    system: str
    device: str
    native_bf16: bool

    def __str__(self) -> str:
        where = "" if self.device == "cpu" else f"{self.device} with "
        words = f"{cores_in_words(self.cores, self.threads)}, {bf16_in_words(self.native_bf16)}"
        return f"{where}{self.cpu}, {words}, torch {self.torch}, {self.system}"


def this_machine(device: torch.device) -> Machine:
    """Return this machine, with ``device`` as the device that computes."""
    return Machine(
        cpu=cpu_name(),
        cores=cores(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        system=f"{platform.system()} {platform.machine()}",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        native_bf16=native_bf16(device),
    )


def cores_in_words(cores: int, threads: int) -> str:
    """Return the numbers of cores and of torch's threads as text."""
    return f"{counted(cores, 'core')} ({counted(threads, 'thread')})"


def bf16_in_words(native: bool) -> str:
    """Return as text whether a device computes in bfloat16 in hardware."""
    return "bfloat16 in hardware" if native else "no bfloat16 in hardware"


def native_bf16(device: torch.device) -> bool:
    """Return whether the device computes in bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def emulates_bf16(device: torch.device) -> bool:
    """Return whether the device is an x86 CPU that computes in bfloat16 by detours; torch tells of no other ones."""
    return device.type == "cpu" and platform.machine() in ("x86_64", "AMD64") and not native_bf16(device)


def faster_in_bf16(device: torch.device) -> bool:
    """Return whether training is expected to be faster in bf16-mixed than in float32.

    CPUs need matrix units (AMX) for it: with bfloat16 in vector instructions alone, torch's convolutions are slower
    than in float32 (docs/results/speed.md).
    """
    return native_bf16(device) and (device.type != "cpu" or bool(torch.cpu._is_amx_tile_supported()))


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the model of the CPU if the system provides it, else the architecture."""
    with suppress(OSError):
        for line in (PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def free_memory(device: torch.device | None = None) -> int | None:
    """Return the free memory of a CUDA ``device``, or of the machine, in bytes; None if it is unknown."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with suppress(OSError, ValueError, IndexError):
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
