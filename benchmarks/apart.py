"""Contestants in processes of their own, and the memory that they take."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from harness import Turn

from tvlars._machine import PROC

EVERY = 1.0
"""Seconds between two looks at the memory of a process, each of which takes some milliseconds."""
MIB = 2**20


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the value of a function in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that this process has while ``work`` is done, less those that it has before; on Linux."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the status of a process must have {name}")


def mebibytes(count: int | None) -> int | None:
    """Return a number of bytes in MiB."""
    return None if count is None else round(count / MIB)


class Apart:
    """``make(*arguments)`` in another process, which is alive until :meth:`close`: its memory is known, and nothing
    that it leaves behind meets the others.

    Args:
        make: a function that can be pickled; it returns the contestant's turn.
        arguments: for it; they are pickled.

    Attributes: ``memory``, the most bytes that the process and those below it had in its turns, less those that it had
    before ``make`` (None where the system does not tell), and ``device_memory``, the most bytes that torch had on a
    CUDA device. ``said`` is that of the turn, if it has one: how it computes.
    """

    def __init__(self, make: Callable[..., Turn], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, line = context.Pipe()
        self._process = context.Process(target=_serve, args=(line, make, arguments))
        self._process.start()
        line.close()
        self.memory: int | None = None
        self.device_memory = 0
        try:
            self._before = int(self._answer())
            self.said = str(self._answer())
        except BaseException:
            self.close()
            raise

    def __call__(self) -> float:
        """Its turn."""
        self._line.send(True)
        while not self._line.poll(EVERY):
            self._look()
        self._look()
        seconds, self.device_memory = self._answer()
        return float(seconds)

    def _look(self) -> None:
        pid = self._process.pid
        now = tree_memory(pid) if pid is not None else None
        if now is not None:
            self.memory = max(self.memory or 0, now - self._before)

    def _answer(self) -> Any:
        try:
            fine, value = self._line.recv()
        except EOFError:
            self._process.join(5)
            raise RuntimeError(f"a contestant's process ended with code {self._process.exitcode}") from None
        if not fine:
            raise RuntimeError(f"a contestant failed:\n{value}")
        return value

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._line.send(False)
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
        self._line.close()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _serve(line: Connection, make: Callable[..., Turn], arguments: tuple[Any, ...]) -> None:
    # The system's own way of starting processes below this one; it would pass on the way that it was started in.
    multiprocessing.set_start_method(None, force=True)
    try:
        line.send((True, tree_memory(os.getpid()) or 0))
        turn = make(*arguments)
        line.send((True, getattr(turn, "said", "")))
        while line.recv():
            seconds = turn()
            device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
            line.send((True, (seconds, device)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):  # the other end has gone
        return
    except Exception:
        line.send((False, traceback.format_exc()))


def tree_memory(pid: int) -> int | None:
    """Return the bytes of memory of a process and of all below it, files that they have mapped aside.

    Memory that several of them share counts once. None if the system does not tell.
    """
    total = 0
    for each in _tree(pid):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it may have ended meanwhile
            for line in (PROC / str(each) / "smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    return total or None


def _tree(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for folder in PROC.iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    after_name = (folder / "stat").read_text().rpartition(")")[2]
                    parents.setdefault(int(after_name.split()[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:  # grows while it is gone through
        found.extend(parents.get(each, []))
    return found
