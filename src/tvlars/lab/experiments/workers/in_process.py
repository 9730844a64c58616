"""Runs in this process, one after the other: nothing has to be imported again, and each shows its own progress."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tvlars.lab.data import ImageData
from tvlars.lab.errors import DivergedError, LostProcessError, MovedFolderError, PreemptedError, UsageError
from tvlars.lab.experiments.job import Job, Outcome, Workers
from tvlars.lab.run_folder.rows import EpochRow
from tvlars.lab.training.progress import Reporter
from tvlars.lab.training.train import train

SAID = (UsageError, OSError, PreemptedError, LostProcessError, MovedFolderError)
"""Errors with a sentence of their own, which end the command: the next run would meet with them too."""


class GivenUpError(Exception):
    """Ends a run that is hopeless."""


class InProcess(Workers):
    """Trains jobs as they are submitted.

    Args:
        data: the data set of all of them.
        begin: is told which job begins, and makes its reporter.
        is_hopeless: looks after each epoch at what a job has measured; True: it is given up.
        alone: False where this is one of several processes of each run, which cannot try it again by itself.
    """

    count = 1

    def __init__(
        self,
        data: ImageData,
        begin: Callable[[Job], Reporter],
        is_hopeless: Callable[[Job], bool] = lambda job: False,
        alone: bool = True,
    ) -> None:
        self.data, self.begin, self.is_hopeless, self.alone = data, begin, is_hopeless, alone

    def submit(self, job: Job) -> Future[Outcome]:
        done: Future[Outcome] = Future()
        done.set_result(self._train(job))
        return done

    def _train(self, job: Job) -> Outcome:
        reporter: Any = _Watching(self.begin(job), lambda: self.is_hopeless(job))
        try:
            train(job.config, data=self.data, reporter=reporter)
        except GivenUpError:
            return Outcome(job, "given up")
        except DivergedError:
            return Outcome(job, "diverged", "its loss was not finite")
        except SAID:
            raise
        except Exception as error:
            if not self.alone:
                raise
            traceback.print_exc()
            return Outcome(job, "failed", f"{type(error).__name__}: {error}")
        return Outcome(job, "finished")


class _Watching:
    """A reporter that ends the run where it is hopeless; everything else is left to ``inner``."""

    def __init__(self, inner: Reporter, is_hopeless: Callable[[], bool]) -> None:
        self.inner, self.is_hopeless, self.hopeless = inner, is_hopeless, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def epoch(self, row: EpochRow) -> None:
        self.inner.epoch(row)
        if self.is_hopeless():
            self.hopeless = True
            raise GivenUpError

    def end(self, status: str) -> None:
        self.inner.end("finished" if self.hopeless else status)
