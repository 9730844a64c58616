"""Tuning with equal budgets: the same number of trials for each arm, then runs of the best options with fresh seeds.

Trials read only training and validation images. The runs with fresh seeds read the test set once, at their end.

tune.json        options of the tuning, budget spent, best options, edges, and results with fresh seeds
study.journal    all trials, as Optuna keeps them
trials.csv       a row per trial and tuning seed
arms.csv         a row per arm: budget, best options, alarms
trials/          a run folder for each trial and tuning seed
final/           sweep of the best options with fresh seeds, whose results are reported
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvlars._notebook import page, paragraph, pre
from tvlars._words import counted, several
from tvlars.lab.config import TrainConfig
from tvlars.lab.console import say, shows_bars
from tvlars.lab.data import Data, ImageData
from tvlars.lab.errors import UsageError, listed
from tvlars.lab.experiments.arms import Arm
from tvlars.lab.experiments.board import Board
from tvlars.lab.experiments.job import OVER, Workers, read_status
from tvlars.lab.experiments.queue import check_call, hold, taking_signals
from tvlars.lab.experiments.results import Files, SweepResult
from tvlars.lab.experiments.run_name import at_home, run_name
from tvlars.lab.experiments.sweep import hire, names_in, sweep
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.experiments.tuning.folder import (
    FILE,
    JOURNAL,
    TRIALS,
    Stored,
    frame_of,
    identity,
    read_stored,
    results_of,
    write_trials,
)
from tvlars.lab.experiments.tuning.objective import MINIMIZE, Objective
from tvlars.lab.experiments.tuning.sources import Means, Reruns, Trials
from tvlars.lab.experiments.tuning.space import Space, corners, grid_points, parse_spaces, sobol_points
from tvlars.lab.experiments.tuning.stages import Stage
from tvlars.lab.experiments.tuning.trial import Trial, Tuned
from tvlars.lab.experiments.tuning.widening import Widening
from tvlars.lab.experiments.workers.in_process import InProcess
from tvlars.lab.given import Given, check_apart, take
from tvlars.lab.imported import said_path
from tvlars.lab.metrics import Metric
from tvlars.lab.models import Model
from tvlars.lab.processes.signals import StopSignals
from tvlars.lab.run_folder.identity import check_same_plan
from tvlars.lab.run_folder.record import PLAN, read_object
from tvlars.lab.tasks import Task
from tvlars.lab.training.prepare import data_of, prepare
from tvlars.lab.training.progress import BarReporter, Reporter, factory_of

if TYPE_CHECKING:
    import pandas as pd

    from tvlars.lab.experiments.tuning.search import Search

FINAL = "final"


@dataclass
class TuneResult:
    """Results of a tuning.

    ``tuned`` are the arms of this call, with their budgets, best trials and edges. ``final`` are the runs with fresh
    seeds, including runs of earlier calls with as many trials and the same seeds; None if there was nothing to run.
    ``unwritten`` has the reason why trials.csv or tune.json could not be written; the same call writes them later.
    """

    folder: Path
    tuned: list[Tuned]
    final: SweepResult | None
    trials: dict[str, list[Trial]] = field(default_factory=dict)
    """All trials of the arms of this call."""
    tune_seed: int = 0
    """Seed of all trials; reruns have other seeds."""
    unwritten: dict[str, str] = field(default_factory=dict, init=False)

    def __repr__(self) -> str:
        return f"TuneResult({', '.join(said_path(one.arm) for one in self.tuned)}, folder {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return budget and best options of each arm, and the runs with fresh seeds, as HTML for notebooks."""
        final = "" if self.final is None else self.final._repr_html_()
        return page(pre("\n".join(map(str, self.tuned))), *map(paragraph, self.alarms()), final)

    def frame(self) -> pd.DataFrame:
        """Return one row per trial and tuning seed, as in trials.csv: arm, trial, seed, status, value, options,
        chosen, edge, folder."""
        found: pd.DataFrame = frame_of(self.trials, self.tuned, self.tune_seed)
        return found

    def alarms(self) -> list[str]:
        """Return a sentence on each chosen value that lies at an end of the searched space."""
        return [sentence for one in self.tuned for sentence in one.alarms()]


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
    """Tune every arm with the same budget, and run the best options of each with fresh seeds.

    The trials of an arm are done one after the other, since each choice depends on earlier trials. Several workers do
    trials of several arms at a time, with the same results. Another call with the same options continues the tuning;
    a call with other arms keeps the arms of earlier calls.

    Args:
        config: options of the tuning.
        data, loaders, model, task, metrics: objects for all runs, see :func:`tvlars.lab.compare`; with any of them,
            runs are trained in this process, one after the other.
        announce: called with each line about the progress; the default prints it.
        reporter: shows all trials in this process, or a function or class that makes one reporter per trial; None
            (default): a bar on a terminal, nothing elsewhere.
        board: shows the runs with fresh seeds, see :func:`tvlars.lab.sweep`.
        workers: number of runs at a time; with one, trials are done in this process.
        retries: number of further attempts for a run that failed, from its newest checkpoint.
        ray: None (default): on this machine; else the address of a Ray cluster, see :func:`tvlars.lab.sweep`.

    Raises:
        UsageError: an option is bad, or ``out`` is the folder of another tuning; nothing has been written. Or a trial
            was refused, for example because memory is too small.
        LockedError: another process uses ``out``.
        FailedRunError: a trial failed; the same call retries it.
        KeyboardInterrupt, PreemptedError: Ctrl-C, or SIGTERM or SIGHUP; the same call continues.
    """
    check_call(workers, retries)  # before any trial
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
    arms = config.all_arms()
    first = prepare(config.trial(arms[0], {}), given, here=ray is None)
    objective = Objective.of(first.config, first.task)
    if first.task is None and data.classes < 2:  # with evaluations none, labels are not checked elsewhere
        raise UsageError(f"data must have labels of two classes or more for tuning, {data.name} has {data.classes}")
    spaces, notes = spaces_of(config, given)
    notes = [*config.idle(), *notes]
    said = identity(config, spaces, objective)
    read_stored(folder, said, data.fingerprint)
    with contextlib.ExitStack() as stack:
        count = min(workers or len(arms), len(arms))
        apart = ray is not None or (workers is not None and count > 1)
        crew = hire(stack, [first.config], count if workers else None, ray) if apart else None
        folder.mkdir(parents=True, exist_ok=True)
        hold(stack, folder, "process tunes")
        stored = read_stored(folder, said, data.fingerprint)  # another process may have changed it in the meantime
        searches, earlier = _open(config, spaces, first.plan.epochs, objective, said, stored, folder)
        _check_plans(config, searches, given, folder)
        stored.before.update(config.before())
        again = config.tune_seeds[1:]
        said_before: list[str] = []

        def tuned_of(found: Mapping[str, list[Trial]]) -> list[Tuned]:
            facts = stored.before.get, stored.edges.get
            return [Tuned.of(key, some, again, facts[0](key, 0), facts[1](key, ())) for key, some in found.items()]

        def found() -> dict[str, list[Trial]]:
            return {search.arm: search.trials for search in searches}

        def others() -> tuple[list[Tuned], list[Tuned]]:
            equal, stay, more = _others(config, tuned_of(earlier), folder, stored, searches[0].budget)
            for line in more:
                if line not in said_before:
                    announce(f"note: {line}")
            said_before.extend(more)
            return equal, stay

        def save() -> None:
            every = found() | earlier
            files.write(TRIALS, lambda: write_trials(folder, every, tuned_of(every), config.tune_seeds[0]))

        for line in (*(f"note: {note}" for note in notes), *data.account):
            announce(line)
        others()
        _announce_budget(config, spaces, searches, stored, announce)
        _announce_validation(config, data, objective, announce)
        files = Files(folder, announce)
        means = Means(config, first.plan.total_steps * first.plan.batch_size, announce, save, apart)
        trials, widening = Trials(means, searches), Widening(config, searches, given, stored)
        if crew is None:
            show = begins or (lambda: BarReporter(brief=True) if shows_bars() else Reporter())
            crew = InProcess(given, lambda job: show(), trials.is_hopeless)
        with taking_signals(crew) as signals:
            trials.work(crew, retries, signals)
            while (why := _next_round(widening, means, searches, crew, retries, signals)) is not None:
                stored.write(folder, said)  # before any trial of the round is in the journal
                widening.queue()
                announce(why)
                trials.work(crew, retries, signals)
        stored.edges.update({search.arm: widening.edges(search) for search in searches})
        save()
        tuned = tuned_of(found())
        _announce_tuned(tuned, searches, len(stored.rounds), announce)
        equal, results = others()
        if len({one.budget for one in (*tuned, *results)}) > 1:
            spent = listed(f"{said_path(one.arm)} {one.budget}" for one in (*tuned, *results))
            announce(f"note: the budgets of the arms differ, in runs: {spent}")
        of_others = {one.arm: stored.arm(one.arm) for one in results}
        runs, final = _final_runs(config, [*tuned, *results], of_others), None
        if runs:
            announce(f"running the best options of each arm with fresh {several('seed', config.seeds)}:")
            queue: dict[str, Any] = dict(workers=workers, retries=retries, ray=ray, board=board)
            final = sweep(runs, folder / FINAL, **objects, **queue, family=config.family, margin=config.margin)
        if files.unwritten:  # there may be disk space again
            save()
        outcome = results_of(config, [*tuned, *equal], final)
        files.write(FILE, lambda: stored.write(folder, said, outcome))
    result = TuneResult(folder, tuned, final, found(), config.tune_seeds[0])
    result.unwritten = files.unwritten
    return result


def _next_round(
    widening: Widening, means: Means, searches: Sequence[Search], crew: Workers, retries: int, signals: StopSignals
) -> str | None:
    """Plan the next round that widens the spaces, and return a line about it; None if there is none.

    Results with the first tuning seed decide first. If they lead to no further round, the best trials are run again
    with the other seeds, and the means over all seeds may lead to one.
    """
    line = widening.next_round(first_seed=True)
    if line is None and means.config.tune_seeds[1:]:
        Reruns(means, searches).work(crew, retries, signals)
        line = widening.next_round(first_seed=False)
    return line


def _final_runs(config: TuneConfig, tuned: Sequence[Tuned], earlier: Mapping[str, Arm]) -> list[TrainConfig]:
    """Return the runs with fresh seeds; ``earlier`` are arms of earlier calls by key."""
    return [
        config.run(earlier.get(one.arm, one.arm), one.best.params, seed)
        for seed in config.seeds
        for one in tuned
        if one.best is not None
    ]


def spaces_of(config: TuneConfig, given: Given) -> tuple[dict[str, Space], list[str]]:
    """Return the space of each arm, checked against the data, and notes for the user."""
    count = len(given.data.train_labels) if given.data is not None else 0
    arms = config.all_arms()
    rates = {arm.key: config.trial(arm, {}).plan(count).lr for arm in arms}
    spaces, notes = parse_spaces(config.space, arms, config.base.schedule, rates)
    for key, space in spaces.items():
        for params in corners(space):
            try:
                prepare(config.trial(key, params), given, here=False)
            except UsageError as error:
                raise UsageError(f"--space must have valid values for {said_path(key)}: {error}") from error
        _first_stage(config, space, key)
    return spaces, notes


def _first_stage(config: TuneConfig, space: Space, key: str) -> Stage:
    """Return the initial trials of an arm's search."""
    points = None
    if config.sampler == "grid":
        points = tuple(grid_points(space, config.trials, said_path(key)))
    elif config.sampler == "qmc":
        points = tuple(sobol_points(space, config.trials, config.tune_seeds[0], said_path(key)))
    return Stage(config.trials, points)


def _check_plans(config: TuneConfig, searches: Sequence[Search], given: Given, folder: Path) -> None:
    """Raise ``UsageError`` if defaults have changed since the first trial of an arm."""
    for search, arm in zip(searches, config.all_arms(), strict=True):
        for trial in search.trials[:1]:
            place = folder / "trials" / trial.folder
            plan = prepare(config.trial(arm, trial.params), given, here=False).plan
            check_same_plan(read_object(place / PLAN), plan, f"out must hold this tuning, but in {str(place)!r} the")


def _open(
    config: TuneConfig,
    spaces: dict[str, Space],
    epochs: int,
    objective: Objective,
    said: dict[str, Any],
    stored: Stored,
    folder: Path,
) -> tuple[list[Search], dict[str, list[Trial]]]:
    """Return the search of each arm, and the trials of arms that only earlier calls tuned."""
    from tvlars.lab.experiments.tuning.journal import check_trials, damage_said, kept, open_storage
    from tvlars.lab.experiments.tuning.search import Search  # import Optuna only here

    again, trials = config.tune_seeds[1:], folder / "trials"
    stored.arms.update({arm.key: arm for arm in config.all_arms() if not arm.plain})
    if stored.rounds and (after := stored.rounds[0].after) != config.trials:
        raise UsageError(f"trials must be {after}, after which spaces in the folder were widened, got {config.trials}")
    for key, space in spaces.items():
        if not all(stage.fits(space) for stage in stored.stages(key)):
            raise UsageError(
                f"{str(folder / FILE)!r} must have rounds with the searched options of {said_path(key)}, but has "
                "other options"
            )
    with damage_said(folder / JOURNAL):
        storage = open_storage(folder / JOURNAL)
        there = kept(storage, objective, trials, again)
        if unknown := [name for name in there if name not in stored.space]:
            raise UsageError(f"{str(folder / FILE)!r} must have the search space of {listed(unknown)}, but does not")
        optimizers = {key: arm.optimizer for key, arm in stored.arms.items()}
        check_trials(storage, spaces, objective, optimizers, {key: stored.stages(key) for key in spaces})
        for name in (name for name in there if name in spaces):
            most = Tuned.of(name, there[name]).trials
            if most > config.trials + sum(stage.count for stage in stored.stages(name)):
                raise UsageError(f"trials must be >= {most}, the number already in the folder, got {config.trials}")
    for key in spaces:
        stored.edges.pop(key, None)  # edges of fewer trials
    stored.write(folder, said)  # before the journal, so that a journal always belongs to a tuning
    with damage_said(folder / JOURNAL):
        seed = config.tune_seeds[0] * 10_000 % 2**32
        how = seed, epochs, config.prune, objective, again, config.sampler == "grid"
        searches = [
            Search(key, space, trials, storage, [_first_stage(config, space, key), *stored.stages(key)], *how)
            for key, space in spaces.items()
        ]
    return searches, {name: one for name, one in there.items() if name not in spaces}


def _others(
    config: TuneConfig, spent: list[Tuned], folder: Path, stored: Stored, budget: int
) -> tuple[list[Tuned], list[Tuned], list[str]]:
    """Return the arms of earlier calls with as many trials, those with results of the same seeds, and notes.

    Results of unequal budgets are never shown together.
    """
    again = config.tune_seeds[1:]
    equal = [one for one in spent if one.trials == budget and (one.best is None or one.best.has_seeds(again))]
    arms = {one.arm: stored.arm(one.arm) for one in spent}
    stay = [one for one in equal if one.best is None or _are_over(_final_runs(config, [one], arms), folder / FINAL)]
    notes = []
    if names := [said_path(one.arm) for one in stay]:
        notes.append(f"results of {listed(names)} have as many trials and the same seeds, and are kept")
    if names := [said_path(one.arm) for one in spent if one.trials and one not in stay]:
        tuning = f", tuning {several('seed', config.tune_seeds)}" * bool(again)
        notes.append(
            f"results of {listed(names)} are left out, since they do not have {budget} trials{tuning} and seeds "
            f"{', '.join(map(str, config.seeds))}: to include them, name {'it' if len(names) == 1 else 'them'} too"
        )
    return equal, stay, notes


def _are_over(runs: list[TrainConfig], folder: Path) -> bool:
    names, found = [run_name(at_home(run)) for run in runs], names_in(folder)
    return all(read_status(folder / found.get(name, name)) in OVER for name in names)


def _announce_validation(
    config: TuneConfig, data: ImageData, objective: Objective, announce: Callable[[str], None]
) -> None:
    images, amount, own = len(data.part("validation")[1]), config.base.validation, config.base.own_task
    which = "a separate set"
    if amount is not None:
        split = f"{'' if own else 'by class '}with seed {config.base.validation_seed}"
        which = f"held out of {images + len(data.train_labels):,} for training, {split}"
    by, end = f"on {images:,} validation images", ""
    if own:
        by, end = f"by the {objective.measure} on {images:,} validation samples", str(objective).partition(",")[2]
    announce(f"trials are ranked {by}, {which}{',' * bool(end)}{end}; only runs with fresh seeds read the test set")


def _announce_budget(
    config: TuneConfig,
    spaces: dict[str, Space],
    searches: list[Search],
    stored: Stored,
    announce: Callable[[str], None],
) -> None:
    sampler = {"tpe": "chosen by TPE", "qmc": "of a scrambled Sobol sequence", "grid": "of a grid"}[config.sampler]
    worse = "above" if searches[0].objective.direction == MINIMIZE else "below"
    pruned = f"pruned {worse} the median" if config.prune else "not pruned"
    names = ", ".join(map(said_path, spaces))
    first, *others = config.tune_seeds
    again = f"; best {config.rerun} rerun with {several('seed', others)}"
    announce(
        f"{counted(config.trials, 'trial')} {sampler} for each of {names}; {config.base.length}, "
        f"seed {first}, {pruned}{again * bool(others)}"
    )
    for key, space in spaces.items():
        announce(f"{said_path(key):<8} {'; '.join(f'{name} {one}' for name, one in space.items())}")
    before = {said_path(key): count for key, count in stored.before.items() if key in spaces}
    if before:
        announce(f"note: earlier trials count too: {'; '.join(f'{name} {count}' for name, count in before.items())}")
    if there := sum(search.counted for search in searches):
        announce(f"{there} of {sum(search.budget for search in searches)} trials are already done")


def _announce_tuned(tuned: list[Tuned], searches: list[Search], rounds: int, announce: Callable[[str], None]) -> None:
    for one in tuned:
        announce(str(one))
    for one, search in zip(tuned, searches, strict=True):
        explored = search.explored()
        for edge, sentence in zip(one.edges, one.alarms(), strict=True):
            mend = f"--widen {rounds + 1} continues beyond the edge, with as many further trials for each arm"
            announce(f"alarm: {sentence}; {mend if explored.can_widen(edge) else 'list values beyond the edge'}")
