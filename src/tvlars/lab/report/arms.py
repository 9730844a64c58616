"""Which runs belong together: those that differ in nothing but batch size, seed and where they were written."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from tvlars.lab.config import TrainConfig
from tvlars.lab.run_folder import LoadedRun
from tvlars.lab.summary import COLUMNS

NO_SETTING = (
    *("optimizer", "batch_size", "seed", "out", "data_dir", "tensorboard", "compile", "accelerator"),
    *("micro_batch_size", "layer_stats", "sharpness", "sharpness_samples", "noise_scale"),
)
"""Options that do not make another arm of a run."""
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
    """A row a run, with the columns that ``tvlars.lab.summary`` wants."""
    rows = []
    for arm in arms:
        for run in arm.runs:
            last: Any = run.epochs.iloc[-1] if len(run.epochs) else None
            seconds = float(run.epochs["seconds"].sum()) if last is not None else None
            batch_size = batch_size_of(run)
            rows.append(
                {
                    "arm": arm.name,
                    "batch_size": batch_size,
                    "seed": run.config.seed if run.config else -1,
                    "lr": float(run.plan.get("lr", "nan")),
                    "status": run.status,
                    "test_accuracy": None if last is None else float(last["test_accuracy"]),
                    "test_loss": None if last is None else float(last["test_loss"]),
                    "train_loss": None if last is None else float(last["train_loss"]),
                    "images_per_second": None if not seconds else float(last["step"]) * batch_size / seconds,
                    "seconds": seconds,
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _names(runs: list[LoadedRun]) -> list[str]:
    settings = [f.name for f in fields(TrainConfig) if f.name not in NO_SETTING]
    differing: dict[str, list[str]] = {}
    configs = [run.config for run in runs if run.config]
    for optimizer in {config.optimizer for config in configs}:
        found: dict[str, None] = {}
        for batch_size in {config.batch_size for config in configs}:
            here = [c for c in configs if (c.optimizer, c.batch_size) == (optimizer, batch_size)]
            found.update({name: None for name in settings if len({repr(getattr(c, name)) for c in here}) > 1})
        differing[optimizer] = [name for name in settings if name in found]
    names = []
    for run in runs:
        config = run.config
        if config is None:
            names.append(run.folder.name)
            continue
        set_ = [
            f"{name.replace('_', '-')} {_text(getattr(config, name))}"
            for name in differing[config.optimizer]
            if getattr(config, name) != next(f.default for f in fields(TrainConfig) if f.name == name)
        ]
        names.append(f"{config.optimizer} ({', '.join(set_)})" if set_ else config.optimizer)
    return names


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value.name if isinstance(value, Path) else str(value)
