"""Runs in this process, one after the other, without new imports; each run shows its own progress."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tvlars.lab.errors import DivergedError, LostProcessError, MovedFolderError, PreemptedError, UsageError
from tvlars.lab.experiments.job import Job, Outcome, Workers
from tvlars.lab.given import Given
from tvlars.lab.imported import is_theirs, their_traceback
from tvlars.lab.run_folder.rows import EpochRow
from tvlars.lab.run_folder.status import Status
from tvlars.lab.training.progress import Reporter
from tvlars.lab.training.train import train

SAID = (UsageError, OSError, PreemptedError, LostProcessError, MovedFolderError)
"""Errors with a complete message, which end the command, since the next run would raise them too."""


class GivenUpError(Exception):
    """Ends a hopeless run."""


class InProcess(Workers):
    """Trains jobs as they are submitted.

    Args:
        given: data set of all jobs, and other objects of the user.
        begin: called with each job before it starts; returns its reporter.
        is_hopeless: called with the job after each epoch; True stops the job.
        alone: False if this is one of several processes of each run; one process alone cannot retry a run.
    """

    count = 1
    apart = False

    def __init__(
        self,
        given: Given,
        begin: Callable[[Job], Reporter],
        is_hopeless: Callable[[Job], bool] = lambda job: False,
        alone: bool = True,
    ) -> None:
        self.given, self.begin, self.is_hopeless, self.alone = given, begin, is_hopeless, alone

    def describe(self) -> str:
        return "this process"

    def submit(self, job: Job) -> Future[Outcome]:
        done: Future[Outcome] = Future()
        done.set_result(self._train(job))
        return done

    def _train(self, job: Job) -> Outcome:
        reporter: Any = _Watching(self.begin(job), lambda: self.begun(job), lambda: self.is_hopeless(job))
        try:
            train(job.config, **self.given.objects(), reporter=reporter)
        except GivenUpError:
            return Outcome(job, Status.PRUNED)
        except DivergedError:
            return Outcome(job, Status.DIVERGED, "its loss was not finite")
        except SAID:
            raise
        except Exception as error:
            if not self.alone:
                raise
            sys.stderr.write(their_traceback(error) if is_theirs(error) else traceback.format_exc())
            return Outcome(job, Status.FAILED, f"{type(error).__name__}: {error}")
        return Outcome(job, Status.FINISHED)


class _Watching:
    """Reporter that reports the start of a run, and ends a hopeless run; ``inner`` does everything else."""

    def __init__(self, inner: Reporter, begun: Callable[[], None], is_hopeless: Callable[[], bool]) -> None:
        self.inner, self.begun, self.is_hopeless, self.hopeless = inner, begun, is_hopeless, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def start(self, *arguments: Any) -> None:
        self.begun()
        self.inner.start(*arguments)

    def epoch(self, row: EpochRow) -> None:
        self.inner.epoch(row)
        if self.is_hopeless():
            self.hopeless = True
            raise GivenUpError

    def end(self, status: str) -> None:
        self.inner.end(Status.FINISHED if self.hopeless else status)
