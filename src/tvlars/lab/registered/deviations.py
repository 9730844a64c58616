"""Deviations of the runs in a folder from their protocol."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvlars._reading import is_inside, read_text
from tvlars._words import counted
from tvlars.lab.config import MEANS, OPTIONS, TrainConfig
from tvlars.lab.data.place import same_name
from tvlars.lab.errors import UsageError, listed
from tvlars.lab.imported import said_path
from tvlars.lab.options import given
from tvlars.lab.registered.record import DIGITS, Planned, canonical, read_registered
from tvlars.lab.run_folder.record import CONFIG, ENVIRONMENT, read_object
from tvlars.lab.run_folder.status import Status

MOST = 12
"""Most sentences of one kind; the others are counted."""
FINAL, ARMS = "final", "arms.csv"
"""Folder of the reported runs of a tuning, and file of its table of arms."""
RECORDS = (f"{FINAL}/sweep.json", "sweep.json", "comparison.json", "tune.json")
WITH_RESULT = (Status.FINISHED, Status.DIVERGED)


def options_of_run(config: TrainConfig) -> dict[str, Any]:
    """Return the arm and the options of a run that differ from their defaults and affect results, as JSON values."""
    found: dict[str, Any] = json.loads(json.dumps(given(config), default=str))
    return {"arm": config.arm_name, **{name: value for name, value in found.items() if name not in MEANS}}


def sentences(folders: Iterable[Path]) -> list[str]:
    """Return one sentence per folder with a protocol: its name and digest, and the deviations of the runs."""
    found = []
    for folder in dict.fromkeys(folders):
        try:
            there = read_registered(folder)
        except UsageError as error:
            found.append(f"{error}.")
            continue
        if there is not None:
            where = deviations(folder, there.digest, there.planned)
            said = "none" if not where else "; ".join(where)
            found.append(f"Protocol {there.name}, digest {there.digest[:DIGITS]}. Deviations: {said}.")
    return found


def deviations(folder: Path, digest: str, planned: Planned) -> list[str]:
    """Return the deviations of the runs in a folder from a protocol, one clause each.

    Args:
        folder: folder of a comparison, sweep, tuning or study.
        digest: digest of the protocol.
        planned: runs of the protocol.

    Raises:
        UsageError: the record of a protocol in the folder is damaged.
    """
    there = read_registered(folder)
    runs, unreadable = _runs_in(folder)
    found = [] if there is None else list(there.changes)
    if there is not None and there.digest != digest:
        found.append(f"the folder has another protocol, digest {there.digest[:DIGITS]}")
    found += [f"{name} cannot be read" for name in unreadable]
    found += _by_digest(runs, digest)
    if there is None:
        found.append("the protocol was not recorded in the folder")
    else:
        early = [run for run in runs if run.started is not None and run.started < there.written]
        if early:
            found.append(f"{_runs(early)} started before the protocol was recorded")
    reported = [run for run in runs if not planned.searched or run.folder.parent.name == FINAL]
    found += _compared(planned, reported)
    empty = [run for run in reported if run.status not in WITH_RESULT]
    if empty:
        found.append(f"{_runs(empty)} {'has' if len(empty) == 1 else 'have'} no result")
    return [*found, *_declared(folder, planned)]


@dataclass(frozen=True)
class _Run:
    folder: Path
    options: dict[str, Any]
    digest: str | None
    status: str
    started: datetime.datetime | None


def _runs_in(folder: Path) -> tuple[list[_Run], list[str]]:
    """Return the runs in a folder and its subfolders, and the names of folders that cannot be read."""
    found, unreadable = [], []
    for file in sorted((*folder.glob(f"*/{CONFIG}"), *folder.glob(f"*/*/{CONFIG}"))):
        stored = read_object(file) if is_inside(file, folder) else {}
        if "base" in stored:  # config of a comparison
            continue
        try:
            if "optimizer" not in stored:
                raise UsageError("no config of a run")
            config = TrainConfig.from_mapping(stored)
        except UsageError:
            unreadable.append(file.parent.name)
            continue
        started = None
        with contextlib.suppress(ValueError):
            started = datetime.datetime.fromisoformat(str(read_object(file.parent / ENVIRONMENT).get("started")))
        status = str(read_object(file.parent / "summary.json").get("status", Status.UNFINISHED))
        aware = started if started is not None and started.tzinfo is not None else None
        found.append(_Run(file.parent, options_of_run(config), config.protocol, status, aware))
    return found, unreadable


def _by_digest(runs: Sequence[_Run], digest: str) -> list[str]:
    found = []
    for other in dict.fromkeys(run.digest for run in runs if run.digest != digest):
        some = [run for run in runs if run.digest == other]
        how = "without a protocol" if other is None else f"under another protocol, digest {other[:DIGITS]}"
        found.append(f"{_runs(some)} {'was' if len(some) == 1 else 'were'} done {how}")
    return found


def _runs(runs: Sequence[_Run]) -> str:
    names = [run.folder.name for run in runs]
    return f"{counted(len(runs), 'run')} ({', '.join(names if len(names) < 3 else [names[0], '...'])})"


def _key(options: dict[str, Any]) -> tuple[Any, ...]:
    default = {name: OPTIONS[name].default for name in ("batch_size", "seed")}
    return (options["arm"], *({**default, **options}[name] for name in default))


def _compared(planned: Planned, there: Sequence[_Run]) -> list[str]:
    """Return options that differ, and runs that are missing or were not planned.

    Runs are paired by arm, batch size and seed: first runs with equal options, then runs with the fewest differences.
    """
    wanted: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for options in planned.runs:
        wanted[_key(options)].append(options)
    more, differing = [], []
    for run in there:
        mine = wanted[_key(run.options)]
        at = next((one for one in mine if planned.searched or not _differences(one, run.options)), None)
        if at is None:
            differing.append(run)
        else:
            mine.remove(at)
    changes: Counter[tuple[str, str, str]] = Counter()
    for run in differing:
        mine = wanted[_key(run.options)]
        if not mine:
            more.append(run.options)
            continue
        nearest = min(mine, key=lambda one: len(_differences(one, run.options)))
        mine.remove(nearest)
        changes.update(
            (name, _said(name, run.options), _said(name, nearest)) for name in _differences(nearest, run.options)
        )
    missing = [one for some in wanted.values() for one in some]
    said = [
        f"{name} is {here} instead of {plan} in {counted(count, 'run')}"
        for (name, here, plan), count in changes.items()
    ]
    return [
        *_few(said),
        *_few(f"missing: {one}" for one in _grouped(missing)),
        *_few(f"not planned: {one}" for one in _grouped(more)),
    ]


def _differences(planned: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """Return the names of the options that differ; files of import paths and folders may have moved."""

    def equal(name: str) -> bool:
        values = [one.get(name, OPTIONS[name].default if name in OPTIONS else None) for one in (planned, there)]
        if all(isinstance(value, str) for value in values):
            return said_path(str(values[0])) == said_path(str(values[1])) or (name == "data" and same_name(*values))
        return canonical(values[0]) == canonical(values[1])

    return [name for name in {**planned, **there} if not equal(name)]


def _said(name: str, options: dict[str, Any]) -> str:
    value = options.get(name, OPTIONS[name].default if name in OPTIONS else None)
    return "the default" if value is None else said_path(str(value))


def _grouped(runs: Iterable[dict[str, Any]]) -> list[str]:
    """Return runs in words; runs that differ only in their seeds are joined."""
    seeds: dict[str, list[int]] = defaultdict(list)
    for options in runs:
        arm, batch_size, seed = _key(options)
        rate = f", lr {options['lr']:g}" if options.get("lr") is not None else ""
        steps = f", {options['steps']} steps" if options.get("steps") is not None else ""
        seeds[f"{arm}, batch size {batch_size}{rate}{steps}"].append(seed)
    return [
        f"{what}, seed{'s' * (len(some) > 1)} {listed(map(str, sorted(some)))}" for what, some in seeds.items() if some
    ]


def _few(said: Iterable[str]) -> list[str]:
    said = list(said)
    return said if len(said) <= MOST else [*said[:MOST], f"and {len(said) - MOST} more of this kind"]


def _declared(folder: Path, planned: Planned) -> list[str]:
    """Return values that the JSON files of a folder declare otherwise, and arms with more or fewer trials."""
    stored = {name: value for file in RECORDS for name, value in read_object(folder / file).items()}
    if not stored:
        return []
    found = [
        f"{name} is {_short(stored.get(name))} instead of {_short(value)}"
        for name, value in planned.declared.items()
        if canonical(stored.get(name)) != canonical(value)
    ]
    if not planned.trials:
        return found
    rounds = [one for one in stored.get("rounds", []) if isinstance(one, dict)]
    if len(rounds) > planned.widen:
        found.append(f"spaces were widened in {len(rounds)} rounds instead of at most {planned.widen}")
    trials = planned.trials + sum(int(one.get("trials", 0)) for one in rounds[: planned.widen])
    spent = _spent(folder / ARMS)
    if not spent:
        return [*found, f"{ARMS}, which has the trials of each arm, is missing or damaged"]
    return found + [f"{arm} had {had} trials instead of {trials}" for arm, had in spent.items() if had != trials]


def _spent(file: Path) -> dict[str, int]:
    """Return the number of trials of each arm, written before the runs with fresh seeds; {} if it cannot be read."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(file, file.parent))))
        return {row["arm"]: int(row["trials"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _short(value: Any) -> str:
    if value is None:
        return "the default"
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
