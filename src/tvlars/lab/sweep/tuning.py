"""Tuning with equal budgets: the same number of trials for each optimizer, then the best of each with fresh seeds.

tune.json        the options of the tuning, what was spent, the best options, and the results with fresh seeds
study.journal    all trials, as Optuna keeps them
trials.csv       a row a trial
trials/          a run folder for each trial
final/           the sweep of the best options with fresh seeds: what is reported
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.errors import LockedError, UsageError
from tvlars.lab.lock import LOCK, locked
from tvlars.lab.progress import BarReporter, Reporter
from tvlars.lab.record import command_line, write_json
from tvlars.lab.setup import check_run
from tvlars.lab.sweep.board import Board, duration
from tvlars.lab.sweep.options import PLACE, given
from tvlars.lab.sweep.results import SweepResult
from tvlars.lab.sweep.space import Space, corners, grid_points, parse_spaces
from tvlars.lab.sweep.sweeping import check_workers, sweep
from tvlars.lab.sweep.tune_config import TuneConfig

if TYPE_CHECKING:
    from tvlars.lab.sweep.trials import Search, Trial

FILE, JOURNAL, TRIALS = "tune.json", "study.journal", "trials.csv"


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
    """What came out of a tuning. ``final`` has the runs with fresh seeds; None where there was nothing to run."""

    folder: Path
    tuned: list[Tuned]
    final: SweepResult | None


def tune(
    config: TuneConfig,
    *,
    announce: Callable[[str], None] = print,
    reporter: Callable[[], Reporter] | None = None,
    board: Board | None = None,
    workers: int | None = None,
    retries: int = 1,
) -> TuneResult:
    """Tune every optimizer with the same budget, and run the best options of each with fresh seeds.

    Trials are run one after the other in this process, the optimizers taking turns; the runs that are reported are a
    sweep. Called again with the same options, it goes on.

    Args:
        config: the tuning.
        announce: is told how it goes, a line at a time; default: prints it.
        reporter: makes the reporter of each trial; None (default): a bar on a terminal, else none.
        board, workers, retries: of the runs that are reported, see :func:`sweep`.

    Raises:
        UsageError: an option is bad, or ``out`` has another tuning; nothing has been written then.
        LockedError: another process tunes in ``out``.
        KeyboardInterrupt, PreemptedError: as they came; the same call goes on.
    """
    check_workers(workers, retries)  # now, and not when all trials are over
    make_reporter = reporter or (lambda: BarReporter(brief=True) if sys.stdout.isatty() else Reporter())
    base, folder = config.base, config.folder()
    data = load_data(base.data, base.data_dir, base.image_size)
    check_run(config.run(config.optimizers[0], {}, config.tune_seed), data)
    spaces, notes = _spaces(config, data)
    notes = [*config.idle(), *notes]
    said = _identity(config, spaces)
    _check_folder(folder, said)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except LockedError as error:
            raise LockedError(f"another process tunes in {str(folder)!r}, wait for it or stop it") from error
        searches = _searches(config, spaces, folder)
        if (most := max(search.counted for search in searches)) > config.trials:
            raise UsageError(f"trials must be >= {most}, those that are there already, got {config.trials}")
        write_json(folder / FILE, {"command": command_line(), **said})
        for note in notes:
            announce(f"note: {note}")
        _announce_budget(config, spaces, searches, announce)
        _run_trials(config, searches, data, folder, announce, make_reporter)
        tuned = [_tuned(search) for search in searches]
        for line in tuned_lines(tuned):
            announce(line)
        runs = _final_runs(config, tuned)
        final = None
        if runs:
            announce(f"the best options of each optimizer, with fresh seeds {', '.join(map(str, config.seeds))}:")
            final = sweep(runs, folder / "final", workers=workers, retries=retries, board=board)
        result = TuneResult(folder, tuned, final)
        write_json(folder / FILE, {"command": command_line(), **said, **_results(config, result)})
    return result


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


def _identity(config: TuneConfig, spaces: dict[str, Space]) -> dict[str, Any]:
    """What a tuning is: what has to be the same when it goes on."""
    not_base = (*PLACE, "optimizer", "seed")
    base = {name: value for name, value in given(config.base).items() if name not in not_base}
    text = {optimizer: {name: str(one) for name, one in space.items()} for optimizer, space in spaces.items()}
    return {
        "base": json.loads(json.dumps(base, default=str)),
        "sampler": config.sampler if config.sampler != "grid" else f"grid of {config.trials}",
        "prune": config.prune,
        "tune_seed": config.tune_seed,
        "space": text,
    }


def _check_folder(folder: Path, said: dict[str, Any]) -> None:
    """Raise ``UsageError`` unless the folder is new, empty or of this tuning."""
    if not folder.exists():
        return
    if not (folder / FILE).is_file():
        if folder.is_dir() and all(path.name in (LOCK, JOURNAL) for path in folder.iterdir()):
            return
        raise UsageError(f"out must be a new or empty folder, or that of a tuning, got {str(folder)!r}")
    try:
        stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
        there = {name: stored[name] for name in said}
        common = set(there["space"]) & set(said["space"])  # optimizers may come and go
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{str(folder / FILE)!r} must say what is tuned there, but cannot be read: {error}") from error
    for name, here in said.items():
        before = there[name]
        if name == "space":
            before, here = ({one: space[one] for one in common} for space in (before, here))
        if before != here:
            raise UsageError(f"out must be a folder of the same tuning, but has {name} {before}, got {here}")


def _searches(config: TuneConfig, spaces: dict[str, Space], folder: Path) -> list[Search]:
    from tvlars.lab.sweep.trials import Search, damage_said, open_storage  # Optuna is needed by nothing else

    with damage_said(folder / JOURNAL):
        storage = open_storage(folder / JOURNAL)
        return [
            Search(
                optimizer,
                spaces[optimizer],
                folder / "trials",
                storage,
                config.trials,
                config.tune_seed * 10_000 % 2**32,
                config.base.epochs,
                config.prune,
                grid_points(spaces[optimizer], config.trials, optimizer) if config.sampler == "grid" else None,
            )
            for optimizer in config.optimizers
        ]


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
    folder: Path,
    announce: Callable[[str], None],
    make_reporter: Callable[[], Reporter],
) -> None:
    """Run what is left of the budget; optimizers take turns, so that an interrupted tuning is a fair one."""
    (folder / "trials").mkdir(exist_ok=True)
    total, start = config.trials * len(searches), time.monotonic()
    before = sum(search.counted for search in searches)

    def make(optimizer: str, params: dict[str, Any], out: Path) -> Any:
        return config.run(optimizer, params, config.tune_seed, out)

    try:
        while open_ := [search for search in searches if search.counted < config.trials]:
            search = min(open_, key=lambda one: one.counted)
            trial = search.run_next(make, data, make_reporter())
            _write_trials(searches, folder)
            done = sum(one.counted for one in searches)
            left = (time.monotonic() - start) / (done - before) * (total - done)
            best = search.best()
            announce(
                f"{search.optimizer} trial {search.counted} of {config.trials}: {_told(trial)}"
                + (f"  (best {best.accuracy:.2%}" if best else "  (best -")
                + (f"; {duration(left)} left)" if done < total else ")")
            )
    except BaseException as error:
        done = sum(one.counted for one in searches)
        if not isinstance(error, Exception):
            announce(f"stopped after {done} of {total} trials; the same command goes on")
        raise
    finally:
        _write_trials(searches, folder)


def _told(trial: Trial) -> str:
    options = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
    accuracy = f"{trial.accuracy:.2%}" if trial.accuracy is not None else "-"
    end = {"pruned": f"pruned after epoch {trial.epochs} at {accuracy}", "diverged": "diverged, which counts as 0 %"}
    return f"{options}: {end.get(trial.status, accuracy)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _tuned(search: Search) -> Tuned:
    trials = [trial for trial in search.trials if trial.status != "interrupted"]
    count = [trial.status for trial in trials].count
    epochs = sum(trial.epochs for trial in trials)
    return Tuned(search.optimizer, len(trials), count("pruned"), count("diverged"), epochs, search.best())


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


def _results(config: TuneConfig, result: TuneResult) -> dict[str, Any]:
    """What tune.json says when all is done."""
    table = [] if result.final is None else result.final.comparison().table().to_dict("records")
    columns = ("optimizer", "batch_size", "lr", "seeds", "of", "accuracy", "interval", "accuracies")
    return {
        "trials": config.trials,
        "spent": [{name: value for name, value in asdict(one).items() if name != "best"} for one in result.tuned],
        "best": {one.optimizer: asdict(one.best) if one.best else None for one in result.tuned},
        "seeds": list(config.seeds),
        "results": [
            {name: None if isinstance(row[name], float) and row[name] != row[name] else row[name] for name in columns}
            for row in table
        ],
    }


def _write_trials(searches: list[Search], folder: Path) -> None:
    rows = [
        {
            "optimizer": search.optimizer,
            "trial": trial.number,
            "status": trial.status,
            "accuracy": trial.accuracy,
            "epochs": trial.epochs,
            **trial.params,
            "folder": trial.folder,
        }
        for search in searches
        for trial in search.trials
    ]
    pd.DataFrame(rows).to_csv(folder / TRIALS, index=False)
