"""From single runs to what they show together: means with intervals, and differences that are significant or not."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

MEANS = ("train_loss", "test_loss", "images_per_second", "seconds")
COLUMNS = ("arm", "batch_size", "seed", "lr", "status", "test_accuracy", *MEANS, "test_images", "correct")
"""Columns of a frame of runs, one row per run. An arm is what is compared: an optimizer, or one in a certain setting.

``test_images`` is their number, and ``correct`` an array (test_images,) that says which were classified right; both may
be missing.
"""
PAIR_COLUMNS = (
    *("part", "batch_size", "better", "worse", "difference", "interval", "seeds"),
    *("p_value", "p_adjusted", "comparisons", "significant", "verdict"),
)
FEWEST_SEEDS = 3
"""No verdict is given on fewer."""
LEVEL = 0.05
"""Chance of a false alarm among all comparisons of a page."""


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
    """For each pair of arms of one batch size, the mean difference in accuracy over the seeds that both finished.

    A difference is significant where it is neither by chance of the seeds (paired t-test over them) nor by chance of
    the test images (McNemar's variance of the differences per image where predictions were kept, the binomial one of
    both arms otherwise): the larger of both p-values, adjusted by Holm's method for all pairs of the frame, is at most
    5 %. So seeds that differ alike are no certainty. Nothing is significant with fewer than three seeds, or where the
    number of test images is not known.

    Args:
        runs: a row for each run, with ``COLUMNS``. Runs of another ``part`` (optional) are not compared with each
            other; pairs of all parts count for Holm's method.

    Returns:
        Columns: part, batch_size, better, worse (arms), difference (>= 0), interval (half width of the wider of both
        95 % intervals; NaN for one seed), seeds, p_value, p_adjusted (NaN where there is no verdict), comparisons
        (pairs of the frame), significant, and verdict: why there is none, or "significant", "not significant".
    """
    rows: list[dict[str, Any]] = []
    done = runs[runs["status"] == "finished"]
    done = done.assign(part=done.get("part", 0))
    done = done.drop_duplicates(["part", "arm", "batch_size", "seed"], keep="last")
    done = done[done["test_accuracy"].astype(float).notna()]
    for (part, batch_size), cell in done.groupby(["part", "batch_size"], sort=True):
        by_arm = {str(arm): group.set_index("seed") for arm, group in cell.groupby("arm", sort=False)}
        for a, b in itertools.combinations(by_arm, 2):
            seeds = by_arm[a].index.intersection(by_arm[b].index, sort=True)
            if len(seeds):
                pair = _compare(by_arm[a].loc[seeds], by_arm[b].loc[seeds])
                names = {"better": a, "worse": b} if pair["difference"] >= 0 else {"better": b, "worse": a}
                pair["difference"] = abs(pair["difference"])
                rows.append({"part": part, "batch_size": batch_size, **names, **pair})
    adjusted = holm([row["p_value"] for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        row.update(p_adjusted=p, comparisons=len(rows), significant=bool(p <= LEVEL))
        if not row["verdict"]:
            row["verdict"] = "significant" if row["significant"] else "not significant"
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS))


def _compare(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Any]:
    """Two arms over the same seeds: difference of the means, its interval and p-value, and why there is none."""
    from scipy import stats

    paired = (a["test_accuracy"].astype(float) - b["test_accuracy"].astype(float)).to_numpy()
    seeds, mean = len(paired), float(paired.mean())
    of_seeds = float(paired.std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else math.nan
    half = float(stats.t.ppf(0.975, seeds - 1)) * of_seeds if seeds > 1 else math.nan
    found = {"difference": mean, "interval": half, "seeds": seeds, "p_value": math.nan, "verdict": ""}
    images = test_images_of(pd.concat([a, b]))
    if images is not None:
        of_images = _error_of_images(a, b, images)
        found["interval"] = max(half, float(stats.t.ppf(0.975, images - 1)) * of_images) if images > 1 else half
    if seeds < FEWEST_SEEDS:
        return {**found, "verdict": f"fewer than {FEWEST_SEEDS} seeds"}
    if images is None or images < 2:
        return {**found, "verdict": "unknown number of test images" if images is None else "one test image"}
    errors = ((of_seeds, seeds - 1), (of_images, images - 1))
    return {**found, "p_value": max(_two_sided(mean, error, degrees) for error, degrees in errors)}


def _two_sided(mean: float, error: float, degrees: int) -> float:
    """The p-value of a mean that is 0 in truth."""
    from scipy import stats

    if abs(mean) < 1e-12:
        return 1.0
    return float(2 * stats.t.sf(abs(mean) / error, degrees)) if error > 0 else 0.0


def test_images_of(runs: pd.DataFrame) -> int | None:
    """The number of test images that all runs had; None where it is not known, or not the same."""
    numbers = set(runs["test_images"].astype(float)) if "test_images" in runs else set()
    if len(numbers) != 1 or not math.isfinite(number := numbers.pop()) or number < 1:
        return None
    return int(number)


def _error_of_images(a: pd.DataFrame, b: pd.DataFrame, images: int) -> float:
    """Standard error, by the choice of the test images, of the difference between two arms' mean accuracies."""
    kept = [_predictions(arm, images) for arm in (a, b)]
    if kept[0] is not None and kept[1] is not None:
        # If the arms are equally good, each image's difference is as likely to have one sign as the other (McNemar).
        return math.sqrt(max(float(np.square(kept[0] - kept[1]).sum()), 1.0)) / images  # one image at least
    variance = 0.0
    for arm in (a, b):  # as if all seeds failed on the same images; one more right and one more wrong, so never 0
        rate = (float(arm["test_accuracy"].astype(float).mean()) * images + 1) / (images + 2)
        variance += rate * (1 - rate) / (images + 2)
    return math.sqrt(variance)


def _predictions(arm: pd.DataFrame, images: int) -> Any:
    """For each test image how many of an arm's runs were right, a fraction; None where not all runs say so."""
    kept = [one for one in arm.get("correct", []) if isinstance(one, np.ndarray) and one.shape == (images,)]
    return np.asarray(kept, dtype=float).mean(axis=0) if kept and len(kept) == len(arm) else None


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted so that the chance of any false alarm among all is kept; NaN counts, and stays NaN.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = largest
    return adjusted


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
