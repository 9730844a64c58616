"""The queue of ``compare``, ``sweep`` and ``tune``: gives jobs to workers, tries failed ones again, and stops where the
user asks for it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from tvlars.lab.errors import LockedError, PreemptedError, UsageError
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.job import OVER, Job, Outcome, Workers
from tvlars.lab.files.lock import locked
from tvlars.lab.processes.signals import not_ignored

LOST_WORKERS = 5
"""So many times a run is given to another Ray worker when its own has died, which is not its fault."""
SHARED_PATIENCE = 60.0
"""Seconds in which a shared file system shows what another machine has written."""
TICK = 0.2


class Source:
    """Where jobs come from, here from a list."""

    def __init__(self) -> None:
        self._left: deque[Job] = deque()

    def put(self, jobs: Iterable[Job]) -> None:
        """Add jobs to the list."""
        self._left.extend(jobs)

    def next(self) -> Job | None:
        """The next job to begin; None where there is none before another has ended."""
        return self._left.popleft() if self._left else None

    def is_hopeless(self, job: Job) -> bool:
        """Look at what a running job has measured; True: it is to be given up."""
        return False

    def ended(self, outcome: Outcome) -> None:
        """Take note of the end of a job, which will not be tried again."""


def work(source: Source, workers: Workers, retries: int, board: Board, signals: Received) -> None:
    """Have all jobs of ``source`` done.

    Args:
        source: gives the jobs, and hears how they ended.
        workers: do them.
        retries: how many times a job that failed is tried again. Those that diverge are results, and those with bad
            input would fail again: neither is.
        board: shows progress.
        signals: those that were received.

    Raises:
        KeyboardInterrupt, PreemptedError: a signal came; runs have saved what they have.
    """
    going: dict[Future[Outcome], Job] = {}
    again: deque[Job] = deque()
    attempts: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    hopeless: set[str] = set()

    def begin() -> None:
        while (workers.count is None or len(going) < workers.count) and not signals.number:
            job = again.popleft() if again else source.next()
            if job is None:
                return
            going[workers.submit(job)] = job

    def take(job: Job, future: Future[Outcome]) -> None:
        outcome = workers.outcome(job, future)
        status, note = outcome.status, outcome.note
        if status == "lost":
            lost[job.name] += 1
            if lost[job.name] <= LOST_WORKERS:
                board.say(f"{job.name}: {note}, another goes on with it")
                again.append(job)
                return
        attempts[job.name] += 1
        if job.name in hopeless:
            status = "given up"
        elif status in ("lost", "stopped"):  # by somebody else than this queue
            status = "failed"
        if status == "failed" and attempts[job.name] <= retries:
            board.say(f"{job.name}: {note}, tried again ({attempts[job.name]} of {retries})")
            again.append(job)
            return
        if status in OVER and not _appears(job.folder):
            status = "failed"
            note = "its folder is not to be seen here: out must lie on a file system that all machines share"
        source.ended(Outcome(job, status, note, attempts[job.name]))

    try:
        begin()
        while going and not signals.number:
            ended, _ = wait(going, TICK, FIRST_COMPLETED)
            for future in ended:
                take(going.pop(future), future)
            for future, job in going.items():
                if job.name not in hopeless and source.is_hopeless(job):
                    hopeless.add(job.name)
                    workers.give_up(future)
            begin()
            board.update([job for job in going.values() if workers.has_begun(job)])
        if not signals.number:
            return
        count = sum(map(workers.has_begun, going.values()))
        saving = f": {count} run{'s save what they have' if count != 1 else ' saves what it has'} (Ctrl-C again kills)"
        board.say(f"stopping{saving if count else ''}")
        workers.stop(signals.again)
        for future, job in going.items():
            if future.done() and not future.cancelled() and workers.outcome(job, future).status in OVER:
                take(job, future)
    except BaseException:
        workers.stop(signals.again)
        raise
    finally:
        board.end()
    if signals.number == signal.SIGINT:
        raise KeyboardInterrupt
    raise PreemptedError(f"stopped by {signal.Signals(signals.number).name}", signals.number)


def _appears(folder: Path) -> bool:
    """Whether a folder that another machine has made is there, or comes soon."""
    end = time.monotonic() + SHARED_PATIENCE
    while not folder.is_dir() and time.monotonic() < end:
        time.sleep(TICK)
    return folder.is_dir()


class Received:
    """Ctrl-C, SIGTERM and SIGHUP: the first is kept as ``number``, a second one sets ``again``: it is not patient."""

    def __init__(self) -> None:
        self.number = 0
        self.again = threading.Event()

    def take(self, number: int, frame: Any) -> None:
        """Note a signal."""
        if self.number:
            self.again.set()
        self.number = self.number or number


@contextlib.contextmanager
def receiving() -> Iterator[Received]:
    """Take signals where they are not ignored and this is the main thread, which alone may."""
    taken = Received()
    outer = {}
    if threading.current_thread() is threading.main_thread():
        for number in not_ignored():
            outer[number] = signal.signal(number, taken.take)
    try:
        yield taken
    finally:
        for number, handler in outer.items():
            signal.signal(number, handler)


def hold(stack: contextlib.ExitStack, folder: Path, who: str) -> None:
    """Hold the lock of a folder until ``stack`` ends; raise ``LockedError`` where ``who`` else works in it."""
    try:
        stack.enter_context(locked(folder))
    except LockedError as error:
        raise LockedError(f"another {who} in {str(folder)!r}, wait for it or stop it") from error


def check_workers(workers: int | None, retries: int) -> None:
    """Raise ``UsageError`` where either is no number that makes sense."""
    for name, value, low in (("workers", workers, 1), ("retries", retries, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not low <= value <= 10_000):
            raise UsageError(f"{name} must be an integer from {low} to 10000, got {value!r}")
