"""A run that is to be done once: what it is, who does it, and whether it is over.

A run is over when its folder says so, so that nothing else has to be kept: whatever is killed, the same call finds
what is left.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tvlars._reading import read_json
from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.run_name import at_home, run_name
from tvlars.lab.run_folder.loaded_run import load_run
from tvlars.lab.run_folder.record import CONFIG, read_object
from tvlars.lab.run_folder.status import Status

OVER = (Status.FINISHED, Status.DIVERGED)
"""Statuses of runs that are not done again: divergence is a result."""
CHECKPOINT_EVERY = "5m"
"""Where runs do not say how often; a run that is told to stop saves what it has anyway."""


@dataclass(frozen=True)
class Job:
    """A run to do, or to go on with. ``images`` is the work that it is: samples of all its epochs."""

    name: str
    folder: Path
    config: TrainConfig
    images: int

    @property
    def log(self) -> Path:
        """File beside its folder that gets its output, where it is done in a process of its own."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True)
class Outcome:
    """How a job ended. ``status`` is one of

    finished, diverged, refused (bad input: again would not help), failed, lost (its worker died), stopped (by a signal)
    or given up (as the source of the jobs wanted).
    """

    job: Job
    status: str
    note: str = ""
    attempts: int = 1


@dataclass
class Halt:
    """Tells those who wait for a run to stop it: ``asked`` lets it save what it has, ``now`` kills it."""

    asked: threading.Event = field(default_factory=threading.Event)
    now: threading.Event = field(default_factory=threading.Event)


class Workers:
    """Those who do jobs, each job by one of them."""

    count: int | None
    """Jobs that are taken at a time; None: any number."""

    def describe(self) -> str:
        """Who they are, in words."""
        raise NotImplementedError

    def submit(self, job: Job) -> Future[Outcome]:
        """Begin a job."""
        raise NotImplementedError

    def has_begun(self, job: Job) -> bool:
        """Return False where a job that was submitted is known to wait for room."""
        return True

    def outcome(self, job: Job, future: Future[Outcome]) -> Outcome:
        """How a job ended, whatever its worker met with."""
        error = future.exception()  # the run could not be started: others can
        return future.result() if error is None else Outcome(job, "failed", f"{type(error).__name__}: {error}")

    def give_up(self, future: Future[Outcome]) -> None:
        """Stop one job, which saves what it has."""

    def stop(self, now: threading.Event) -> None:
        """Let all runs save what they have; returns when none is going on, which are killed once ``now`` is set."""

    def close(self) -> None:
        """End, when all is done."""


def going_on(config: TrainConfig, folder: Path) -> TrainConfig:
    """The same run, done in ``folder`` or gone on with there."""
    return replace(config, out=folder, resume=True, checkpoint_every=config.checkpoint_every or CHECKPOINT_EVERY)


def status_of(folder: Path, config: TrainConfig) -> str:
    """The status of a run, of which nothing is believed that its folder does not bear out: one that has lost rows may
    have them again from its checkpoint, and one that is of other options says so itself when it is to go on."""
    status = read_status(folder)
    if status == "finished" and not is_whole(folder, config.epochs):
        return "unfinished"
    if status in OVER and (stored := read_object(folder / CONFIG)):
        try:
            found = at_home(TrainConfig.from_mapping({**stored, "out": None, "resume": False}))
        except (UsageError, TypeError):  # of another version: its name has the digest of its options
            return status
        if run_name(found) != run_name(at_home(config)):
            return "another run"
    return status


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
