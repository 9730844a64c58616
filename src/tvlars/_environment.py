"""Environment variables by which torchrun and srun identify a process, checked before anything uses them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Variable that only torchrun sets."""
LEAST = {
    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_NNODES"), 1),
    **dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK"), 0),
    **dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "JSM_NAMESPACE_RANK"), 0),
    "MASTER_PORT": 1,
}
"""Integer variables, each with its smallest valid value."""
READ_EARLY = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Variables that Lightning Fabric reads when it is imported."""
NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""Variables that torchrun always sets."""
NEEDED_BY_SRUN = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
BELOW = (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


class VariableError(ValueError):
    """Invalid environment variable; the message is one sentence that names it."""


def check_early() -> None:
    """Raise ``VariableError`` if a variable would make the import of Lightning Fabric fail."""
    for name in READ_EARLY:
        if name in os.environ:
            _integer(name, os.environ[name], LEAST[name])


def check_started(variables: Mapping[str, str] | None = None) -> None:
    """Raise ``VariableError`` if this process is one of several, but cannot connect to the others as it was started.

    Args:
        variables: environment variables of the process; None (default) uses ``os.environ``.
    """
    given = os.environ if variables is None else variables
    found = {name: _integer(name, given[name], least) for name, least in LEAST.items() if name in given}
    if found.get("MASTER_PORT", 1) > 65535:
        raise VariableError(f"MASTER_PORT must be a port from 1 to 65535, got {given['MASTER_PORT']!r}")
    for name, count in BELOW:
        if name in found and count in found and found[name] >= found[count]:
            raise VariableError(f"{name} must be < {count}, which is {found[count]}, got {found[name]}")
    if TORCHRUN in given:
        if missing := [name for name in NEEDED if name not in given]:
            raise VariableError(f"{missing[0]} must be set with {TORCHRUN}, as torchrun does, but is missing")
        local, world = found["LOCAL_WORLD_SIZE"], found["WORLD_SIZE"]
        if world % local:
            raise VariableError(
                f"WORLD_SIZE must be a multiple of LOCAL_WORLD_SIZE, as many processes on each machine, got {world} "
                f"and {local}"
            )
    elif by_srun(given):
        for name in ("SLURM_NTASKS_PER_NODE", *NEEDED_BY_SRUN):
            if name not in given:
                raise VariableError(
                    f"{name} must be set where SLURM_NTASKS is {found['SLURM_NTASKS']}, but is missing: start the "
                    "processes with srun --ntasks-per-node N"
                )
        tasks, nodes = found["SLURM_NTASKS"], found.get("SLURM_NNODES", 1)
        if tasks % nodes:
            raise VariableError(f"SLURM_NTASKS must be a multiple of SLURM_NNODES, got {tasks} and {nodes}")
    elif found.get("WORLD_SIZE", 1) > 1:
        # Each process would train the whole run by itself.
        raise VariableError(
            f"WORLD_SIZE must be 1 or unset in a process that neither torchrun nor srun has started, got "
            f"{given['WORLD_SIZE']}: start the processes with torchrun, srun or `tvlars train --devices N`"
        )


def by_srun(variables: Mapping[str, str]) -> bool:
    """Return whether srun has started this process with others; an interactive job has a single one."""
    several = int(variables.get("SLURM_NTASKS", "1")) > 1
    return several and variables.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def _integer(name: str, text: str, least: int) -> int:
    number = int(text) if re.fullmatch(r"\s*[+-]?\d{1,9}\s*", text, re.ASCII) else least - 1
    if number < least:
        raise VariableError(
            f"{name} must be an integer >= {least}, as torchrun and srun set it, got {text!r} in the environment"
        )
    return number
