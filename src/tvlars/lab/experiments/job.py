"""Jobs: runs that are done once, the workers that do them, and the check whether a run is done.

Only its folder says whether a run is done. So whatever process is killed, the same call finds the remaining runs.
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
"""Interval between checkpoints if the options give none; a run also saves a checkpoint when it is told to stop."""


@dataclass(frozen=True)
class Job:
    """A run to start or resume. ``images`` counts the samples of all steps; ``epochs`` includes an incomplete one."""

    name: str
    folder: Path
    config: TrainConfig
    images: int
    epochs: int = 0
    """0 (default): epochs of the config, whose length is then not given in steps."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", self.epochs or self.config.epochs or 1)

    @property
    def log(self) -> Path:
        """File beside the run folder for the output of a run in a separate process."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True)
class Outcome:
    """End of a job. ``status`` is finished, diverged, pruned, refused, failed, lost, or preempted (stopped)."""

    job: Job
    status: Status
    note: str = ""
    attempts: int = 1


@dataclass
class Halt:
    """Request to a worker to stop its run: ``asked`` lets the run save its state, ``now`` kills it."""

    asked: threading.Event = field(default_factory=threading.Event)
    now: threading.Event = field(default_factory=threading.Event)


class Workers(ABC):
    """Workers, each of which does one job at a time."""

    count: int | None
    """Number of jobs at a time; None: any number."""
    apart = True
    """True if runs are other processes, which must be told to stop when this process receives a signal."""
    begun: Callable[[Job], None] = staticmethod(lambda job: None)
    """Called by workers in this process with a job whose folder has been written, before its first step."""

    @abstractmethod
    def describe(self) -> str:
        """Return the number and place of the workers in words."""

    @abstractmethod
    def submit(self, job: Job) -> Future[Outcome]:
        """Start a job."""

    def has_begun(self, job: Job) -> bool:
        """Return False if a submitted job is known to wait for resources."""
        return True

    def outcome(self, job: Job, future: Future[Outcome]) -> Outcome:
        """Return how a job ended; an error of the worker counts as a failure of the job."""
        error = future.exception()  # the run could not be started, but others may be
        return future.result() if error is None else Outcome(job, Status.FAILED, f"{type(error).__name__}: {error}")

    def give_up(self, future: Future[Outcome]) -> None:
        """Stop one job, which saves its state."""

    def stop(self, now: threading.Event) -> None:
        """Stop all runs, which save their state, and wait for them; kill them once ``now`` is set."""

    def close(self) -> None:
        """Release processes and connections when all jobs are done."""


def going_on(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return the config of the same run that starts or resumes in ``folder``."""
    return replace(config, out=folder, resume=True, checkpoint_every=config.checkpoint_every or CHECKPOINT_EVERY)


def status_of(folder: Path, config: TrainConfig) -> Status:
    """Return FINISHED or DIVERGED if ``folder`` shows that exactly this run is done, else NOT_DONE.

    A finished run that has lost rows is not done, since its checkpoint may restore them.
    """
    status = read_status(folder)
    if status not in OVER or (status == Status.FINISHED and not is_whole(folder, config)):
        return Status.NOT_DONE
    if stored := read_object(folder / CONFIG):
        try:
            found = at_home(TrainConfig.from_mapping({**stored, "out": None, "resume": False}))
        except (UsageError, TypeError):  # options of another version; the folder's name contains their digest
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
