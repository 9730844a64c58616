"""Jobs: runs that are to be done once, the workers that do them, and the check of whether a run is over.

A run is over if its folder says so, and nothing else is kept: whatever is killed, the same call finds what is left.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.run_name import at_home, run_name
from tvlars.lab.run_folder.loaded_run import load_run
from tvlars.lab.run_folder.record import CONFIG, read_object
from tvlars.lab.run_folder.status import Status

OVER = (Status.FINISHED, Status.DIVERGED)
"""Statuses of runs that are not done again: divergence is a result."""
CHECKPOINT_EVERY = "5m"
"""Interval between checkpoints if the options of a run give none; a run that is told to stop saves one anyway."""


@dataclass(frozen=True)
class Job:
    """A run to begin or to resume. ``images`` measures its work, the samples of all its steps; ``epochs`` has a last
    epoch that is not whole."""

    name: str
    folder: Path
    config: TrainConfig
    images: int
    epochs: int = 0
    """0 (default): those of the config, which is not given in steps then."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", self.epochs or self.config.epochs or 1)

    @property
    def log(self) -> Path:
        """File beside the run folder for the output of a run in a process of its own."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True)
class Outcome:
    """End of a job. ``status`` is finished, diverged, pruned, refused, failed, lost, or preempted if it was stopped."""

    job: Job
    status: Status
    note: str = ""
    attempts: int = 1


@dataclass
class Halt:
    """Tells a worker that waits for a run to stop it: ``asked`` lets the run save its state, ``now`` kills it."""

    asked: threading.Event = field(default_factory=threading.Event)
    now: threading.Event = field(default_factory=threading.Event)


class Workers(ABC):
    """Workers, each of which does one job at a time."""

    count: int | None
    """Number of jobs at a time; None: any number."""
    apart = True
    """True if runs are other processes, which are told to stop when a signal comes here."""
    begun: Callable[[Job], None] = staticmethod(lambda job: None)
    """Called by workers in this process with a job whose folder has been written, before its first step."""

    @abstractmethod
    def describe(self) -> str:
        """Return number and place of the workers, in words."""

    @abstractmethod
    def submit(self, job: Job) -> Future[Outcome]:
        """Begin a job."""

    def has_begun(self, job: Job) -> bool:
        """Return False if a submitted job is known to wait for room."""
        return True

    def outcome(self, job: Job, future: Future[Outcome]) -> Outcome:
        """Return how a job ended; an error of its worker is a failure of the job."""
        error = future.exception()  # the run could not be started: others can
        return future.result() if error is None else Outcome(job, Status.FAILED, f"{type(error).__name__}: {error}")

    def give_up(self, future: Future[Outcome]) -> None:
        """Stop one job, which saves its state."""

    def stop(self, now: threading.Event) -> None:
        """Stop all runs, which save their state, and wait for them; they are killed once ``now`` is set."""

    def close(self) -> None:
        """Release processes and connections when all jobs are done."""


def going_on(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return the config of the same run that begins or resumes in ``folder``."""
    return replace(config, out=folder, resume=True, checkpoint_every=config.checkpoint_every or CHECKPOINT_EVERY)


def status_of(folder: Path, config: TrainConfig) -> Status:
    """Return FINISHED or DIVERGED if ``folder`` shows that this very run is over, else NOT_DONE.

    A finished run that has lost rows is not over, since its checkpoint may restore them.
    """
    status = read_status(folder)
    if status not in OVER or (status == Status.FINISHED and not is_whole(folder, config)):
        return Status.NOT_DONE
    if stored := read_object(folder / CONFIG):
        try:
            found = at_home(TrainConfig.from_mapping({**stored, "out": None, "resume": False}))
        except (UsageError, TypeError):  # of another version: its name has the digest of its options
            return status
        if run_name(found) != run_name(at_home(config)):
            return Status.NOT_DONE
    return status


def read_status(folder: Path) -> Status:
    """Return the status in summary.json: UNFINISHED if the folder has none, NOT_DONE if there is no folder."""
    try:
        return Status(read_object(folder / "summary.json").get("status"))
    except ValueError:
        return Status.UNFINISHED if folder.is_dir() else Status.NOT_DONE


def is_whole(folder: Path, config: TrainConfig) -> bool:
    """Return whether a run folder has a readable row for every epoch."""
    try:
        rows = load_run(folder).epochs
    except UsageError:
        return False
    if config.steps is None:
        return len(rows) >= (config.epochs or 0)
    last = rows.iloc[-1] if len(rows) else {"epoch": math.inf, "step": 0}
    return len(rows) >= last["epoch"] and last["step"] >= config.steps
