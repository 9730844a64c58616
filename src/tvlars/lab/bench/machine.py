"""The machine that something was measured on, in words, and the memory that processes take."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import dataclass

import torch

from tvlars._machine import PROC, cores, cpu_name, native_bf16


@dataclass(frozen=True)
class Machine:
    """What a reader has to know of the machine."""

    cpu: str
    cores: int
    threads: int
    torch: str
    system: str
    device: str
    native_bf16: bool

    def __str__(self) -> str:
        bf16 = "bfloat16 in hardware" if self.native_bf16 else "no bfloat16 in hardware"
        where = "" if self.device == "cpu" else f"{self.device} with "
        return (
            f"{where}{self.cpu}, {self.cores} cores ({self.threads} threads), {bf16}, torch {self.torch}, {self.system}"
        )


def this_machine(device: torch.device) -> Machine:
    """This one, with ``device`` for the computing."""
    return Machine(
        cpu=cpu_name(),
        cores=cores(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        system=f"{platform.system()} {platform.machine()}",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        native_bf16=native_bf16(device),
    )


def free_memory() -> int | None:
    """Bytes that can be taken without harm; None where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def tree_memory(pid: int) -> int | None:
    """Bytes of memory of a process and of all below it, files that they have mapped aside.

    What several of them share counts once. None where the system does not tell.
    """
    total = 0
    for each in _tree(pid):
        with suppress(OSError, ValueError, IndexError):  # it may have ended meanwhile
            for line in (PROC / str(each) / "smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    return total or None


def _tree(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    with suppress(OSError):
        for folder in PROC.iterdir():
            if folder.name.isdigit():
                with suppress(OSError, ValueError, IndexError):
                    after_name = (folder / "stat").read_text().rpartition(")")[2]
                    parents.setdefault(int(after_name.split()[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:  # grows while it is gone through
        found.extend(parents.get(each, []))
    return found
