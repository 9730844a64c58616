"""Sharpness of arms at equal steps and at equal training losses: estimates, and a table of paired differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tvlars.lab.comparison.statistics import mean_and_interval
from tvlars.lab.report.arms import Arm, config_of
from tvlars.lab.report.tables.intervals import Intervals, over_seeds
from tvlars.lab.tasks import plus_minus

MEASURES = {
    "hessian_max": "λ₁",
    "hessian_max_at_initial_norm": "λ₁ at initial norms",
    "worst_case": "adaptive worst case",
}
"""Measures of the table, with their names on it."""


def measured(arms: list[Arm]) -> pd.DataFrame:
    """Return one row per arm, seed and moment ("step 7", "loss 0.5", "epoch 1"), with the columns of a
    ``SharpnessRow``; empty without measurements at a step or at a level of the loss.

    Runs that did not finish are left out; of several runs with the same seed, the last counts.
    """
    frames = [
        run.sharpness.assign(arm=arm.name, seed=config_of(run).seed, at=run.sharpness["at"].astype(str).str.split("; "))
        for arm in arms
        for run in arm.runs
        if run.complete and len(run.sharpness)
    ]
    rows = pd.concat(frames).explode("at", ignore_index=True) if frames else pd.DataFrame(columns=["at"])
    if not rows["at"].astype(str).str.match("step |loss ").any():
        return rows.iloc[:0]
    return rows.drop_duplicates(["arm", "seed", "at", "statistics"], keep="last")


def moments(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return moments with their statistics of batch norm, in the order of steps, epochs and falling losses."""
    found = rows[["at", "statistics"]].drop_duplicates()
    kinds = ("step", "epoch", "loss")

    def place(key: tuple[str, str]) -> tuple[int, float]:
        kind, _, number = key[0].partition(" ")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        return kinds.index(kind) if kind in kinds else len(kinds), -value if kind == "loss" else value

    return sorted(found.itertuples(index=False, name=None), key=place)


def intervals(arms: list[Arm]) -> list[Intervals]:
    """Return λ₁ of the arms at each moment: each run, and their geometric mean with its 95 % interval."""
    rows, found = measured(arms), []
    for key in moments(rows) if len(rows) else ():
        here = []
        for arm in arms:
            mine = _at(rows, key, arm.name)
            pairs = zip(mine["hessian_max"], mine["seed"], strict=True)
            seeds = [(float(value), f"seed {seed}") for value, seed in pairs]
            if seeds:
                here.append(over_seeds(arm.name, seeds, arm.color, ".3g", log=True))
        found.append(Intervals(f"{key[0]}, {key[1]} statistics", here, "λ₁", log=True))
    return found


def table(arms: list[Arm]) -> list[dict[str, Any]]:
    """Return the rows of the table: for each moment and arm, means ± half the width of their 95 % intervals, and the
    ratio of λ₁ to the first arm's λ₁, over common seeds."""
    rows = measured(arms)
    found = []
    for at, statistics in moments(rows) if len(rows) else ():
        first: pd.Series[float] | None = None
        for arm in arms:
            mine = _at(rows, (at, statistics), arm.name).set_index("seed")
            if not len(mine):
                continue
            positive = mine["hessian_max"].astype(float).where(mine["hessian_max"] > 0)
            logs = pd.Series(np.log(positive.to_numpy()), index=mine.index)
            ratio = ""
            if first is None:
                first = logs
            else:
                mean, half = mean_and_interval((logs - first).dropna().tolist())
                ratio = f"{np.exp(mean):.3g} ({np.exp(mean - half):.3g} to {np.exp(mean + half):.3g})"
                ratio = f"{np.exp(mean):.3g}" if np.isnan(half) else ratio
            row = {"at": at, "statistics": statistics, "arm": arm.name, "seeds": len(mine)}
            row |= {title: _mean(mine[name]) for name, title in {"step": "step", "loss": "loss", **MEASURES}.items()}
            found.append({**row, f"λ₁ to that of {arms[0].name}": ratio})
    return found


def _at(rows: pd.DataFrame, key: tuple[str, str], arm: str) -> pd.DataFrame:
    return rows[(rows["at"] == key[0]) & (rows["statistics"] == key[1]) & (rows["arm"] == arm)]


def _mean(values: pd.Series[float]) -> str:
    mean, half = mean_and_interval(values.dropna().astype(float).tolist())
    return "" if np.isnan(mean) else plus_minus(mean, half)
