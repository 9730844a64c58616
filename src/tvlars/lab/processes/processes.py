"""Many processes: who started them, which part of a batch is whose, and what they have in common.

Lightning Fabric does the parallel training (DDP, FSDP2); what is here is what the loop asks for besides. All of it is
also right in a single process, where no collective is called.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, nn

from tvlars._environment import VariableError, check_started
from tvlars.lab import memory
from tvlars.lab.config import TrainConfig, check_batch
from tvlars.lab.errors import (
    DivergedError,
    LostProcessError,
    MovedFolderError,
    PreemptedError,
    SaidElsewhereError,
    UsageError,
)
from tvlars.lab.processes.signals import HANDLED

T = TypeVar("T")
Pending = tuple[int, Tensor, Tensor]
"""A step, and its loss and number of right answers."""
SIGNALS = tuple(sorted(HANDLED, reverse=True))
"""SIGTERM before SIGINT before SIGHUP: the first that any process has received counts."""
ENDS = (DivergedError, PreemptedError, KeyboardInterrupt)
"""How a run may end in good order: in every process alike."""
DONE, FAILED = b"done", b"failed"
BEAT = 5.0
"""Seconds between two signs of life of a process that works alone, at most."""
_alone = itertools.count()
"""Numbers what the first process does alone, the same in all processes."""


def started() -> tuple[int, int] | None:
    """Devices of each machine and machines, where torchrun or srun started this process; else None.

    Raises:
        UsageError: an environment variable that says so is missing or makes no sense.
    """
    try:
        check_started()
    except VariableError as error:
        raise UsageError(str(error)) from error
    if TorchElasticEnvironment.detect():
        local, world = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("WORLD_SIZE", "1"))
        return local, max(world // local, 1)
    if SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        return int(os.environ["SLURM_NTASKS"]) // nodes, nodes
    return None


def layout(config: TrainConfig) -> tuple[int, int]:
    """Processes of each machine and machines of a run.

    Raises:
        UsageError: the config asks for others than were started.
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
            raise UsageError(f"{name} must be {there}, as many as were started, got {wanted}")
    return found


def make_fabric(config: TrainConfig, precision: str) -> Fabric:
    """Fabric for all processes of the run: one device each, DDP or FSDP2 where there are several.

    Raises:
        UsageError: the device is not there, or the batch does not go with so many processes.
        LostProcessError: another process did not come to where all meet.
    """
    devices, nodes = layout(config)
    check_batch(config.batch_size, config.micro_batch_size, devices * nodes)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # we say the precision ourselves
    logging.getLogger("lightning_fabric.utilities.distributed").setLevel(logging.WARNING)
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
            _talk(dist.group.WORLD, config.timeout)  # now, while all are there
    except UsageError:
        raise
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        _check_place(str(error))
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
        raise LostProcessError(int(rank), config.timeout, str(error)) from error
    except Exception as error:  # Fabric has many types of its own for a device that is missing
        if memory.has_ended(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"accelerator {config.accelerator!r} cannot be used here: {reason}") from error
    return fabric


def _check_place(reason: str) -> None:
    """Raise ``UsageError`` where processes could not meet since the place for that is taken, or is none."""
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


def _strategy(config: TrainConfig, processes: int) -> Any:
    timeout = timedelta(seconds=config.timeout)
    if config.shard:
        if processes == 1:
            raise UsageError("shard must not be given for one process, there is nothing to spread over")
        return ModelParallelStrategy(_shard, data_parallel_size=processes, tensor_parallel_size=1, timeout=timeout)
    if processes == 1:
        return "auto"
    # Batch norm's running statistics are the same everywhere, or made so before they are used.
    named = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    before_2_14 = "forward_sync_buffers" not in named
    still: dict[str, Any] = {"broadcast_buffers" if before_2_14 else "forward_sync_buffers": False}
    return DDPStrategy(timeout=timeout, **still)


def _shard(model: nn.Module, mesh: Any) -> nn.Module:
    """FSDP2: the blocks of a model one by one, so that one at a time is whole, then what is left."""
    from torch.distributed.fsdp import fully_shard

    data = mesh["data_parallel"]
    for block in _blocks(model):
        fully_shard(block, mesh=data)
    fully_shard(model, mesh=data)
    return model


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The members of a model's outermost lists of modules that have parameters."""
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        return [child for child in module if any(True for _ in child.parameters())]
    return [block for child in module.children() for block in _blocks(child)]


def whole_weights(model: nn.Module) -> dict[str, Any]:
    """The state dict of a model that is spread over processes, whole, on the CPU of the first; all have to call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def is_lost(error: RuntimeError) -> bool:
    """Whether a collective failed since another process has ended or did not come."""
    kinds = (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)
    text = str(error).lower()
    return isinstance(error, kinds) or any(word in text for word in ("gloo", "nccl", "connection closed by peer"))


class Processes:
    """What one process knows of all: its rank, and how to share out and add up."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank, self.count = fabric.global_rank, fabric.world_size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.count > 1

    @contextlib.contextmanager
    def lost_said(self, timeout: float) -> Iterator[None]:
        """Raise ``LostProcessError`` in place of a collective's error that another process has caused by its absence.

        Args:
            timeout: seconds that a collective may take, which the error names.
        """
        try:
            yield
        except RuntimeError as error:
            known = (LostProcessError, DivergedError, PreemptedError, MovedFolderError)
            if self.several and not isinstance(error, known) and is_lost(error):
                raise LostProcessError(self.rank, timeout, str(error)) from error
            raise

    def share(self, samples: Tensor) -> Tensor:
        """This process's part of some samples (n, ...): the rank-th of as many even pieces as there are processes."""
        return torch.tensor_split(samples, self.count)[self.rank]

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if not self.several:
            return values
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    def agree(self, pending: list[Pending], received: int, due: bool) -> tuple[list[Pending], int, bool]:
        """Sums over all processes of pending losses and counts, with a signal that any of them has received (in
        the order of ``SIGNALS``), and whether the first one finds a checkpoint due: all in one collective."""
        device = self.fabric.device
        flags = [received == number for number in SIGNALS] + [due and self.first, False]
        values = [torch.stack([loss.double(), correct.double()]) for _, loss, correct in pending]
        values.append(torch.tensor(flags, dtype=torch.float64, device=device))
        summed = self.total(torch.cat(values)).cpu()
        rows = [
            (step, loss.float(), correct)
            for (step, _, _), (loss, correct) in zip(pending, summed[: -len(flags)].view(-1, 2), strict=True)
        ]
        *came, any_due, _ = summed[-len(flags) :].tolist()
        return rows, next((number for number, n in zip(SIGNALS, came, strict=True) if n), 0), bool(any_due)

    def broadcast(self, value: T) -> T:
        """What the first process has."""
        return self.fabric.broadcast(value) if self.several else value

    def gather(self, value: T) -> list[T]:
        """What every process has, by rank."""
        if not self.several:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=_talk(dist.group.WORLD, self._limit))
        return found

    def by_first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the first process; where it raises ``UsageError``, all processes stop."""
        result: Any = None
        error: UsageError | None = None
        if self.first:
            try:
                result = work()
            except UsageError as raised:
                error = raised
        result, failed = self.broadcast((result, error is not None))
        if error is not None:
            raise error
        if failed:
            raise SaidElsewhereError("the first process could not go on")
        return result  # type: ignore[no-any-return]

    def all_or_none(self, work: Callable[[], object]) -> None:
        """Do ``work`` in each process; where it raises ``UsageError`` in one, all stop, and the first says why."""
        said = ""
        try:
            work()
        except UsageError as error:
            if not self.several:
                raise
            said = str(error)
        for reason in self.gather(said):
            if reason:
                raise UsageError(reason) if self.first else SaidElsewhereError("the first process says why")

    def alone(self, work: Callable[[], T]) -> T | None:
        """Do ``work`` in the first process while the others wait, as long as it takes; None for them.

        They wait in the store through which all have met, so that no collective runs into its time limit. There the
        first process leaves signs of life, and what came of its work: what ends a run in good order is raised in all.

        Raises:
            SaidElsewhereError: the work failed, and the first process says why.
            LostProcessError: there was no sign of life for as long as a collective may take. Work that hangs in a
                process that lives is waited for.
            RuntimeError: the store has gone, with the process or the launcher that held it (see ``is_lost``).
        """
        if not self.several:
            return work()
        store: Any = dist.distributed_c10d._get_default_store()
        name = f"tvlars/alone/{next(_alone)}"
        if not self.first:
            self._wait_for_first(store, name)
            return None
        with _signs_of_life(store, f"{name}/beats", min(self._limit / 5, BEAT)):
            try:
                result = work()
            except BaseException as error:
                ends = isinstance(error, ENDS)
                outcome = pickle.dumps((type(error), error.args, vars(error))) if ends else FAILED
                with contextlib.suppress(RuntimeError):  # its own error comes before a store that has gone
                    store.set(f"{name}/outcome", outcome)
                raise
            store.set(f"{name}/outcome", DONE)
        return result

    def _wait_for_first(self, store: Any, name: str) -> None:
        """Until the first process has said what came of its work alone."""
        begun = moved = time.monotonic()
        beats = 0
        while not store.check([f"{name}/outcome"]):
            now, found = time.monotonic(), store.add(f"{name}/beats", 0)
            if found != beats:
                beats, moved = found, now
            elif now - moved > self._limit:
                raise LostProcessError(self.rank, self._limit, "no sign of life of the first one, which works alone")
            time.sleep(min(0.01 + (now - begun) / 10, self._limit / 10, 1.0))
        outcome = store.get(f"{name}/outcome")
        if outcome == FAILED:
            raise SaidElsewhereError("the first process could not go on")
        if outcome != DONE:
            kind, arguments, attributes = pickle.loads(outcome)
            error = kind.__new__(kind, *arguments)
            vars(error).update(attributes)
            raise error

    @property
    def _limit(self) -> float:
        """Seconds that a collective may take."""
        strategy: Any = self.fabric.strategy
        return float(strategy._timeout.total_seconds())

    @torch.no_grad()
    def average_buffers(self, model: nn.Module) -> None:
        """Make floating point buffers (running statistics) the mean over all processes."""
        if self.several:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.count


@cache
def _talk(world: Any, seconds: float) -> Any:
    """The group in which objects go over the CPU, where there is more room than on a device; None: the usual one."""
    if dist.get_backend() == "gloo":
        return None
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds))


@contextlib.contextmanager
def _signs_of_life(store: Any, key: str, every: float) -> Iterator[None]:
    """Count up ``key`` every few seconds, in a thread."""
    over = threading.Event()

    def beat() -> None:
        with contextlib.suppress(RuntimeError):  # the store has gone: whoever waits notices that too
            while not over.wait(every):
                store.add(key, 1)

    threading.Thread(target=beat, name="signs of life", daemon=True).start()
    try:
        yield
    finally:
        over.set()
