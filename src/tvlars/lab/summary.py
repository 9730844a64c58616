"""From single runs to what they show together: means with intervals, and differences paired over seeds."""

from __future__ import annotations

import itertools
import math

import pandas as pd

MEANS = ("train_loss", "test_loss", "images_per_second", "seconds")
COLUMNS = ("arm", "batch_size", "seed", "lr", "status", "test_accuracy", *MEANS)
"""What a frame of runs has, a row a run. An arm is what is compared: an optimizer, or one in a certain setting."""


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; NaN where there are too few values."""
    from scipy import stats

    if not values:
        return float("nan"), float("nan")
    series = pd.Series(values, dtype=float)
    if len(series) < 2:
        return float(series.mean()), float("nan")
    half = stats.t.ppf(0.975, len(series) - 1) * series.sem()
    return float(series.mean()), float(half)


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each arm and batch size: mean test accuracy and its 95 % interval over seeds.

    Columns: arm, batch_size, lr, seeds (how many finished), of (how many there were to be), accuracy and interval
    (half width, Student's t; NaN for one seed), accuracies (each seed's), train_loss, test_loss, images_per_second,
    seconds (means).
    """
    rows = []
    for (batch_size, arm), group in _cells(runs):
        done = group[group["status"] == "finished"].astype({"test_accuracy": float})
        done = done.drop_duplicates("seed", keep="last")  # the same seed again is no independent run
        mean, interval = mean_and_interval(done["test_accuracy"].tolist())
        rows.append(
            {
                "arm": arm,
                "batch_size": batch_size,
                "lr": group["lr"].iloc[0],
                "seeds": len(done),
                "of": group["seed"].nunique(),
                "accuracy": mean,
                "interval": interval,
                "accuracies": done["test_accuracy"].tolist(),
                **{name: done[name].astype(float).mean() for name in MEANS},
            }
        )
    return pd.DataFrame(rows)


def differences(runs: pd.DataFrame) -> pd.DataFrame:
    """For each batch size and pair of arms, the mean difference in test accuracy over the seeds that both finished.

    Columns: batch_size, better, worse (arms), difference (>= 0), interval (half width, Student's t; NaN for one
    seed), seeds, and clear: whether the interval leaves 0 out, so that the difference is larger than noise.
    """
    rows = []
    done = runs[runs["status"] == "finished"].drop_duplicates(["arm", "batch_size", "seed"], keep="last")
    for batch_size, group in done.groupby("batch_size", sort=True):
        wide = group.pivot_table("test_accuracy", "seed", "arm", sort=False)
        for a, b in itertools.combinations(wide.columns, 2):
            paired = (wide[a] - wide[b]).dropna()
            if paired.empty:
                continue
            if paired.mean() < 0:
                a, b, paired = b, a, -paired
            mean, interval = mean_and_interval(paired.tolist())
            rows.append(
                {
                    "batch_size": batch_size,
                    "better": a,
                    "worse": b,
                    "difference": mean,
                    "interval": interval,
                    "seeds": len(paired),
                    "clear": bool(mean > interval),
                }
            )
    return pd.DataFrame(
        rows, columns=["batch_size", "better", "worse", "difference", "interval", "seeds", "clear"]
    ).reset_index(drop=True)


def best_arms(rows: pd.DataFrame) -> dict[int, str]:
    """The arm with the highest mean at each batch size, of a frame that :func:`table` made."""
    best: dict[int, str] = {}
    highest: dict[int, float] = {}
    for row in rows.to_dict("records"):
        size = int(row["batch_size"])
        if row["seeds"] and row["accuracy"] > highest.get(size, -1.0):
            best[size], highest[size] = str(row["arm"]), row["accuracy"]
    return best


def percent(mean: float, interval: float) -> str:
    """``90.12 ± 0.34 %``; without an interval where there is only one seed."""
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.2f} %" if math.isnan(interval) else f"{100 * mean:.2f} ± {100 * interval:.2f} %"


def _cells(runs: pd.DataFrame) -> list[tuple[tuple[int, str], pd.DataFrame]]:
    """Runs by batch size, ascending, and arm, in the order in which arms first appear."""
    keys = dict.fromkeys(zip(runs["batch_size"].astype(int), runs["arm"].astype(str), strict=True))
    return [
        ((size, arm), runs[(runs["batch_size"] == size) & (runs["arm"] == arm)])
        for size, arm in sorted(keys, key=lambda key: key[0])
    ]
