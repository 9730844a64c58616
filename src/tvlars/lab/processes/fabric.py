"""Lightning Fabric for the processes of a run: devices, and DDP or FSDP2 between processes.

This module is imported only when a run starts, since importing Fabric is slower than importing torch.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
import socket
import sys
import types
from datetime import timedelta
from importlib import metadata
from typing import Any

import torch.distributed as dist
from torch import nn

from tvlars._environment import VariableError, check_early
from tvlars.lab import memory
from tvlars.lab.config import TrainConfig, check_batch
from tvlars.lab.errors import LostProcessError, UsageError
from tvlars.lab.processes.processes import group_of_objects
from tvlars.lab.processes.started import layout


def _import_fabric() -> None:
    """Import Fabric with an empty module in place of torchmetrics, if torchmetrics is installed.

    Fabric imports all of torchmetrics, and with it torchvision and scipy, only to read the version.

    Raises:
        UsageError: an environment variable that Fabric reads on import is not a number.
    """
    if "lightning_fabric" in sys.modules or "torchmetrics" in sys.modules:
        return
    try:
        check_early()
    except VariableError as error:
        raise UsageError(str(error)) from error
    spec = importlib.util.find_spec("torchmetrics")
    if spec is None:
        return
    stands_in: Any = types.ModuleType("torchmetrics")
    stands_in.__spec__, stands_in.__version__ = spec, metadata.version("torchmetrics")
    sys.modules["torchmetrics"] = stands_in
    try:
        import lightning_fabric  # noqa: F401
    finally:
        del sys.modules["torchmetrics"]


_import_fabric()

from lightning_fabric import Fabric  # noqa: E402
from lightning_fabric.strategies.ddp import DDPStrategy  # noqa: E402
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy  # noqa: E402


def make_fabric(config: TrainConfig, precision: str) -> Fabric:
    """Return Fabric for all processes of the run: one device each, with DDP or FSDP2 for several processes.

    Raises:
        UsageError: the device is missing, or the batch cannot be split over so many processes.
        LostProcessError: another process did not reach the rendezvous.
    """
    devices, nodes = layout(config)
    check_batch(config.batch_size, config.micro_batch_size, devices * nodes)
    for name in ("lightning_fabric", "lightning_fabric.utilities.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)  # Fabric logs the precision, but the run reports it
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=_strategy(config, devices * nodes),
            precision=precision,  # type: ignore[arg-type]
        )
        if devices * nodes > 1:
            fabric.launch()
            group_of_objects(dist.group.WORLD, config.timeout)  # while all processes exist
    except UsageError:
        raise
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        _check_place(str(error))
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
        raise LostProcessError(int(rank), config.timeout, str(error)) from error
    except Exception as error:  # Fabric raises errors of many types for a missing device
        if memory.has_ended(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"accelerator {config.accelerator!r} cannot be used here: {reason}") from error
    return fabric


def _strategy(config: TrainConfig, processes: int) -> Any:
    timeout = timedelta(seconds=config.timeout)
    if config.shard:
        if processes == 1:
            raise UsageError("shard must not be given for one process, since there are no others to shard over")
        return ModelParallelStrategy(_shard, data_parallel_size=processes, tensor_parallel_size=1, timeout=timeout)
    if processes == 1:
        return "auto"
    # DDP need not copy buffers, since running statistics are synchronized, or averaged before each test.
    named = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    still = "forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers"  # before torch 2.14
    options: dict[str, Any] = {still: False}
    return DDPStrategy(timeout=timeout, **options)


def _shard(model: nn.Module, mesh: Any) -> nn.Module:
    """Shard each block of a model separately (FSDP2), so that one block at a time is gathered, then the rest."""
    from torch.distributed.fsdp import fully_shard

    for part in (*_blocks(model), model):
        fully_shard(part, mesh=mesh["data_parallel"])
    return model


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Return the modules with parameters in the outermost module lists of a model."""
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        return [child for child in module if any(True for _ in child.parameters())]
    return [block for child in module.children() for block in _blocks(child)]


def _check_place(reason: str) -> None:
    """Raise ``UsageError`` if the port of the rendezvous is taken or its address is unknown."""
    if "EADDRINUSE" in reason:
        port = os.environ.get("MASTER_PORT")
        raise UsageError(
            f"MASTER_PORT must be a free port of the first machine, but another program listens at {port} there"
        )
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    try:
        socket.getaddrinfo(address, None)
    except OSError as error:
        raise UsageError(
            f"MASTER_ADDR must be the first machine's name or address, but {address!r} is unknown here"
        ) from error
