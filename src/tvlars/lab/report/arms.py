"""Arms of a report: runs that differ only in batch size, seed and folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tvlars.lab.comparison.colors import colors_of
from tvlars.lab.comparison.statistics import COLUMNS
from tvlars.lab.config import TrainConfig, names_of
from tvlars.lab.imported import said_path
from tvlars.lab.options import Is
from tvlars.lab.run_folder.identity import changed
from tvlars.lab.run_folder.loaded_run import LoadedRun
from tvlars.lab.run_folder.status import Status

NO_SETTING = names_of(Is.AXIS | Is.MEASURED | Is.MEANS | Is.MACHINE | Is.SAME | Is.SETUP)
"""Options that do not distinguish arms, since every comparison varies them, or they distinguish parts of a report."""


@dataclass(frozen=True)
class Arm:
    """Runs that are compared as one arm, with a name, a colour and a dash."""

    name: str
    runs: list[LoadedRun]
    color: str
    dash: str
    """Dash of curves that may coincide."""
    line: str = "solid"
    """Dash of all other curves; not solid if another arm has the same colour."""

    def at(self, batch_size: int) -> list[LoadedRun]:
        """Return the runs at one batch size."""
        return [run for run in self.runs if config_of(run).batch_size == batch_size]


def make_arms(runs: list[LoadedRun]) -> list[Arm]:
    """Return the arms of some runs, in the order in which they appear.

    An arm has the optimizer's name; if a batch size has several settings of the optimizer, also the settings. Runs of
    the same options with other plans, from a time of other defaults, are arms of their own.
    """
    by_name: dict[str, list[LoadedRun]] = {}
    first: dict[tuple[str, int], LoadedRun] = {}
    for run, name in zip(runs, arm_names([config_of(run) for run in runs]), strict=True):
        found = changed(first.setdefault((name, config_of(run).batch_size), run).plan, run.plan)
        said = ", ".join(f"{key.replace('_', '-')} {_text(here, key, [])}" for key, (_, here) in found.items())
        by_name.setdefault(f"{name} (plan with {said})" if said else name, []).append(run)
    return colored([Arm(name, mine, "", "") for name, mine in by_name.items()])


def colored(arms: Sequence[Arm]) -> list[Arm]:
    """Return arms with colours and dashes, equal for arms of the same name."""
    colors = colors_of({arm.name: config_of(arm.runs[0]).optimizer for arm in arms})
    seen: dict[str, int] = {}
    for name, (color, _) in colors.items():
        seen[name] = sum(colors[other][0] == color for other in seen)
    lines = {name: colors[name][1] if times else "solid" for name, times in seen.items()}
    return [replace(arm, color=colors[arm.name][0], dash=colors[arm.name][1], line=lines[arm.name]) for arm in arms]


def config_of(run: LoadedRun) -> TrainConfig:
    """Return the options of a run of an arm, which always has them."""
    assert run.config is not None
    return run.config


def frame_of(arms: list[Arm]) -> pd.DataFrame:
    """Return one row per run with ``COLUMNS`` of the statistics; only complete runs have results."""
    rows = []
    for arm in arms:
        for run in arm.runs:
            config = config_of(run)
            row = {
                "arm": arm.name,
                "batch_size": config.batch_size,
                "seed": config.seed,
                "lr": plan_number(run, "lr"),
                "status": run.status if run.complete or run.status != Status.FINISHED else "damaged",
                "folder": run.folder.name,
            }
            if run.complete:
                measured = measured_in(run) | {"test_accuracy": run.accuracy}  # the reported one
                row |= measured | {"test_images": run.tested_images(), "correct": run.test_correct()}
                row |= {"value": run.value, "better": run.measure.better}
            rows.append(row)
    return pd.DataFrame(rows, columns=[*COLUMNS, "metrics", "folder", "value", "better"])


def measured_in(run: LoadedRun) -> dict[str, Any]:
    """Return measurements of a complete run: final accuracy and losses, time without tests, and ``metrics``, the extra
    measures of the same split as the accuracy."""
    last, split = run.epochs.iloc[-1], "test" if config_of(run).test else "validation"
    return {
        "metrics": {name: value for name, value in run.metrics.items() if name.startswith(split)},
        "test_accuracy": run.test_accuracy,
        "test_loss": math.nan if run.test_loss is None else run.test_loss,
        "train_loss": float(last["train_loss"]),
        "images_per_second": images_per_second(run),
        "seconds": float(run.epochs["seconds"].sum()),
        "validation_accuracy": run.validation_accuracy,
    }


def images_per_second(run: LoadedRun) -> float:
    """Return the speed of training without tests; NaN if it is unknown."""
    seconds = float(run.epochs["seconds"].sum()) if run.complete else 0.0
    return float(run.epochs["step"].iloc[-1]) * config_of(run).batch_size / seconds if seconds > 0 else float("nan")


def plan_number(run: LoadedRun, name: str) -> float:
    """Return a number of a run's plan; NaN if it is missing or not a number."""
    value = run.plan.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")


def steps_per_epoch(run: LoadedRun) -> float:
    """Return optimizer steps per epoch from the plan or, if it is missing, from the record."""
    planned = plan_number(run, "steps_per_epoch")
    if planned > 0:
        return planned
    first = run.epochs.iloc[0] if len(run.epochs) else {"step": 1, "epoch": 1}
    return max(float(first["step"]) / float(first["epoch"]), 1.0)


def arm_names(configs: list[TrainConfig]) -> list[str]:
    """Return the arms' names: as given, or the optimizer's; in brackets, settings that differ from other runs."""
    defaults = {f.name: f.default for f in fields(TrainConfig)}
    texts = pd.DataFrame([{name: repr(getattr(config, name)) for name in defaults} for config in configs])
    setup = [name for name in names_of(Is.SETUP) if texts[name].nunique() > 1]
    told: dict[str, list[str]] = {}
    for key, mine in texts.groupby(pd.Series([config.arm_name for config in configs])):
        cells = [cell for _, cell in mine.groupby("batch_size")]
        found = [n for n in defaults if n not in NO_SETTING and any(cell[n].nunique() > 1 for cell in cells)]
        others = [name for name in found if name != "lr"]
        # A rate that always changes with another setting is not named, since the table has it.
        told[str(key)] = others if all(_kinds(cell[found]) == _kinds(cell[others]) for cell in cells) else found
    names = []
    for config in configs:
        head = config.arm_name
        names_said = told[head] if config.arm else [*setup, *told[head]]  # a given name implies the rest
        values = [(name, getattr(config, name)) for name in names_said]
        said = [f"{n.replace('_', '-')} {_text(v, n, configs)}" for n, v in values if n in setup or v != defaults[n]]
        names.append(f"{head} ({', '.join(said)})" if said else head)
    return names


def _kinds(rows: pd.DataFrame) -> int:
    return len(set(map(tuple, rows.to_numpy())))


def _text(value: object, name: str, configs: list[TrainConfig]) -> str:
    """Return a value of an option as text; files without their folder, unless other files have the same name."""
    if isinstance(value, float):
        return f"{value:g}"
    short = _short(value)
    alike = {value for value in (getattr(config, name) for config in configs) if _short(value) == short}
    return short if len(alike) == 1 else str(value)


def _short(value: object) -> str:
    return value.name if isinstance(value, Path) else said_path(str(value))
