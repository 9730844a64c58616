"""Queue of ``compare``, ``sweep`` and ``tune``: gives jobs to workers, retries failed jobs, stops on signals."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from tvlars.lab.errors import LockedError, UsageError, check_page_packages
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.job import OVER, Job, Outcome, Workers
from tvlars.lab.files.lock import locked
from tvlars.lab.processes.signals import StopSignals, stop
from tvlars.lab.run_folder.record import ENVIRONMENT, read_object, warnings_in
from tvlars.lab.run_folder.status import Status

LOST_WORKERS = 5
"""Number of times a run is given to another Ray worker because its worker died, which is not the run's fault."""
SHARED_PATIENCE = 60.0
"""Seconds to wait until a shared file system shows files of another machine."""
TICK = 0.2


class Source:
    """Source of jobs; this base class keeps them in a list."""

    def __init__(self) -> None:
        self._left: deque[Job] = deque()

    def put(self, jobs: Iterable[Job]) -> None:
        """Add jobs to the list."""
        self._left.extend(jobs)

    def next(self) -> Job | None:
        """Return the next job to start; None if there is none until a running job ends."""
        return self._left.popleft() if self._left else None

    def is_hopeless(self, job: Job) -> bool:
        """Return True to give up a running job, judging by its measurements so far."""
        return False

    def ended(self, outcome: Outcome) -> None:
        """Record the end of a job, which will not be tried again."""


def work(source: Source, workers: Workers, retries: int, board: Board, signals: StopSignals) -> None:
    """Do all jobs of ``source``.

    Args:
        source: provides the jobs, and is told how they ended.
        workers: do the jobs.
        retries: number of further attempts for a job that failed. Neither a diverged job, which is a result, nor a job
            with bad input, which would fail again, is retried.
        board: shows progress.
        signals: signals noted by :func:`taking_signals`; any of them stops the jobs.

    Raises:
        KeyboardInterrupt, PreemptedError: a signal was received; runs have saved their state.
    """
    _Queue(source, workers, retries, board, signals).work()


def taking_signals(workers: Workers | None) -> contextlib.AbstractContextManager[StopSignals]:
    """Return the context that notes signals until results are written; enter it once ``workers`` are hired.

    It notes nothing for runs in this process, which handle signals themselves.
    """
    signals = StopSignals(patient=True, replace=True)
    return signals if workers is not None and workers.apart else contextlib.nullcontext(signals)


class _Queue:
    """Running jobs, and how often each was tried."""

    def __init__(self, source: Source, workers: Workers, retries: int, board: Board, signals: StopSignals) -> None:
        self.source, self.workers, self.retries, self.board, self.signals = source, workers, retries, board, signals
        self.going: dict[Future[Outcome], Job] = {}
        self.again: deque[Job] = deque()
        self.attempts: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.hopeless: set[str] = set()
        self.said: set[str] = set()
        workers.begun = self.warn

    def work(self) -> None:
        """Do all jobs, or stop the running ones when a signal is received."""
        try:
            self.begin()
            while self.going and not self.signals.received:
                ended, _ = wait(self.going, TICK, FIRST_COMPLETED)
                for future in ended:
                    self.take(self.going.pop(future), future)
                self.give_up()
                self.begin()
                self.board.update([job for job in self.going.values() if self.workers.has_begun(job)])
            if number := self.signals.received:
                self.stop()
        except BaseException:
            self.workers.stop(self.signals.again)
            raise
        finally:
            self.board.end()
        if number:
            stop(number)

    def begin(self) -> None:
        """Give jobs to all idle workers; failed jobs come first."""
        most = self.workers.count
        while (most is None or len(self.going) < most) and not self.signals.received:
            job = self.again.popleft() if self.again else self.source.next()
            if job is None:
                return
            self.going[self.workers.submit(job)] = job

    def take(self, job: Job, future: Future[Outcome]) -> None:
        """Record the end of a job, or queue it for another attempt."""
        outcome = self.workers.outcome(job, future)
        status, note = outcome.status, outcome.note
        self.warn(job)
        if status == Status.LOST:
            self.lost[job.name] += 1
            if self.lost[job.name] <= LOST_WORKERS:
                self.board.say(f"{job.name}: {note}, another worker continues the run")
                self.again.append(job)
                return
        self.attempts[job.name] += 1
        attempts = self.attempts[job.name]
        if job.name in self.hopeless:
            status = Status.PRUNED
        elif status in (Status.LOST, Status.PREEMPTED):  # stopped by somebody else than this queue
            status = Status.FAILED
        if status == Status.FAILED and attempts <= self.retries:
            self.board.say(f"{job.name}: {note}, tried again ({attempts} of {self.retries})")
            self.again.append(job)
            return
        if status in OVER and not _appears(job.folder):
            status = Status.FAILED
            note = "its folder does not exist on this machine: out must be on a file system that all machines share"
        self.source.ended(Outcome(job, status, note, attempts))

    def warn(self, job: Job) -> None:
        """Print new warnings of a run; the warnings of all seeds are mostly the same."""
        for text in warnings_in(read_object(job.folder / ENVIRONMENT), newest=True):
            if text not in self.said:
                self.said.add(text)
                self.board.say(f"warning  {text}")

    def give_up(self) -> None:
        """Stop hopeless jobs."""
        for future, job in self.going.items():
            if job.name not in self.hopeless and self.source.is_hopeless(job):
                self.hopeless.add(job.name)
                self.workers.give_up(future)

    def stop(self) -> None:
        """Stop all jobs, and record those that ended by themselves in the meantime."""
        count = sum(map(self.workers.has_begun, self.going.values()))
        saving = f": {count} run{'s save their' if count != 1 else ' saves its'} state (Ctrl-C again kills)"
        self.board.say(f"stopping{saving if count else ''}")
        self.workers.stop(self.signals.again)
        for future, job in self.going.items():
            if future.done() and not future.cancelled() and self.workers.outcome(job, future).status in OVER:
                self.take(job, future)


def _appears(folder: Path) -> bool:
    """Wait for a folder made by another machine; return whether it appears in time."""
    end = time.monotonic() + SHARED_PATIENCE
    while not folder.is_dir() and time.monotonic() < end:
        time.sleep(TICK)
    return folder.is_dir()


def hold(stack: contextlib.ExitStack, folder: Path, who: str) -> None:
    """Lock a folder until ``stack`` ends; raise ``LockedError`` if another process uses the folder."""
    try:
        stack.enter_context(locked(folder))
    except LockedError as error:
        raise LockedError(f"another {who} in {str(folder)!r}, wait for it or stop it") from error


def check_call(workers: int | None, retries: int) -> None:
    """Raise ``UsageError`` for a number out of range, ``ModuleNotFoundError`` if a package for pages is missing."""
    check_page_packages()
    for name, value, low in (("workers", workers, 1), ("retries", retries, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not low <= value <= 10_000):
            raise UsageError(f"{name} must be an integer from {low} to 10000, got {value!r}")
