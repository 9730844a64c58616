"""One run of a sweep in a process of its own: a crash, a killed process or a full memory costs that run alone.

``run_one`` is what every worker does, one on this machine and one of Ray alike.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tvlars._reading import open_regular, read_json
from tvlars.lab.errors import LockedError, UsageError
from tvlars.lab.files.disk import open_to_append
from tvlars.lab.files.lock import LOCK, locked
from tvlars.lab.run_folder.loaded_run import load_run

CHILD = Path(__file__).with_name("workers") / "guardian.py"
LOCK_PATIENCE = 600.0
"""Seconds that a run waits for one that a dead worker has left behind, and which is saving what it has."""
STOP_PATIENCE = 300.0
"""Seconds that a stopped run has to save what it has."""
TICK = 0.1
BEGIN = "---"
"""What a log's first line of an attempt begins with."""


@dataclass(frozen=True)
class Job:
    """A run to do. ``images`` is the work that it is: samples of all its epochs."""

    name: str
    folder: Path
    arguments: tuple[str, ...]
    images: int
    epochs: int
    devices: int = 1

    @property
    def log(self) -> Path:
        """Where its output goes: beside its folder."""
        return self.folder.with_name(f"{self.name}.log")


@dataclass(frozen=True)
class Outcome:
    """How one attempt at a job ended.

    ``status`` is finished, diverged, refused (bad input: again would not help), failed, lost (its worker died) or
    stopped (with the sweep).
    """

    job: Job
    status: str
    note: str = ""


@dataclass
class Halt:
    """Tells workers to stop: ``asked`` lets runs save what they have, ``now`` kills them."""

    asked: threading.Event = field(default_factory=threading.Event)
    now: threading.Event = field(default_factory=threading.Event)


class Workers(Protocol):
    """Those who do jobs, each job by one of them."""

    def describe(self) -> str:
        """Who they are, in words."""

    def submit(self, job: Job) -> None:
        """Have a job done when there is room."""

    def wait(self, seconds: float) -> list[Outcome]:
        """What has ended since the last call; waits for something at most so long."""

    def running(self) -> list[Job]:
        """The jobs that are being done."""

    def stop(self, halt: Halt) -> None:
        """Let all runs save what they have; returns when none is going on any more."""

    def close(self) -> None:
        """All is done."""


def run_one(job: Job, threads: int, environment: dict[str, str], halt: Halt) -> Outcome:
    """Do one job, or go on with it, and wait for it.

    Args:
        job: the run.
        threads: CPU threads that it may use.
        environment: variables that it gets besides.
        halt: tells when to stop.

    Returns:
        How it ended. An exception that comes while it waits, as when Ray cancels it, stops the run too.
    """
    if not _free(job.folder, halt):
        if halt.asked.is_set():
            return Outcome(job, "stopped")
        return Outcome(job, "failed", f"another process works in {job.folder}")
    if job.log.exists() and not job.log.is_file():  # a named pipe would be waited for
        return Outcome(job, "failed", f"{job.log} must be a file that can be written, but is something else")
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads), **environment}
    variables.pop("SLURM_NTASKS", None)  # srun has started the sweep; its runs are single processes
    with os.fdopen(open_to_append(job.log), "a", encoding="utf-8") as log:
        stamp = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        print(f"{BEGIN} {stamp} on {platform.node()}", file=log, flush=True)
        child = subprocess.Popen(
            [sys.executable, str(CHILD), str(os.getpid()), *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,  # Ctrl-C is for the sweep, which stops its runs itself
        )
        try:
            code = _wait(child, halt)
        except BaseException:
            _end(child)
            raise
    return judge(job, code, halt.asked.is_set())


def judge(job: Job, code: int, stopped: bool) -> Outcome:
    """What the exit code of ``tvlars train`` says."""
    if code == 0:
        status = read_status(job.folder)
        if status == "finished":
            return Outcome(job, "finished")
        return Outcome(job, "failed", f"it ended well, but its folder says that it is {status}")
    if code == 3:
        return Outcome(job, "diverged", "its loss was not finite")
    if code == 2:
        if read_status(job.folder) == "finished" and is_whole(job.folder, job.epochs):
            return Outcome(job, "finished", "its output could not be written")
        return Outcome(job, "refused", said_last(job.log))
    number = -code if code < 0 else code - 128 if code > 128 else None
    if number is None:
        return Outcome(job, "failed", f"exit code {code}")
    if stopped:
        return Outcome(job, "stopped")
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = ", as the system does when memory is full" if number == signal.SIGKILL else ""
    return Outcome(job, "failed", f"stopped by {name}{hint}")


def read_status(folder: Path) -> str:
    """The status of a run folder: "unfinished" where it does not say, "missing" where there is none."""
    try:
        summary: Any = read_json(folder / "summary.json", folder)
        return str(summary["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unfinished" if folder.is_dir() else "missing"


def is_whole(folder: Path, epochs: int) -> bool:
    """Return whether a run folder has a row of every epoch that can be read."""
    try:
        return len(load_run(folder).epochs) >= epochs
    except UsageError:
        return False


def last_lines(log: Path, count: int = 5) -> list[str]:
    """The last lines that the newest attempt has left in a log."""
    try:
        with open_regular(log, log.parent) as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 20_000, 0))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    begins = [number for number, line in enumerate(lines) if line.startswith(BEGIN)]
    newest = lines[begins[-1] + 1 :] if begins else lines
    return [line.rstrip() for line in newest if line.strip()][-count:]


def said_last(log: Path) -> str:
    """The last sentence of a log, without the program's name."""
    lines = last_lines(log, 1)
    return lines[0].removeprefix("tvlars: ") if lines else "it does not say why"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free(folder: Path, halt: Halt) -> bool:
    """Wait until nobody works in a run folder; False where somebody still does, or the sweep stops before."""
    end = time.monotonic() + LOCK_PATIENCE
    while (folder / LOCK).exists():
        try:
            with locked(folder):
                return True
        except LockedError:
            if time.monotonic() > end or halt.asked.wait(TICK):
                return False
    return True


def _wait(child: subprocess.Popen[bytes], halt: Halt) -> int:
    while True:
        try:
            return child.wait(TICK)
        except subprocess.TimeoutExpired:
            if halt.asked.is_set():
                return _end(child, halt)


def _end(child: subprocess.Popen[bytes], halt: Halt | None = None) -> int:
    """Stop a run: it saves what it has; after long it is killed."""
    child.terminate()
    end = time.monotonic() + STOP_PATIENCE
    while time.monotonic() < end and not (halt is not None and halt.now.is_set()):
        try:
            return child.wait(TICK)
        except subprocess.TimeoutExpired:
            continue
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # the run, and what stands between
    return child.wait()
