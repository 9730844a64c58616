"""Steps, samples and time until each arm reaches a target: an error, or a value of a task's measure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tvlars.lab.report.arms import Arm, config_of
from tvlars.lab.run_folder.loaded_run import LoadedRun
from tvlars.lab.run_folder.status import Status
from tvlars.lab.tasks import Measure

ERRORS = tuple(digit * 10.0**power for power in (-1, -2, -3, -4) for digit in (5, 4, 3, 2, 1.5, 1))
"""Possible target errors: round numbers in descending order."""
SHARES = (0.5, 0.8, 0.95)
"""Targets of a task's measure: shares of the way from the first to the best value."""
MOST = 3


@dataclass(frozen=True)
class Target:
    """A target in words and, for each arm with values, how soon its seeds reach the target."""

    name: str
    rows: list[dict[str, str]]


def targets(arms: Sequence[Arm], column: str, measure: Measure) -> list[Target]:
    """Return the hardest targets that the median seed of an arm reaches, the hardest one last.

    Arms are at one batch size. ``column`` is the column of ``LoadedRun.epochs`` with the values of ``measure``.
    A value is reached at the end of the first evaluated epoch with it. Only finished and diverged runs count.
    """
    over = {arm.name: [run for run in arm.runs if run.complete or run.status == Status.DIVERGED] for arm in arms}
    curves = {arm: [one for run in runs for one in _curve(run, column, measure)] for arm, runs in over.items()}
    curves = {name: mine for name, mine in curves.items() if mine}
    found = []
    for level, name in _levels([one for mine in curves.values() for one in mine], measure):
        reached = {arm: [_first(one, level) for one in mine] for arm, mine in curves.items()}
        if any(math.isfinite(np.median([row["step"] for row in mine])) for mine in reached.values()):
            found.append(Target(name, [_row(arm, mine) for arm, mine in reached.items()]))
    return found[-MOST:]


def _curve(run: LoadedRun, column: str, measure: Measure) -> Iterator[pd.DataFrame]:
    """Yield a run's value, transformed so that larger is better, with step, samples and seconds at the end of each
    epoch; nothing for a run that finished without values."""
    if column in run.epochs and (run.epochs[column].notna().any() or not run.complete):
        values = run.epochs[column].astype(float) * (-1 if measure.lower else 1)
        steps = run.epochs["step"].astype(float)
        columns = {"value": values, "step": steps, "samples": steps * config_of(run).batch_size}
        yield pd.DataFrame({**columns, "seconds": run.epochs["seconds"].astype(float).cumsum()})


def _levels(curves: Sequence[pd.DataFrame], measure: Measure) -> Iterator[tuple[float, str]]:
    """Yield targets with their names, easy ones first, as values transformed so that larger is better."""
    if not measure.of_task:
        yield from ((1 - error, f"{100 * error:.4g} % error") for error in ERRORS)
    elif whole := [one["value"].dropna() for one in curves if one["value"].notna().any()]:
        ends = zip(*((one.iloc[0], one.max()) for one in whole), strict=True)
        first, best = (float(np.median(values)) for values in ends)
        for share in SHARES:
            level = float(f"{first + share * (best - first):.3g}")
            if math.isfinite(level) and best > first:
                yield level, f"{measure.name.partition(' ')[2]} {-level if measure.lower else level:.4g}"


def _first(curve: pd.DataFrame, level: float) -> dict[str, float]:
    """Return step, samples and seconds at which a curve first reaches a level; infinite if it never does."""
    there = curve[curve["value"] >= level - 1e-9]
    columns = ("step", "samples", "seconds")
    return {name: float(there[name].iloc[0]) if len(there) else math.inf for name in columns}


def _row(arm: str, seeds: list[dict[str, float]]) -> dict[str, str]:
    reached = sum(math.isfinite(one["step"]) for one in seeds)
    forms = {"steps": ("step", ",.0f"), "samples": ("samples", ",.0f"), "training time": ("seconds", "")}
    said = {title: _median([one[name] for one in seeds], form) for title, (name, form) in forms.items()}
    lost = f"{len(seeds) - reached} of {len(seeds)} seeds"
    if 0 < reached < len(seeds):
        never = said["steps"] == "not reached"
        said["steps"] = f"not reached by {lost}" if never else f"{said['steps']}; {lost} never reached it"
    return {"arm": arm, **said, "seeds that reach it": f"{reached} of {len(seeds)}"}


def _median(values: list[float], form: str) -> str:
    middle, known = float(np.median(values)), [value for value in values if math.isfinite(value)]
    if not math.isfinite(middle):
        return "not reached"
    text = (lambda value: format(value, form)) if form else said_time
    low, high = text(min(known)), text(max(known))
    return text(middle) + (f" ({low} to {high})" if low != high else "")


def said_time(seconds: float) -> str:
    """Return a duration in one unit, as in "4.2 s", "12.5 min" or "3.1 h"."""
    size, unit = next((pair for pair in ((3600.0, "h"), (60.0, "min")) if seconds >= 2 * pair[0]), (1.0, "s"))
    return f"{seconds / size:.3g} {unit}"
