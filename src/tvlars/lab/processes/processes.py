"""One process among several: its part of a batch, and how all of them add up, agree and fail together.

Lightning Fabric does the parallel training (``fabric``); here is what the loop asks for besides. All of it is also
right in a single process, where no collective is called.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from tvlars.lab.errors import (
    DivergedError,
    LostProcessError,
    MovedFolderError,
    PreemptedError,
    SaidElsewhereError,
    UsageError,
)
from tvlars.lab.processes.fabric import group_of_objects
from tvlars.lab.processes.signals import HANDLED

T = TypeVar("T")
Pending = tuple[int, Tensor, Tensor]
"""A step, and its loss and number of right answers."""
SIGNALS = tuple(sorted(HANDLED, reverse=True))
"""SIGTERM before SIGINT before SIGHUP: the first that any process has received counts."""
ENDS = (DivergedError, PreemptedError, KeyboardInterrupt)
"""Ends of a run in good order: in every process alike."""
DONE, FAILED = b"done", b"failed"
BEAT = 5.0
"""Seconds between two signs of life of a process that works alone, at most."""
_alone = itertools.count()
"""Numbers what the first process does alone, the same in all processes."""


def is_lost(error: RuntimeError) -> bool:
    """Return whether a collective failed since another process has ended or did not come."""
    kinds = (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)
    text = str(error).lower()
    return isinstance(error, kinds) or any(word in text for word in ("gloo", "nccl", "connection closed by peer"))


class Processes:
    """A process's view of all: its rank, and how to share out, add up and agree."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank, self.count = fabric.global_rank, fabric.world_size

    @property
    def first(self) -> bool:
        """True in the process that writes and prints."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.count > 1

    @property
    def _limit(self) -> float:
        """Seconds that a collective may take."""
        strategy: Any = self.fabric.strategy
        return float(strategy._timeout.total_seconds())

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
        """Return this process's part of some samples (n, ...): the rank-th of even pieces, one for each process."""
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
        """Make floating point buffers (running statistics) the mean over all processes."""
        if self.several:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.count

    def agree(self, pending: list[Pending], received: int, due: bool) -> tuple[list[Pending], int, bool]:
        """Return the sums over all processes of pending losses and counts, a signal that any has received (in the order
        of ``SIGNALS``), and whether the first one finds a checkpoint due: all in one collective."""
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
            OSError, MovedFolderError, UsageError: the first of these that ``work`` raised in any process, in all of
                them; a ``UsageError`` is said by the first process, the others raise ``SaidElsewhereError``.
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
                    raise SaidElsewhereError("the first process says why")
                raise first_error
        return [one for one, _ in found]

    def by_first(self, work: Callable[[], T]) -> T:
        """Do ``work`` in the first process, and return its result in all; it fails in all, as in :meth:`each`."""
        results: list[Any] = self.each(work if self.first else lambda: None)
        return results[0]  # type: ignore[no-any-return]

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
                outcome = pickle.dumps(_packed(error)) if isinstance(error, ENDS) else FAILED
                with contextlib.suppress(RuntimeError):  # its own error comes before a store that has gone
                    store.set(f"{name}/outcome", outcome)
                raise
            store.set(f"{name}/outcome", DONE)
        return result

    def _wait_for_first(self, store: Any, name: str) -> None:
        """Wait until the first process has said what came of its work alone."""
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
            raise _unpacked(pickle.loads(outcome))


def _packed(error: BaseException) -> tuple[Any, ...]:
    """An error for another process: pickle would make it anew from its message alone."""
    file = (error.filename,) if isinstance(error, OSError) and error.filename is not None else ()
    return type(error), (*error.args, *file), vars(error)


def _unpacked(packed: tuple[Any, ...]) -> BaseException:
    kind, arguments, attributes = packed
    error: BaseException = kind.__new__(kind, *arguments)
    vars(error).update(attributes)
    return error


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
