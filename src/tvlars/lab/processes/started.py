"""Number of processes that torchrun or srun started, read only from the environment."""

from __future__ import annotations

import os

from tvlars._environment import TORCHRUN, VariableError, by_srun, check_started
from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError


def layout(config: TrainConfig) -> tuple[int, int]:
    """Return the number of processes per machine, and of machines.

    Raises:
        UsageError: the config has other numbers than were started.
    """
    found = started()
    if found is None:
        if (config.devices or 1) > 1 or (config.nodes or 1) > 1:
            raise UsageError(
                f"devices must be 1 in a process that was started alone, got {config.devices or 1} on "
                f"{config.nodes or 1} machines: start it with torchrun, srun or `tvlars train --devices N`"
            )
        return 1, 1
    for name, wanted, there in (("devices", config.devices, found[0]), ("nodes", config.nodes, found[1])):
        if wanted is not None and wanted != there:
            raise UsageError(f"{name} must be {there}, the number that was started, got {wanted}")
    return found


def started() -> tuple[int, int] | None:
    """Return the number of devices per machine, and of machines; None unless torchrun or srun started this process.

    Raises:
        UsageError: an environment variable of the launcher is missing or invalid.
    """
    try:
        check_started()
    except VariableError as error:
        raise UsageError(str(error)) from error
    if TORCHRUN in os.environ:
        local, world = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("WORLD_SIZE", "1"))
        return local, max(world // local, 1)
    if by_srun(os.environ):
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None
