"""The command ``tvlars`` in a process of its own, forked from one that has imported torch: it starts at once.

Tests of how an interpreter starts (failed imports, variables that torch reads then, closed descriptors) start a real
one.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tvlars.cli", "tvlars.lab", "tvlars.lab.experiments", "lightly.loss"])


class Command:
    """A command that runs; the part of ``subprocess.Popen`` that tests use.

    Args:
        arguments: what stands after ``tvlars``.
        cwd: working directory.
        env: the environment; that of the test unless given.
        before: called in the new process before the command, as a shell's ``ulimit`` would be.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        before: Callable[[], object] | None = None,
    ) -> None:
        out, out_child = CONTEXT.Pipe(duplex=False)
        err, err_child = CONTEXT.Pipe(duplex=False)
        words = [str(argument) for argument in arguments]
        self._process = CONTEXT.Process(
            target=_run, args=(words, str(cwd), dict(os.environ if env is None else env), out_child, err_child, before)
        )
        self._process.start()
        out_child.close()
        err_child.close()
        self.stdout, self.stderr = _text(out), _text(err)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read to the end of what the command, and processes that it has started, write; wait for its end."""
        said: dict[str, str] = {}
        streams = {"out": self.stdout, "err": self.stderr}
        readers = [threading.Thread(target=_read, args=(said, *one), daemon=True) for one in streams.items()]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired("tvlars", timeout or 0.0)
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("tvlars", timeout or 0.0)
        return said["out"], said["err"]

    def __enter__(self) -> Command:
        return self

    def __exit__(self, kind: object, error: object, where: object) -> None:
        if kind is not None and self._process.is_alive():
            self.kill()
        self._process.join()


def tvlars(
    *arguments: object,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    before: Callable[[], object] | None = None,
    timeout: float | None = 300,
) -> subprocess.CompletedProcess[str]:
    """Run ``tvlars ARGUMENTS`` to its end."""
    with Command(arguments, cwd, env, before) as command:
        out, err = command.communicate(timeout)
    assert command.returncode is not None
    return subprocess.CompletedProcess(["tvlars", *map(str, arguments)], command.returncode, out, err)


def _text(end: Connection) -> Any:
    file = os.fdopen(os.dup(end.fileno()), encoding="utf-8")
    end.close()
    return file


def _read(said: dict[str, str], name: str, stream: Any) -> None:
    said[name] = stream.read()


def _run(
    words: list[str],
    folder: str,
    environment: dict[str, str],
    out: Connection,
    err: Connection,
    before: Callable[[], object] | None,
) -> None:
    """In the new process: take its streams, folder, environment and signals as a shell would have set them."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out.fileno(), 1), (err.fileno(), 2)):
        os.dup2(source, target)
    os.close(null)
    out.close()
    err.close()
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", write_through=unbuffered)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.argv = ["tvlars", *words]
    if before is not None:
        before()
    from tvlars.cli import main

    sys.exit(main(words))
