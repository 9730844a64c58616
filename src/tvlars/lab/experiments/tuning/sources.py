"""Jobs of a tuning: the remaining trials of the budget, and reruns of the best trials with other tuning seeds."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from tvlars._reading import is_inside
from tvlars.lab.console import duration
from tvlars.lab.errors import FailedRunError, Interrupted, PreemptedError, UsageError
from tvlars.lab.experiments.board import Board, Teller
from tvlars.lab.experiments.job import OVER, Job, Outcome, Workers, going_on
from tvlars.lab.experiments.queue import Source, work
from tvlars.lab.experiments.run_name import at_home
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.experiments.tuning.trial import Trial, Tuned, in_order, without_reruns
from tvlars.lab.imported import said_path
from tvlars.lab.processes.signals import StopSignals
from tvlars.lab.run_folder.status import Status

if TYPE_CHECKING:
    from tvlars.lab.experiments.tuning.search import Search


@dataclass
class Means:
    """Objects that both sources of jobs share.

    Args:
        config: options of the tuning.
        images: samples of all epochs of a run, which measure its work.
        announce: called with each line about the progress.
        save: writes the tables.
        apart: True if other processes, perhaps on other machines, do the runs.
    """

    config: TuneConfig
    images: int
    announce: Callable[[str], None]
    save: Callable[[], None]
    apart: bool = False
    warned: set[str] = field(default_factory=set, init=False)
    """Warnings printed so far; trials, rounds and reruns mostly have the same warnings."""

    def board(self) -> Board:
        """Return the board of a queue, which prints each warning only once in the whole tuning."""
        return Teller(self._say)

    def _say(self, text: str) -> None:
        if text.startswith("warning"):
            if text in self.warned:
                return
            self.warned.add(text)
        self.announce(text)

    def job(self, search: Search, params: dict[str, Any], folder: Path, seed: int | None = None) -> Job:
        """Return the job of a trial, or of one of its reruns."""
        config = self.config.trial(search.arm, params, seed)
        if self.apart:
            config, folder = at_home(config), folder.resolve()
        return Job(folder.name, folder, going_on(config, folder), self.images)

    @contextlib.contextmanager
    def stopping(self, far: Callable[[], str]) -> Iterator[None]:
        """Add the progress so far to the messages of signals, and write the tables in any case."""
        try:
            yield
        except (KeyboardInterrupt, PreemptedError) as error:
            if isinstance(error, PreemptedError):
                said = f"stopped by {Signals(error.signal).name} after {far()}; the same command continues"
                raise PreemptedError(said, error.signal) from error
            raise Interrupted(self.config.folder(), f"{far()} are done; ") from error
        finally:
            self.save()

    def failed(self, outcome: Outcome, kind: type[Exception]) -> Exception:
        """Return the error that ends the command because of a run."""
        return kind(f"{outcome.job.name}: {outcome.note}" if self.apart else outcome.note)


class Trials(Source):
    """Remaining trials of the budget; arms take turns, so that an interrupted tuning is still fair."""

    def __init__(self, means: Means, searches: Sequence[Search]) -> None:
        super().__init__()
        self.means, self.searches = means, searches
        self.of: dict[str, Search] = {}
        """Search of each running trial, by the name of its job."""
        self.before, self.started = self.done, time.monotonic()

    @property
    def done(self) -> int:
        """Number of trials of all arms that count for the budget."""
        return sum(search.counted for search in self.searches)

    @property
    def total(self) -> int:
        """Number of trials of all arms."""
        return sum(search.budget for search in self.searches)

    def work(self, workers: Workers, retries: int, signals: StopSignals) -> None:
        """Do all trials."""
        trials = self.searches[0].folder
        if not is_inside(trials, trials.parent):
            raise UsageError(f"{trials} must be a folder of the tuning, but is a link that leaves it")
        trials.mkdir(exist_ok=True)
        with self.means.stopping(lambda: f"{self.done} of {self.total} trials"):
            try:
                work(self, workers, retries, self.means.board(), signals)
            except UsageError as error:
                for search in self.searches:
                    if search.current is not None and not self.means.apart:  # the trial trained in this process
                        search.end(Status.REFUSED, str(error))
                raise

    def next(self) -> Job | None:
        while open_ := [one for one in self.searches if one.current is None and one.counted < one.budget]:
            search = min(open_, key=lambda one: one.counted)
            params, folder = search.begin()
            job = self.means.job(search, params, folder)
            self.of[job.name] = search
            if not search.is_hopeless():
                return job
            self.ended(Outcome(job, Status.PRUNED))  # it was pruned, or was about to be, when it was interrupted
        return None

    def is_hopeless(self, job: Job) -> bool:
        return job.name in self.of and self.of[job.name].is_hopeless()

    def ended(self, outcome: Outcome) -> None:
        search = self.of[outcome.job.name]
        trial = search.end(outcome.status, outcome.note)
        if trial is None or not trial.counts:
            raise self.means.failed(outcome, FailedRunError if trial is None else UsageError)
        del self.of[outcome.job.name]
        self.means.save()
        done, best = self.done, Tuned.of(search.arm, without_reruns(search.trials)).best
        left = (time.monotonic() - self.started) / max(done - self.before, 1) * (self.total - done)
        self.means.announce(
            f"{said_path(search.arm)} trial {search.counted} of {search.budget}: {trial}"
            + (f"  (best {best.objective.text(best.value)}" if best else "  (best -")
            + (f"; {duration(left)} left)" if done < self.total else ")")
        )


class Reruns(Source):
    """Reruns of the best trials of each arm with the other tuning seeds, equally many if enough trials finished."""

    def __init__(self, means: Means, searches: Sequence[Search]) -> None:
        super().__init__()
        self.means = means
        best = chosen_again([search.trials for search in searches], means.config.rerun)
        found: list[list[tuple[Job, Trial, int]]] = []
        for search, trials in zip(searches, best, strict=True):
            found.append([])
            for trial, seed in itertools.product(trials, search.again):
                if not trial.has_seeds([seed]):
                    job = means.job(search, trial.params, search.folder / f"{trial.folder}-s{seed}", seed)
                    found[-1].append((job, trial, seed))
        turns = [one for turn in itertools.zip_longest(*found) for one in turn if one is not None]
        self.of = {job.name: (trial, seed) for job, trial, seed in turns}
        self.total, self.done = len(turns), 0
        self.put(job for job, _, _ in turns)

    def work(self, workers: Workers, retries: int, signals: StopSignals) -> None:
        """Do all reruns."""
        if not self.total:
            return
        seeds = ", ".join(map(str, self.means.config.tune_seeds[1:]))
        self.means.announce(f"rerunning the best trials of each arm with the other tuning seeds {seeds}:")
        with self.means.stopping(lambda: f"{self.done} of {self.total} reruns"):
            work(self, workers, retries, self.means.board(), signals)

    def ended(self, outcome: Outcome) -> None:
        if outcome.status not in OVER:
            raise self.means.failed(outcome, UsageError if outcome.status == Status.REFUSED else FailedRunError)
        self.done += 1
        self.means.save()
        trial, seed = self.of[outcome.job.name]
        value = "diverged"
        if outcome.status == Status.FINISHED:
            value = trial.objective.text(trial.objective.final(outcome.job.folder))
        self.means.announce(f"{trial.folder} with seed {seed}: {value}  ({self.done} of {self.total})")


def chosen_again(trials: Sequence[Sequence[Trial]], count: int) -> list[list[Trial]]:
    """Return the trials of each arm to rerun: the ``count`` best of its search, those with earlier reruns, and more
    until all arms have equally many."""
    orders = [in_order(without_reruns(some)) for some in trials]
    chosen = []
    for some, order in zip(trials, orders, strict=True):
        before = {trial.number for trial in some if trial.reruns}
        chosen.append({trial.number for trial in order[:count]} | before)
    most = max(map(len, chosen), default=0)
    found = []
    for some, order, numbers in zip(trials, orders, chosen, strict=True):
        more = [trial.number for trial in order if trial.number not in numbers]
        numbers |= set(more[: most - len(numbers)])
        by_number = {trial.number: trial for trial in some}
        found.append([by_number[trial.number] for trial in order if trial.number in numbers])
    return found
