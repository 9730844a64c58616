"""Tuning with equal budgets: the same number of trials for each optimizer, then the best of each with fresh seeds.

Trials see training and validation images alone. The runs with fresh seeds read the test set once, at their end.

tune.json        options of the tuning, budget spent, best options, and results with fresh seeds
study.journal    all trials, as Optuna keeps them
trials.csv       a row per trial
trials/          a run folder for each trial
final/           sweep of the best options with fresh seeds, whose results are reported
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

from tvlars._reading import is_inside
from tvlars.lab.config import TrainConfig
from tvlars.lab.console import say, shows_bars
from tvlars.lab.data import Data, ImageData
from tvlars.lab.errors import FailedRunError, PreemptedError, UsageError, listed
from tvlars.lab.experiments.board import Board, Teller, duration
from tvlars.lab.experiments.job import OVER, Job, Outcome, Workers, going_on, read_status
from tvlars.lab.experiments.queue import Source, check_call, hold, taking_signals, work
from tvlars.lab.experiments.results import Files, SweepResult
from tvlars.lab.experiments.run_name import at_home, run_name
from tvlars.lab.experiments.sweep import hire, names_in, sweep
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.experiments.tuning.folder import (
    FILE,
    JOURNAL,
    TRIALS,
    Stored,
    identity,
    read_stored,
    results_of,
    write_trials,
)
from tvlars.lab.experiments.tuning.objective import MINIMIZE, Objective
from tvlars.lab.experiments.tuning.space import Space, corners, grid_points, parse_spaces
from tvlars.lab.experiments.tuning.trial import Trial, Tuned
from tvlars.lab.experiments.workers.in_process import InProcess
from tvlars.lab.given import Given, check_apart, take
from tvlars.lab.imported import said_path
from tvlars.lab.metrics import Metric
from tvlars.lab.models import Model
from tvlars.lab.processes.signals import StopSignals
from tvlars.lab.run_folder.status import Status
from tvlars.lab.tasks import Task
from tvlars.lab.training.prepare import data_of, prepare
from tvlars.lab.training.progress import BarReporter, Reporter, factory_of

if TYPE_CHECKING:
    from tvlars.lab.experiments.tuning.search import Search

FINAL = "final"


@dataclass
class TuneResult:
    """Results of a tuning.

    ``tuned`` has the optimizers of this call. ``final`` has the runs with fresh seeds, including those of earlier calls
    with as many trials and the same seeds; None if there was nothing to run. ``unwritten`` says why trials.csv or
    tune.json could not be written; the same call writes them later.
    """

    folder: Path
    tuned: list[Tuned]
    final: SweepResult | None
    unwritten: dict[str, str] = field(default_factory=dict, init=False)


def tune(
    config: TuneConfig,
    *,
    data: Data | None = None,
    loaders: Any = None,
    model: Model | None = None,
    task: Task | None = None,
    metrics: Mapping[str, Metric] | None = None,
    announce: Callable[[str], None] = say,
    reporter: Reporter | Callable[[], Reporter] | None = None,
    board: Board | None = None,
    workers: int | None = None,
    retries: int = 1,
    ray: str | None = None,
) -> TuneResult:
    """Tune every optimizer with the same budget, and run the best options of each with fresh seeds.

    The trials of an optimizer are done one after the other, since each is chosen by those before. Several workers do
    trials of several optimizers at a time, which gives the same trials. Another call with the same options continues;
    a call with other optimizers keeps those of earlier calls.

    Args:
        config: options of the tuning.
        data, loaders, model, task, metrics: objects for all runs, see :func:`tvlars.lab.train`; with any of them, runs
            are done in this process, one after the other. Each run copies a module with its weights, so that all
            seeds begin with the same; give a function, which is called for each run, for weights drawn by the seed.
        announce: called with each line about the progress; default: prints it.
        reporter: shows all trials in this process, or a function or class that makes the reporter of each; None
            (default): a bar on a terminal, else none.
        board: shows the runs with fresh seeds, see :func:`tvlars.lab.sweep`.
        workers: number of runs at a time; with one, trials are done in this process.
        retries: number of further attempts for a run that failed, from its newest checkpoint.
        ray: None (default): on this machine; else the address of a Ray cluster, see :func:`tvlars.lab.sweep`.

    Raises:
        UsageError: an option is bad, or ``out`` has another tuning; nothing has been written then. Or a trial was
            refused, for example because memory is too small.
        LockedError: another process tunes in ``out``. FailedRunError: a trial failed; the same call retries it.
        KeyboardInterrupt: by Ctrl-C, PreemptedError: by SIGTERM or SIGHUP; the same call continues.
    """
    check_call(workers, retries)  # now, and not when all trials are over
    begins = factory_of(reporter)
    objects: dict[str, Any] = dict(data=data, loaders=loaders, model=model, task=task, metrics=metrics)
    check_apart(ray is not None or (workers or 1) > 1, **objects)
    given = take(config.base, **objects)
    objects |= dict(data=given.data, loaders=None)
    base = given.named(config.base)
    config = replace(config, base=base)
    folder, whole = config.folder(), data_of(replace(base, validation=None, validation_seed=0), given.data)
    config = config.with_validation(whole)
    data = data_of(config.base, whole)
    given = replace(given, data=data)
    first = prepare(config.trial(config.optimizers[0], {}), given, here=ray is None)
    objective = Objective.of(first.config, first.task)
    if first.task is None and data.classes < 2:  # with evaluations none nothing else asks for labels
        raise UsageError(f"data must have labels of two classes or more to tune by, but {data.name} has {data.classes}")
    spaces, notes = _spaces(config, given)
    notes = [*config.idle(), *notes]
    said = identity(config, spaces, objective)
    read_stored(folder, said, data.fingerprint)
    with contextlib.ExitStack() as stack:
        count = min(workers or len(config.optimizers), len(config.optimizers))
        apart = ray is not None or (workers is not None and count > 1)
        crew = hire(stack, [first.config], count if workers else None, ray) if apart else None
        folder.mkdir(parents=True, exist_ok=True)
        hold(stack, folder, "process tunes")
        stored = read_stored(folder, said, data.fingerprint)  # with what another process may have done in the meantime
        searches, earlier = _open(config, spaces, objective, said, stored, folder)
        others, results, more = _others(config, earlier, folder)
        for line in (*(f"note: {note}" for note in (*notes, *more)), *data.account):
            announce(line)
        _announce_budget(config, spaces, objective, searches, announce)
        _announce_validation(config, data, objective, announce)
        files = Files(folder, announce)

        def save() -> None:
            found = {search.optimizer: search.trials for search in searches}
            files.write(TRIALS, lambda: write_trials(folder, found | earlier))

        trials = _Trials(config, searches, first.plan.total_steps * first.plan.batch_size, announce, save)
        if crew is None:
            show = begins or (lambda: BarReporter(brief=True) if shows_bars() else Reporter())
            crew = InProcess(given, lambda job: show(), trials.is_hopeless)
        else:
            trials.at_home = True
        with taking_signals(crew) as signals:
            trials.work(crew, retries, signals)
        tuned = [Tuned.of(search.optimizer, search.trials) for search in searches]
        for one in tuned:
            announce(str(one))
        runs, final = _final_runs(config, [*tuned, *results]), None
        if runs:
            announce(f"the best options of each optimizer, with fresh seeds {', '.join(map(str, config.seeds))}:")
            queue: dict[str, Any] = dict(workers=workers, retries=retries, ray=ray, board=board)
            final = sweep(runs, folder / FINAL, **objects, **queue)
        if files.unwritten:  # there may be room again
            save()
        outcome = results_of(config, [*tuned, *others], final)
        files.write(FILE, lambda: stored.write(folder, said, outcome))
    result = TuneResult(folder, tuned, final)
    result.unwritten = files.unwritten
    return result


class _Trials(Source):
    """Trials that are left of the budget; optimizers take turns, so that an interrupted tuning is a fair one."""

    at_home = False
    """True if trials are done by processes that may run elsewhere."""

    def __init__(
        self,
        config: TuneConfig,
        searches: list[Search],
        images: int,
        announce: Callable[[str], None],
        save: Callable[[], None],
    ) -> None:
        self.config, self.images, self.announce, self.save = config, images, announce, save
        self.searches = {search.optimizer: search for search in searches}
        self.total, self.before, self.started = config.trials * len(searches), self.done, time.monotonic()

    @property
    def done(self) -> int:
        """Number of trials of all optimizers that count."""
        return sum(search.counted for search in self.searches.values())

    def work(self, workers: Workers, retries: int, signals: StopSignals) -> None:
        """Do all trials."""
        trials = next(iter(self.searches.values())).folder
        if not is_inside(trials, trials.parent):
            raise UsageError(f"{trials} must be a folder of the tuning, but is a link that leaves it")
        trials.mkdir(exist_ok=True)
        try:
            work(self, workers, retries, Teller(self.announce), signals)
        except (KeyboardInterrupt, PreemptedError) as error:
            far = f"after {self.done} of {self.total} trials; the same command goes on"
            if isinstance(error, PreemptedError):
                raise PreemptedError(f"stopped by {Signals(error.signal).name} {far}", error.signal) from error
            self.announce(f"stopped {far}")
            raise
        except UsageError as error:
            for search in self.searches.values():
                if search.current is not None and not self.at_home:  # the one that was trained here
                    search.end(Status.REFUSED, str(error))
            raise
        finally:
            self.save()

    def next(self) -> Job | None:
        while open_ := [
            one for one in self.searches.values() if one.current is None and one.counted < self.config.trials
        ]:
            search = min(open_, key=lambda one: one.counted)
            params, folder = search.begin()
            config = self.config.trial(search.optimizer, params)
            if self.at_home:
                config, folder = at_home(config), folder.resolve()
            job = Job(folder.name, folder, going_on(config, folder), self.images)
            if not search.is_hopeless():
                return job
            self.ended(Outcome(job, Status.PRUNED))  # it was, or was to be, when it was cut off
        return None

    def is_hopeless(self, job: Job) -> bool:
        return self.searches[job.config.optimizer].is_hopeless()

    def ended(self, outcome: Outcome) -> None:
        search = self.searches[outcome.job.config.optimizer]
        trial = search.end(outcome.status, outcome.note)
        if trial is None or not trial.counts:
            kind = FailedRunError if trial is None else UsageError
            raise kind(f"{outcome.job.name}: {outcome.note}" if self.at_home else outcome.note)
        self.save()
        done, best = self.done, Tuned.of(search.optimizer, search.trials).best
        left = (time.monotonic() - self.started) / max(done - self.before, 1) * (self.total - done)
        self.announce(
            f"{said_path(search.optimizer)} trial {search.counted} of {self.config.trials}: {trial}"
            + (f"  (best {best.objective.text(best.value)}" if best else "  (best -")
            + (f"; {duration(left)} left)" if done < self.total else ")")
        )


def _final_runs(config: TuneConfig, tuned: list[Tuned]) -> list[TrainConfig]:
    return [
        config.run(one.optimizer, one.best.params, seed)
        for seed in config.seeds
        for one in tuned
        if one.best is not None
    ]


def _spaces(config: TuneConfig, given: Given) -> tuple[dict[str, Space], list[str]]:
    """Return the space of each optimizer, checked against the data, and notes for the user."""
    count = len(given.data.train_labels) if given.data is not None else 0
    rates = {name: config.trial(name, {}).plan(count).lr for name in config.optimizers}
    spaces, notes = parse_spaces(config.space, config.optimizers, config.base.schedule, rates)
    for optimizer, space in spaces.items():
        for params in corners(space):
            try:
                prepare(config.trial(optimizer, params), given, here=False)
            except UsageError as error:
                raise UsageError(f"--space must have values that {said_path(optimizer)} takes: {error}") from error
        if config.sampler == "grid":
            grid_points(space, config.trials, optimizer)
    return spaces, notes


def _open(
    config: TuneConfig,
    spaces: dict[str, Space],
    objective: Objective,
    said: dict[str, Any],
    stored: Stored,
    folder: Path,
) -> tuple[list[Search], dict[str, list[Trial]]]:
    """Return the search of each optimizer, and the trials of optimizers of earlier calls alone."""
    from tvlars.lab.experiments.tuning.journal import check_trials, damage_said, kept, open_storage
    from tvlars.lab.experiments.tuning.search import Search  # Optuna is needed by nothing else

    with damage_said(folder / JOURNAL):
        storage = open_storage(folder / JOURNAL)
        there = kept(storage, objective)
        if unknown := [name for name in there if name not in stored.space]:
            raise UsageError(f"{str(folder / FILE)!r} must say what is searched for {listed(unknown)}, but does not")
        check_trials(storage, spaces, objective)
        mine = [Tuned.of(name, trials).trials for name, trials in there.items() if name in spaces]
        if (most := max(mine, default=0)) > config.trials:
            raise UsageError(f"trials must be >= {most}, those that are there already, got {config.trials}")
    stored.write(folder, said)  # before anything is in the journal, which is then of this tuning
    with damage_said(folder / JOURNAL):
        searches = [
            Search(
                optimizer,
                spaces[optimizer],
                folder / "trials",
                storage,
                config.trials,
                config.tune_seed * 10_000 % 2**32,
                config.base.epochs,
                config.prune,
                objective,
                grid_points(spaces[optimizer], config.trials, optimizer) if config.sampler == "grid" else None,
            )
            for optimizer in config.optimizers
        ]
    return searches, {name: one for name, one in there.items() if name not in spaces}


def _others(
    config: TuneConfig, earlier: dict[str, list[Trial]], folder: Path
) -> tuple[list[Tuned], list[Tuned], list[str]]:
    """Return the optimizers of earlier calls with as many trials, those with results of the same seeds, and notes.

    Results of unequal budgets are never shown together.
    """
    spent = [Tuned.of(name, trials) for name, trials in earlier.items()]
    equal = [one for one in spent if one.trials == config.trials]
    stay = [one for one in equal if one.best is None or _are_over(_final_runs(config, [one]), folder / FINAL)]
    notes = []
    if names := [said_path(one.optimizer) for one in stay]:
        notes.append(f"results of {listed(names)} have as many trials and the same seeds, and stay")
    if names := [said_path(one.optimizer) for one in spent if one.trials and one not in stay]:
        notes.append(
            f"results of {listed(names)} are left out, they are not of {config.trials} trials and seeds "
            f"{', '.join(map(str, config.seeds))}: name {'it' if len(names) == 1 else 'them'} too to have them"
        )
    return equal, stay, notes


def _are_over(runs: list[TrainConfig], folder: Path) -> bool:
    names, found = [run_name(at_home(run)) for run in runs], names_in(folder)
    return all(read_status(folder / found.get(name, name)) in OVER for name in names)


def _announce_validation(
    config: TuneConfig, data: ImageData, objective: Objective, announce: Callable[[str], None]
) -> None:
    images, amount = len(data.part("validation")[1]), config.base.validation
    which = "of their own"
    if amount is not None:
        which = f"held out of {images + len(data.train_labels):,} for training, by class with seed "
        which += f"{config.base.validation_seed}"
    if config.base.own_task:
        by = f"the {objective.measure} of {images:,} samples for validation"
        which = which.replace("by class ", "") + f", {str(objective).partition(', ')[2]}"
        announce(f"trials are chosen by {by}, {which}; the test set is read with fresh seeds alone")
        return
    announce(
        f"trials are chosen by {images:,} images for validation, {which}; the test set is read with fresh seeds alone"
    )


def _announce_budget(
    config: TuneConfig,
    spaces: dict[str, Space],
    objective: Objective,
    searches: list[Search],
    announce: Callable[[str], None],
) -> None:
    sampler = {"tpe": "chosen by TPE", "grid": "of a grid"}[config.sampler]
    worse = "above" if objective.direction == MINIMIZE else "below"
    pruned = f"pruned {worse} the median" if config.prune else "not pruned"
    names = ", ".join(map(said_path, config.optimizers))
    announce(
        f"{config.trials} trials {sampler} for each of {names}; {config.base.epochs} epochs, "
        f"seed {config.tune_seed}, {pruned}"
    )
    for optimizer, space in spaces.items():
        announce(f"{said_path(optimizer):<8} {'; '.join(f'{name} {one}' for name, one in space.items())}")
    if there := sum(search.counted for search in searches):
        announce(f"{there} of {config.trials * len(searches)} trials are there already")
