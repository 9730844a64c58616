"""Runs of workers on this machine that start at once. Some tests of sweeps start them as users do."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.command import Command
from tvlars.lab.experiments.workers import process

TICK = 0.02


class Forked:
    """Stands in for ``subprocess.Popen`` where a worker starts the guardian of a run: starts the run alone, forked from
    a process that has imported torch.
    """

    turn = threading.Lock()  # multiprocessing reads the exit codes of all processes in whichever thread starts one

    def __init__(self, words: list[str], *, stdout: Any, env: dict[str, str], **_: Any) -> None:
        log = os.readlink(f"/proc/self/fd/{stdout.fileno()}")
        with self.turn:
            self._command = Command(words[3:], Path.cwd(), env, before=partial(_into, log))
        self.pid = self._command.pid

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self.turn:
                code = self._command.poll()
            if code is not None:
                return code
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("tvlars", timeout or 0.0)
            time.sleep(TICK)

    def terminate(self) -> None:
        if self._command.poll() is None:
            self._command.send_signal(signal.SIGTERM)


def _into(log: str) -> None:
    """Become a process group of its own, which writes to the end of a file."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def fork_runs(patch: pytest.MonkeyPatch) -> None:
    """Have workers on this machine fork their runs."""
    patch.setattr(process, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": Forked}))
