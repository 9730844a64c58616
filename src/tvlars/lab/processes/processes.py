"""Cooperation of a run's processes: shares of a batch, sums, agreement, and errors that are raised in all processes.

Lightning Fabric exchanges gradients (``fabric``); this module does the rest. With a single process, the same functions
work without collectives.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tvlars.lab.errors import (
    DivergedError,
    LostProcessError,
    MovedFolderError,
    PreemptedError,
    SaidElsewhereError,
    UsageError,
)
from tvlars.lab.processes.signals import HANDLED

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")
Pending = tuple[int, Tensor, Tensor]
"""Step, loss and number of correct predictions."""
SIGNALS = tuple(sorted(HANDLED, reverse=True))
"""Signals by priority, SIGTERM first: the first one that any process received is used."""
ENDS = (DivergedError, PreemptedError, KeyboardInterrupt)
"""Exceptions for regular ends of a run, which every process raises."""
DONE, FAILED = b"done", b"failed"
BEAT = 5.0
"""Most seconds between two heartbeats of a process that works alone."""
_alone = itertools.count()
"""Counter of calls to :meth:`Processes.alone`, equal in all processes."""


def is_lost(error: RuntimeError) -> bool:
    """Return True if a collective failed because another process has ended or did not join."""
    kinds = (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)
    text = str(error).lower()
    return isinstance(error, kinds) or any(word in text for word in ("gloo", "nccl", "connection closed by peer"))


class Processes:
    """All processes of a run, seen from one of them."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank, self.count = fabric.global_rank, fabric.world_size

    @property
    def first(self) -> bool:
        """True in the first process, which writes and prints."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.count > 1

    @property
    def _limit(self) -> float:
        """Time limit of a collective in seconds."""
        strategy: Any = self.fabric.strategy
        return float(strategy._timeout.total_seconds())

    @contextlib.contextmanager
    def lost_said(self) -> Iterator[None]:
        """Raise ``LostProcessError`` if a collective inside fails because another process is gone."""
        try:
            yield
        except RuntimeError as error:
            known = (LostProcessError, DivergedError, PreemptedError, MovedFolderError)
            if self.several and not isinstance(error, known) and is_lost(error):
                raise LostProcessError(self.rank, self._limit, str(error)) from error
            raise

    def share(self, samples: Tensor) -> Tensor:
        """Return this process's share of samples (n, ...); shares differ by one sample at most."""
        return torch.tensor_split(samples, self.count)[self.rank]

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if not self.several:
            return values
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @torch.no_grad()
    def average_buffers(self, model: nn.Module) -> None:
        """Replace floating point buffers (running statistics) by their mean over all processes."""
        if self.several:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.count

    def agree(self, pending: list[Pending], received: int, due: bool) -> tuple[list[Pending], int, bool]:
        """Agree in one collective: return the sums of pending losses and counts over processes, the first of
        ``SIGNALS`` that any process received (0: none), and ``due`` of the first process."""
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
        """Return the value of the first process."""
        return self.fabric.broadcast(value) if self.several else value

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if not self.several:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=group_of_objects(dist.group.WORLD, self._limit))
        return found

    def each(self, work: Callable[[], T]) -> list[T]:
        """Do ``work`` in each process, and return all results by rank.

        Raises:
            OSError, MovedFolderError, UsageError: the first of these errors in any process is raised in all processes;
                but a ``UsageError`` only in the first process, and ``SaidElsewhereError`` in the others.
        """
        if not self.several:
            return [work()]
        result: Any = None
        failed: Any = None
        try:
            result = work()
        except (UsageError, OSError, MovedFolderError) as error:
            failed = _packed(error)
        found = self.gather((result, failed))
        for _, packed in found:
            if packed is not None:
                first_error = _unpacked(packed)
                if isinstance(first_error, UsageError) and not self.first:
                    raise SaidElsewhereError("the first process reports the error")
                raise first_error
        return [one for one, _ in found]

    def by_first(self, work: Callable[[], T]) -> T:
        """Do ``work`` in the first process, and return its result in all; errors are as for :meth:`each`."""
        results: list[Any] = self.each(work if self.first else lambda: None)
        return results[0]  # type: ignore[no-any-return]

    def alone(self, work: Callable[[], T]) -> T | None:
        """Do ``work`` in the first process and return its result; the others wait without a limit and return None.

        The others poll the store of the rendezvous, since a collective would time out. The first process writes
        heartbeats and the outcome of its work to the store; an error of ``ENDS`` is raised in all processes.

        Raises:
            SaidElsewhereError: the work failed, and the first process reports the error.
            LostProcessError: there was no heartbeat within the time limit of a collective. A process that hangs, but
                is alive, still sends heartbeats, so the others wait.
            RuntimeError: the store is gone, with its process or launcher (see ``is_lost``).
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
                outcome = pickle.dumps(_packed(error)) if isinstance(error, ENDS) else FAILED
                with contextlib.suppress(RuntimeError):  # raise the work's error, not the error of a lost store
                    store.set(f"{name}/outcome", outcome)
                raise
            store.set(f"{name}/outcome", DONE)
        return result

    def _wait_for_first(self, store: Any, name: str) -> None:
        """Wait for the outcome of the first process's work."""
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
            raise SaidElsewhereError("the first process could not continue")
        if outcome != DONE:
            raise _unpacked(pickle.loads(outcome))


def _packed(error: BaseException) -> tuple[Any, ...]:
    """Return the parts of an error for another process, since pickle alone keeps only the message."""
    file = (error.filename,) if isinstance(error, OSError) and error.filename is not None else ()
    return type(error), (*error.args, *file), vars(error)


def _unpacked(packed: tuple[Any, ...]) -> BaseException:
    kind, arguments, attributes = packed
    error: BaseException = kind.__new__(kind, *arguments)
    vars(error).update(attributes)
    return error


@contextlib.contextmanager
def _signs_of_life(store: Any, key: str, every: float) -> Iterator[None]:
    """Increment ``key`` every few seconds in a thread, as a heartbeat."""
    over = threading.Event()

    def beat() -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone, which waiting processes notice too
            while not over.wait(every):
                store.add(key, 1)

    threading.Thread(target=beat, name="signs of life", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def whole_weights(model: nn.Module) -> dict[str, Any]:
    """Return the whole state dict of a sharded model on the CPU of the first process; all processes must call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_whole_weights(model: nn.Module, weights: dict[str, Any]) -> None:
    """Load the first process's result of :func:`whole_weights` into a sharded model; all processes must call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))


@cache
def group_of_objects(world: Any, seconds: float) -> Any:
    """Return the group that exchanges objects on the CPU, which has more memory than a device; None: default group."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds))
