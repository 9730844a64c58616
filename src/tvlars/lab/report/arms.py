"""Which runs belong together: those that differ in nothing but batch size, seed and where they were written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from tvlars.lab.comparison.statistics import COLUMNS
from tvlars.lab.config import TrainConfig, names_of
from tvlars.lab.options import Is
from tvlars.lab.run_folder.loaded_run import LoadedRun

NO_SETTING = names_of(Is.AXIS | Is.MEASURED | Is.MEANS | Is.MACHINE | Is.SAME | Is.SETUP)
"""Options that do not make another arm of a run: varied by every comparison, or what sets its part or task apart."""
OKABE_ITO = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#999999")
"""Told apart by colour-blind readers, legible on light and on dark."""
OWN = {"tvlars": 0, "lars": 1, "lamb": 2, "sgd": 3, "adamw": 4}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px,2px", "2px,2px")


@dataclass(frozen=True)
class Arm:
    """What is compared: its name, its runs, and how it is drawn."""

    name: str
    runs: list[LoadedRun]
    color: str
    dash: str

    def at(self, batch_size: int) -> list[LoadedRun]:
        """Its runs at one batch size."""
        return [run for run in self.runs if batch_size_of(run) == batch_size]


def make_arms(runs: list[LoadedRun]) -> list[Arm]:
    """The arms of some runs, in the order in which they appear.

    An arm bears the optimizer's name; where one batch size has an optimizer in several settings, also what is set.
    """
    by_name: dict[str, list[LoadedRun]] = {}
    for run, name in zip(runs, _names(runs), strict=True):
        by_name.setdefault(name, []).append(run)
    places: dict[str, int] = {}  # the first arm of an optimizer has its colour, the others take what is left
    for name, mine in by_name.items():
        own = OWN.get(mine[0].config.optimizer) if mine[0].config else None
        if own is not None and own not in places.values():
            places[name] = own
    free = [place for place in range(len(OKABE_ITO)) if place not in places.values()]
    for i, name in enumerate(name for name in by_name if name not in places):
        places[name] = free[i] if i < len(free) else i % len(OKABE_ITO)
    return [Arm(name, mine, OKABE_ITO[places[name]], DASHES[places[name]]) for name, mine in by_name.items()]


def batch_size_of(run: LoadedRun) -> int:
    """Its batch size, 0 where the folder does not say."""
    return run.config.batch_size if run.config else 0


def frame_of(arms: list[Arm]) -> pd.DataFrame:
    """One row per complete run, with the columns that ``tvlars.lab.comparison.statistics`` wants."""
    rows = []
    for arm in arms:
        for run in arm.runs:
            last: Any = run.epochs.iloc[-1] if run.complete else None
            seconds = float(run.epochs["seconds"].sum()) if last is not None else 0.0
            images = float(last["step"]) * batch_size_of(run) if last is not None else 0.0
            rows.append(
                {
                    "arm": arm.name,
                    "batch_size": batch_size_of(run),
                    "seed": run.config.seed if run.config else -1,
                    "lr": plan_number(run, "lr"),
                    "status": run.status if run.complete or run.status != "finished" else "damaged",
                    "test_accuracy": None if last is None else run.test_accuracy,
                    "test_loss": None if last is None else float(last["test_loss"]),
                    "train_loss": None if last is None else float(last["train_loss"]),
                    "images_per_second": images / seconds if seconds > 0 else None,
                    "seconds": seconds if last is not None else None,
                    "test_images": None if last is None else run.test_images(),
                    "correct": None if last is None else run.test_correct(),
                    "folder": run.folder.name,
                }
            )
    return pd.DataFrame(rows, columns=[*COLUMNS, "folder"])


def plan_number(run: LoadedRun, name: str) -> float:
    """A number of a run's plan, NaN where it is missing or none."""
    value = run.plan.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")


def _names(runs: list[LoadedRun]) -> list[str]:
    """The arms' names: the optimizer, and in brackets what is set differently than in other runs beside it."""
    configs = [run.config for run in runs if run.config]
    task = _differing(configs, names_of(Is.SETUP))
    settings = [f.name for f in fields(TrainConfig) if f.name not in NO_SETTING]
    told_by: dict[str, list[str]] = {}
    for optimizer in {config.optimizer for config in configs}:
        cells: dict[int, list[TrainConfig]] = {}
        for config in configs:
            if config.optimizer == optimizer:
                cells.setdefault(config.batch_size, []).append(config)
        found = {name for cell in cells.values() for name in _differing(cell, settings)}
        # A rate that goes with another setting need not be named: the table has it.
        if all(_kinds(cell, found) == _kinds(cell, found - {"lr"}) for cell in cells.values()):
            found.discard("lr")
        told_by[optimizer] = [name for name in settings if name in found]
    defaults = {f.name: f.default for f in fields(TrainConfig)}
    names = []
    for run in runs:
        if run.config is None:
            names.append(run.folder.name)
            continue
        values = [(name, getattr(run.config, name)) for name in (*task, *told_by[run.config.optimizer])]
        said = [f"{n.replace('_', '-')} {_text(v)}" for n, v in values if n in task or v != defaults[n]]
        names.append(f"{run.config.optimizer} ({', '.join(said)})" if said else run.config.optimizer)
    return names


def _differing(configs: list[TrainConfig], names: Iterable[str]) -> list[str]:
    """Those of ``names`` that do not have one value in all configs."""
    return [name for name in names if _kinds(configs, [name]) > 1]


def _kinds(configs: list[TrainConfig], names: Iterable[str]) -> int:
    """How many combinations of values of ``names`` there are."""
    return len({repr([(name, getattr(config, name)) for name in sorted(names)]) for config in configs})


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value.name if isinstance(value, Path) else str(value)
