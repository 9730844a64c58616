"""One run in a separate process, so that a crash, a killed process or a full memory affects only this run.

Workers on this machine and of a Ray cluster call ``run_one``.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

from tvlars._reading import open_regular
from tvlars.lab.errors import LockedError
from tvlars.lab.experiments.job import Halt, Job, Outcome, is_whole, read_status
from tvlars.lab.experiments.run_name import arguments
from tvlars.lab.files.disk import open_to_append
from tvlars.lab.files.lock import LOCK, locked
from tvlars.lab.run_folder.status import Status

GUARDIAN = Path(__file__).with_name("guardian.py")
LOCK_PATIENCE = 600.0
"""Seconds to wait for a process that a dead worker left behind, and that may be saving its state."""
STOP_PATIENCE = 300.0
"""Seconds in which a stopped run may save its state."""
TICK = 0.1
BEGIN = "---"
"""Start of the first line that each attempt writes to the log."""


def run_one(job: Job, threads: int, environment: dict[str, str], halt: Halt) -> Outcome:
    """Start or resume one job in a process, and return how it ended.

    An exception during the wait, for example because Ray cancels the task, stops the run too.

    Args:
        job: the run.
        threads: number of CPU threads of the process.
        environment: further environment variables of the process.
        halt: request to stop the run.
    """
    if not _free(job.folder, halt):
        if halt.asked.is_set():
            return Outcome(job, Status.PREEMPTED)
        return Outcome(job, Status.FAILED, f"another process uses {job.folder}")
    if job.log.exists() and not job.log.is_file():  # opening a named pipe would block
        return Outcome(job, Status.FAILED, f"{job.log} must be a writable file, but is not a file")
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads), **environment}
    variables.pop("SLURM_NTASKS", None)  # srun started this command, but each run is a single process
    with os.fdopen(open_to_append(job.log), "a", encoding="utf-8") as log:
        stamp = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        print(f"{BEGIN} {stamp} on {platform.node()}", file=log, flush=True)
        child = subprocess.Popen(
            [sys.executable, str(GUARDIAN), str(os.getpid()), *arguments(job.config, job.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,  # Ctrl-C goes only to this command, which stops its runs itself
        )
        try:
            code = _wait(child, halt)
        except BaseException:
            _end(child, Halt())
            raise
    return _judge(job, code, halt.asked.is_set())


def threads_for(cores: int) -> int:
    """Return the number of CPU threads of a run: ``OMP_NUM_THREADS`` if it is set, else ``cores``."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else max(1, cores)


def last_lines(log: Path, count: int = 5) -> list[str]:
    """Return the last lines that the newest attempt wrote to a log."""
    try:
        with open_regular(log, log.parent) as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 20_000, 0))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    begins = [number for number, line in enumerate(lines) if line.startswith(BEGIN)]
    newest = lines[begins[-1] + 1 :] if begins else lines
    return [line.rstrip() for line in newest if line.strip()][-count:]


def _judge(job: Job, code: int, stopped: bool) -> Outcome:
    """Return how a run ended, by the exit code of ``tvlars train`` and its folder."""
    if code == 0:
        status = read_status(job.folder)
        if status == Status.FINISHED:
            return Outcome(job, Status.FINISHED)
        return Outcome(job, Status.FAILED, f"it exited without an error, but its folder has the status {status}")
    if code == 3:
        return Outcome(job, Status.DIVERGED, "its loss was not finite")
    if code == 2:
        if read_status(job.folder) == Status.FINISHED and is_whole(job.folder, job.config):
            return Outcome(job, Status.FINISHED, "its output could not be written")
        said = last_lines(job.log, 1)
        return Outcome(job, Status.REFUSED, said[0].removeprefix("tvlars: ") if said else "without a reason")
    number = -code if code < 0 else code - 128 if code > 128 else None
    if number is None:
        return Outcome(job, Status.FAILED, f"exit code {code}")
    if stopped:
        return Outcome(job, Status.PREEMPTED)
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = ", as the system does when memory is full" if number == signal.SIGKILL else ""
    return Outcome(job, Status.FAILED, f"stopped by {name}{hint}")


def _free(folder: Path, halt: Halt) -> bool:
    """Wait until no process uses a run folder; return False if one still does, or the run is told to stop."""
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


def _end(child: subprocess.Popen[bytes], halt: Halt) -> int:
    """Tell a run to stop, which saves its state; kill it after ``STOP_PATIENCE`` seconds or ``halt.now``."""
    child.terminate()
    end = time.monotonic() + STOP_PATIENCE
    while time.monotonic() < end and not halt.now.is_set():
        try:
            return child.wait(TICK)
        except subprocess.TimeoutExpired:
            continue
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # the run and its guardian
    return child.wait()
