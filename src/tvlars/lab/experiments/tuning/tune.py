"""Tuning with equal budgets: the same number of trials for each optimizer, then the best of each with fresh seeds.

tune.json        the options of the tuning, what was spent, the best options, and the results with fresh seeds
study.journal    all trials, as Optuna keeps them
trials.csv       a row a trial
trials/          a run folder for each trial
final/           the sweep of the best options with fresh seeds: what is reported
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvlars._reading import is_inside
from tvlars.lab.config import TrainConfig
from tvlars.lab.console import say, shows_bars
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.errors import LockedError, PreemptedError, UsageError, listed
from tvlars.lab.experiments.board import Board, duration
from tvlars.lab.experiments.job import OVER, read_status
from tvlars.lab.experiments.queue import check_workers
from tvlars.lab.experiments.results import SweepResult, cannot_write
from tvlars.lab.experiments.run_name import at_home, run_name
from tvlars.lab.experiments.sweep import names_in, sweep
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.experiments.tuning.folder import (
    FILE,
    JOURNAL,
    TRIALS,
    Stored,
    check_same,
    identity,
    read_stored,
    write_trials,
)
from tvlars.lab.experiments.tuning.space import Space, corners, grid_points, parse_spaces
from tvlars.lab.files.lock import locked
from tvlars.lab.training.prepare import check_machine, check_run
from tvlars.lab.training.progress import BarReporter, Reporter

if TYPE_CHECKING:
    from tvlars.lab.experiments.tuning.trials import Kept, Search, Trial

FINAL = "final"


@dataclass(frozen=True)
class Tuned:
    """What was spent on an optimizer, and the best that was found. ``best`` is None where every trial diverged."""

    optimizer: str
    trials: int
    pruned: int
    diverged: int
    epochs: int
    best: Trial | None


@dataclass
class TuneResult:
    """What came out of a tuning.

    ``tuned`` has the optimizers of this call. ``final`` has the runs with fresh seeds, also those of earlier calls that
    had as many trials and the same seeds; None where there was nothing to run. ``unwritten`` has trials.csv and
    tune.json where they could not be written, and why: the same call writes them.
    """

    folder: Path
    tuned: list[Tuned]
    final: SweepResult | None
    unwritten: dict[str, str] = field(default_factory=dict, init=False)


def tune(
    config: TuneConfig,
    *,
    announce: Callable[[str], None] = say,
    reporter: Callable[[], Reporter] | None = None,
    board: Board | None = None,
    workers: int | None = None,
    retries: int = 1,
) -> TuneResult:
    """Tune every optimizer with the same budget, and run the best options of each with fresh seeds.

    Trials are run one after the other in this process, the optimizers taking turns; the runs that are reported are a
    sweep. Called again with the same options, it goes on; called with other optimizers, it keeps those that are there.

    Args:
        config: the tuning.
        announce: is told how it goes, a line at a time; default: prints it.
        reporter: makes the reporter of each trial; None (default): a bar on a terminal, else none.
        board, workers, retries: of the runs that are reported, see :func:`sweep`.

    Raises:
        UsageError: an option is bad, or ``out`` has another tuning; nothing has been written then.
        LockedError: another process tunes in ``out``.
        KeyboardInterrupt: by Ctrl-C, PreemptedError: by SIGTERM or SIGHUP; the same call goes on.
    """
    check_workers(workers, retries)  # now, and not when all trials are over
    make_reporter = reporter or (lambda: BarReporter(brief=True) if shows_bars() else Reporter())
    base, folder = config.base, config.folder()
    data = load_data(base.data, base.data_dir, base.image_size, base.skip_bad_images)
    _check(config, data)
    spaces, notes = _spaces(config, data)
    notes = [*config.idle(), *notes]
    said = identity(config, spaces)
    read_stored(folder, said, data.fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except LockedError as error:
            raise LockedError(f"another process tunes in {str(folder)!r}, wait for it or stop it") from error
        stored = read_stored(folder, said, data.fingerprint)  # with what another process may have done in the meantime
        searches, earlier = _open(config, spaces, said, stored, folder)
        others, results, more = _others(config, earlier, folder)
        for note in [*notes, *more]:
            announce(f"note: {note}")
        for line in data.account:
            announce(line)
        _announce_budget(config, spaces, searches, announce)

        unwritten: dict[str, str] = {}

        def write(name: str, how: Callable[[], None]) -> None:
            """Write one of the files that only say what is kept elsewhere too, or tell why not."""
            try:
                how()
                unwritten.pop(name, None)
            except OSError as error:
                sentence = cannot_write(folder / name, error)
                if unwritten.get(name) != sentence:
                    announce(sentence)
                unwritten[name] = sentence

        def save() -> None:
            mine = {search.optimizer: search.trials for search in searches}
            trials = mine | {name: one.trials for name, one in earlier.items()}
            write(TRIALS, lambda: write_trials(folder, trials))

        _run_trials(config, searches, data, announce, make_reporter, save)
        tuned = [_tuned(search.optimizer, search.trials) for search in searches]
        for line in tuned_lines(tuned):
            announce(line)
        runs = _final_runs(config, [*tuned, *results])
        final = None
        if runs:
            announce(f"the best options of each optimizer, with fresh seeds {', '.join(map(str, config.seeds))}:")
            final = sweep(runs, folder / FINAL, workers=workers, retries=retries, board=board)
        if unwritten:  # there may be room again
            save()
        outcome = _results(config, [*tuned, *others], final)
        write(FILE, lambda: stored.write(folder, said, outcome))
    result = TuneResult(folder, tuned, final)
    result.unwritten = unwritten
    return result


def _check(config: TuneConfig, data: ImageData) -> None:
    """Raise ``UsageError`` where no trial could be run, or none compared with another."""
    first = config.run(config.optimizers[0], {}, config.tune_seed)
    check_run(first, data)
    if data.classes < 2:  # with evaluations none nothing else asks for labels
        raise UsageError(f"data must have labels of two classes or more to tune by, but {data.name} has {data.classes}")
    check_machine(first)


def _final_runs(config: TuneConfig, tuned: list[Tuned]) -> list[TrainConfig]:
    return [
        config.run(one.optimizer, one.best.params, seed)
        for seed in config.seeds
        for one in tuned
        if one.best is not None
    ]


def _spaces(config: TuneConfig, data: ImageData) -> tuple[dict[str, Space], list[str]]:
    """What is searched, all of it checked against the data."""
    count = len(data.train_labels)
    rates = {name: config.run(name, {}, config.tune_seed).plan(count).lr for name in config.optimizers}
    spaces, notes = parse_spaces(config.space, config.optimizers, config.base.schedule, rates)
    for optimizer, space in spaces.items():
        for params in corners(space):
            try:
                check_run(config.run(optimizer, params, config.tune_seed), data)
            except UsageError as error:
                raise UsageError(f"--space must have values that {optimizer} takes: {error}") from error
        if config.sampler == "grid":
            grid_points(space, config.trials, optimizer)
    return spaces, notes


def _open(
    config: TuneConfig, spaces: dict[str, Space], said: dict[str, Any], stored: Stored, folder: Path
) -> tuple[list[Search], dict[str, Kept]]:
    """The trials of each optimizer to go on with, and what is there of others."""
    from tvlars.lab.experiments.tuning.trials import (  # Optuna is needed by nothing else
        Search,
        check_trials,
        damage_said,
        kept,
        open_storage,
    )

    with damage_said(folder / JOURNAL):
        storage = open_storage(folder / JOURNAL)
        there = kept(storage)
        own = {name: {**said, "space": space} for name, space in said["space"].items()}
        mine = [name for name in own if name in there]
        for name in mine:
            check_same(there[name].said, own[name])
        check_trials(storage, spaces)
        if (most := max((_tuned(name, there[name].trials).trials for name in mine), default=0)) > config.trials:
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
                own[optimizer],
                grid_points(spaces[optimizer], config.trials, optimizer) if config.sampler == "grid" else None,
            )
            for optimizer in config.optimizers
        ]
    return searches, {name: one for name, one in there.items() if name not in own}


def _others(config: TuneConfig, earlier: dict[str, Kept], folder: Path) -> tuple[list[Tuned], list[Tuned], list[str]]:
    """The optimizers of earlier calls that had as many trials, those of them with results of the same seeds, and notes.

    Results of unequal budgets never stand beside each other.
    """
    spent = [_tuned(name, there.trials) for name, there in earlier.items()]
    equal = [one for one in spent if one.trials == config.trials]
    stay = [one for one in equal if one.best is None or _are_over(_final_runs(config, [one]), folder / FINAL)]
    notes = []
    if names := [one.optimizer for one in stay]:
        notes.append(f"results of {listed(names)} have as many trials and the same seeds, and stay")
    if names := [one.optimizer for one in spent if one.trials and one not in stay]:
        notes.append(
            f"results of {listed(names)} are left out, they are not of {config.trials} trials and seeds "
            f"{', '.join(map(str, config.seeds))}: name {'it' if len(names) == 1 else 'them'} too to have them"
        )
    return equal, stay, notes


def _are_over(runs: list[TrainConfig], folder: Path) -> bool:
    names, found = [run_name(at_home(run)) for run in runs], names_in(folder)
    return all(read_status(folder / found.get(name, name)) in OVER for name in names)


def _announce_budget(
    config: TuneConfig, spaces: dict[str, Space], searches: list[Search], announce: Callable[[str], None]
) -> None:
    sampler = {"tpe": "chosen by TPE", "grid": "of a grid"}[config.sampler]
    pruned = "pruned below the median" if config.prune else "not pruned"
    announce(
        f"{config.trials} trials {sampler} for each of {', '.join(config.optimizers)}; {config.base.epochs} epochs, "
        f"seed {config.tune_seed}, {pruned}"
    )
    for optimizer, space in spaces.items():
        announce(f"{optimizer:<8} {'; '.join(f'{name} {one}' for name, one in space.items())}")
    if there := sum(search.counted for search in searches):
        announce(f"{there} of {config.trials * len(searches)} trials are there already")


def _run_trials(
    config: TuneConfig,
    searches: list[Search],
    data: ImageData,
    announce: Callable[[str], None],
    make_reporter: Callable[[], Reporter],
    save: Callable[[], None],
) -> None:
    """Run what is left of the budget; optimizers take turns, so that an interrupted tuning is a fair one."""
    trials = searches[0].folder
    if not is_inside(trials, trials.parent):
        raise UsageError(f"{trials} must be a folder of the tuning, but is a link that leaves it")
    trials.mkdir(exist_ok=True)
    total, start = config.trials * len(searches), time.monotonic()
    before = sum(search.counted for search in searches)

    def make(optimizer: str, params: dict[str, Any], out: Path) -> Any:
        return config.run(optimizer, params, config.tune_seed, out)

    try:
        while open_ := [search for search in searches if search.counted < config.trials]:
            search = min(open_, key=lambda one: one.counted)
            trial = search.run_next(make, data, make_reporter())
            save()
            done = sum(one.counted for one in searches)
            left = (time.monotonic() - start) / (done - before) * (total - done)
            best = search.best()
            announce(
                f"{search.optimizer} trial {search.counted} of {config.trials}: {_told(trial)}"
                + (f"  (best {best.accuracy:.2%}" if best else "  (best -")
                + (f"; {duration(left)} left)" if done < total else ")")
            )
    except (KeyboardInterrupt, PreemptedError) as error:
        done = sum(one.counted for one in searches)
        far = f"after {done} of {total} trials; the same command goes on"
        if isinstance(error, PreemptedError):
            raise PreemptedError(f"stopped by {signal.Signals(error.signal).name} {far}", error.signal) from error
        announce(f"stopped {far}")
        raise
    finally:
        save()


def _told(trial: Trial) -> str:
    options = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
    accuracy = f"{trial.accuracy:.2%}" if trial.accuracy is not None else "-"
    end = {"pruned": f"pruned after epoch {trial.epochs} at {accuracy}", "diverged": "diverged, which counts as 0 %"}
    return f"{options}: {end.get(trial.status, accuracy)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _tuned(optimizer: str, trials: list[Trial]) -> Tuned:
    from tvlars.lab.experiments.tuning.trials import best_of

    trials = [trial for trial in trials if trial.counts]
    count = [trial.status for trial in trials].count
    epochs = sum(trial.epochs for trial in trials)
    return Tuned(optimizer, len(trials), count("pruned"), count("diverged"), epochs, best_of(trials))


def tuned_lines(tuned: list[Tuned]) -> list[str]:
    """What was spent on each optimizer and what was found, for people."""
    lines = []
    for one in tuned:
        spent = f"{one.trials} trials ({one.pruned} pruned, {one.diverged} diverged), {one.epochs} epochs"
        if one.best is None:
            lines.append(f"{one.optimizer:<8} {spent}; none finished, so there is nothing to run with fresh seeds")
            continue
        options = ", ".join(f"{name} {_short(value)}" for name, value in one.best.params.items())
        lines.append(f"{one.optimizer:<8} {spent}; best {one.best.accuracy:.2%} with {options}")
    return lines


def _results(config: TuneConfig, tuned: list[Tuned], final: SweepResult | None) -> dict[str, Any]:
    """What tune.json says when all is done."""
    table = [] if final is None else final.comparison().table().to_dict("records")
    columns = ("optimizer", "batch_size", "lr", "seeds", "of", "accuracy", "interval", "accuracies")
    return {
        "trials": config.trials,
        "spent": [{name: value for name, value in asdict(one).items() if name != "best"} for one in tuned],
        "best": {one.optimizer: asdict(one.best) if one.best else None for one in tuned},
        "seeds": list(config.seeds),
        "results": [
            {name: None if isinstance(row[name], float) and row[name] != row[name] else row[name] for name in columns}
            for row in table
        ],
    }
