"""A contestant in a process of its own: its memory is known, and nothing that it leaves behind meets the others."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from tvlars.lab.bench.machine import tree_memory
from tvlars.lab.bench.timing import Turn

EVERY = 1.0
"""Seconds between two looks at the memory of a process, each of which takes some milliseconds."""


class Apart:
    """``make(*arguments)`` in another process, which is alive until :meth:`close`.

    Args:
        make: a function that can be imported; it returns the contestant's turn.
        arguments: for it; they are pickled.

    Attributes: ``memory``, the most bytes that the process and those below it had in its turns, less those that it had
    before ``make`` (None where the system does not tell), and ``device_memory``, the most bytes that torch had on a
    CUDA device.
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
            self._answer()
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
        line.send((True, None))
        while line.recv():
            seconds = turn()
            device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
            line.send((True, (seconds, device)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):  # the other end has gone
        return
    except Exception:
        line.send((False, traceback.format_exc()))
