"""The command ``tvlars``, or a script, in a process forked from one that has imported torch: it starts at once.

Tests of how an interpreter starts (failed imports, variables that torch reads then, closed descriptors) start a real
one.
"""

from __future__ import annotations

import ast
import contextlib
import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = (
    "tvlars.lab.processes.fabric",  # before anything else imports Lightning
    *("tvlars.cli._commands", "tvlars.lab.bench", "tvlars.lab.comparison.table", "tvlars.lab.experiments.compare"),
    *("tvlars.lab.experiments.tuning.tune", "tvlars.lab.measure.landscape", "tvlars.lab.measure.probe_run"),
    *("tvlars.lab.report", "lightly.loss", "sklearn.datasets", "sklearn.model_selection"),
    "matplotlib.backends.backend_agg",
    *("torch.distributed.fsdp", "torch.distributed.launcher.api"),
)
"""Processes of all tests are forked from one that has imported what commands import sooner or later."""
CONTEXT.set_forkserver_preload(list(PRELOADED))
ADDRESS = "TVLARS_TESTS_FORKSERVER"
"""Variable with the address of that process where the workers of pytest-xdist share it."""


def lend_server() -> None:
    """Start the process for workers that start from now on: it imports once for all of them, while they collect."""
    server = forkserver._forkserver
    if not hasattr(server, "_forkserver_authkey"):  # newer versions of Python let no other process in
        terminal, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)  # as workers have it
        server.ensure_running()
        os.dup2(terminal, 1)
        os.close(terminal)
        os.close(null)
        os.environ[ADDRESS] = server._forkserver_address


def borrow_server() -> None:
    """Have this worker's processes forked from the one that is lent, if any is; the lender ends it."""
    server = forkserver._forkserver
    if address := os.environ.get(ADDRESS):
        server._forkserver_address, server._forkserver_alive_fd = address, os.open(os.devnull, os.O_RDONLY)
        server.ensure_running = resource_tracker.ensure_running


def unsynced(handle: int) -> None:
    """Stand in for ``os.fsync``, in this process and in all that import this module. To wait for a disk takes up to
    50 ms per file, runs write dozens, and no test takes the power away. The tests of what is synced have their own.
    """


os.fsync = unsynced  # type: ignore[assignment]


def slow_disk(seconds: float = 0.05) -> None:
    """Have each file take its time in this process: a test that kills it then comes before its end, and into a save."""
    os.fsync = lambda handle: time.sleep(seconds)  # type: ignore[assignment, misc]


class Command:
    """A command that runs; the part of ``subprocess.Popen`` that tests use.

    Args:
        words: what stands after ``program``.
        cwd: working directory.
        env: the environment; that of the test unless given.
        before: called in the new process before the command, as a shell's ``ulimit`` would be, and before Python opens
            its standard streams.
        program: ``tvlars`` or ``python``; words after ``python`` are a script or ``-m MODULE``, and arguments.
        context: from which process the new one is forked; that of all tests unless given.
    """

    def __init__(
        self,
        words: Sequence[object],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        before: Callable[[], object] | None = None,
        program: str = "tvlars",
        context: Any = CONTEXT,
    ) -> None:
        out, out_child = context.Pipe(duplex=False)
        err, err_child = context.Pipe(duplex=False)
        self.args = [program, *map(str, words)]
        environment = dict(os.environ if env is None else env)
        self._process = context.Process(
            target=_run, args=(self.args, str(cwd), environment, out_child, err_child, before)
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


def tvlars(*words: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``tvlars WORDS`` to its end; options are those of :class:`Command`, and ``timeout`` in seconds."""
    return _done(words, cwd, **options)


def python(*words: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``python WORDS`` to its end."""
    return _done(words, cwd, program="python", **options)


class Imported:
    """A process that has imported what a script imports: run in processes forked from it, the script starts at once."""

    def __init__(self, script: Path) -> None:
        self._asked, asked = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_serve, args=(script, asked))
        self._process.start()
        asked.close()

    def python(self, *words: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``python WORDS`` to its end."""
        self._asked.send((words, cwd, options))
        done: subprocess.CompletedProcess[str] = self._asked.recv()
        return done

    def close(self) -> None:
        self._asked.close()
        self._process.join()


def _serve(script: Path, asked: Connection) -> None:
    for statement in ast.parse(script.read_text()).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            exec(ast.unparse(statement), {})
    with contextlib.suppress(EOFError):
        while True:
            words, cwd, options = asked.recv()
            asked.send(python(*words, cwd=cwd, context=multiprocessing.get_context("fork"), **options))


def _done(words: Sequence[object], cwd: Path, timeout: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    with Command(words, cwd, **options) as command:
        out, err = command.communicate(timeout)
    assert command.returncode is not None
    return subprocess.CompletedProcess(command.args, command.returncode, out, err)


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
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        torch.set_num_threads(int(threads))  # the process that this one was forked from has read another one, or none
    if before is not None:
        before()
    unbuffered, encoding = bool(os.environ.get("PYTHONUNBUFFERED")), os.environ.get("PYTHONIOENCODING", "utf-8")
    written = os.fdopen(1, "wb", closefd=False)
    sys.stdin = os.fdopen(0, encoding=encoding, closefd=False)
    sys.stdout = io.TextIOWrapper(written, encoding=encoding, line_buffering=written.isatty(), write_through=unbuffered)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding=encoding, errors="backslashreplace", closefd=False)
    program, *rest = words
    if program == "tvlars":
        from tvlars.cli import main

        sys.argv = words
        sys.exit(main(rest))
    if rest[0] == "-m":
        sys.path[0], sys.argv = folder, rest[1:]
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(rest[0]).parent), rest
        runpy.run_path(rest[0], run_name="__main__")
