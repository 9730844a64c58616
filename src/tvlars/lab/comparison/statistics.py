"""Statistics of runs: means with intervals, and differences that are significant or not."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from tvlars.lab.run_folder.status import Status
from tvlars.lab.tasks import Measure

MEANS = ("train_loss", "test_loss", "images_per_second", "seconds")
COLUMNS = ("arm", "batch_size", "seed", "lr", "status", "test_accuracy", *MEANS, "test_images", "correct")
"""Columns of a frame of runs, one row per run. An arm is an optimizer, or an optimizer with certain settings.

A column ``metrics`` may have a dictionary of extra measures by name. ``test_images`` is the number of test images, and
``correct`` an array (test_images,) that is True for images that were classified correctly; both may be missing. Runs of
a user's task have their measure in ``value``, which takes the place of the accuracy, and in ``better`` "min" or "max".
"""
TABLE_COLUMNS = ("arm", "batch_size", "lr", "seeds", "of", "accuracy", "interval", "accuracies", *MEANS)
PAIR_COLUMNS = (
    *("part", "batch_size", "better", "worse", "difference", "interval", "seeds"),
    *("p_value", "p_adjusted", "comparisons", "significant", "verdict"),
)
FEWEST_SEEDS = 3
"""Seeds that a verdict needs at least."""
LEVEL = 0.05
"""Family-wise error rate of all comparisons of a page."""


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Return mean and half width of its 95 % interval by Student's t, NaN if there are too few values."""
    series = pd.Series(values, dtype=float)
    mean, error = float(series.mean()), series.std() / math.sqrt(max(len(series), 1))
    return mean, _student(mean, error, len(series) - 1)[0]


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm and batch size: mean test accuracy and its 95 % interval over seeds.

    Columns: arm, batch_size, lr, seeds (finished ones), of (all seeds), accuracy and interval
    (half width, Student's t; NaN for one seed), accuracies (each seed's), train_loss, test_loss, images_per_second,
    seconds (means), and NAME and NAME_interval for each extra measure. Batch sizes ascend; their arms are in the order
    in which they first appear.
    """
    runs = _with_values(runs)
    names = list(dict.fromkeys(name for one in _metrics_of(runs) for name in one))
    rows = []
    for (batch_size, arm), group in runs.groupby(["batch_size", "arm"], sort=False):
        finished = group[group["status"] == Status.FINISHED.value]
        done = finished.drop_duplicates("seed", keep="last")  # a repeated seed is no independent run
        accuracies = done["value"].astype(float).tolist()
        means = [done[name].astype(float).mean() for name in MEANS]
        of = group["seed"].nunique()
        extra = [mean_and_interval([one.get(name, math.nan) for one in _metrics_of(done)]) for name in names]
        row = (arm, batch_size, group["lr"].iloc[0], len(done), of, *mean_and_interval(accuracies), accuracies, *means)
        rows.append((*row, *itertools.chain(*extra)))
    columns = [*TABLE_COLUMNS, *(column for name in names for column in (name, f"{name}_interval"))]
    return pd.DataFrame(rows, columns=columns).sort_values("batch_size", kind="stable", ignore_index=True)


def named_columns(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return a :func:`table` for users: of a task its measure has columns of its own name in place of the accuracy's,
    NAME, NAME_interval and NAME_seeds."""
    if not measure.of_task:
        return rows
    name = measure.column
    found = {"accuracy": name, "interval": f"{name}_interval", "accuracies": f"{name}_seeds"}
    return rows.drop(columns=[one for one in found.values() if one in rows]).rename(columns=found)


def metrics_in(rows: pd.DataFrame) -> list[str]:
    """Return the names of the extra measures in a :func:`table`."""
    return [name for name in map(str, rows) if name not in TABLE_COLUMNS and f"{name}_interval" in rows]


def _metrics_of(runs: pd.DataFrame) -> list[dict[str, float]]:
    """Return the extra measures of each run."""
    return [one for one in runs["metrics"] if isinstance(one, dict)] if "metrics" in runs else []


def _with_values(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with the value that they are compared by: the accuracy, or the measure of a user's task."""
    accuracies = runs["test_accuracy"].astype(float)
    values = accuracies if "value" not in runs else runs["value"].astype(float).where(_of_task(runs), accuracies)
    return runs.assign(value=values)


def _of_task(runs: pd.DataFrame) -> pd.Series[bool]:
    """Return True for each run of a user's task."""
    return runs["better"].notna() if "better" in runs else pd.Series(False, index=runs.index)


def best_arms(rows: pd.DataFrame, lower: bool = False) -> dict[int, str]:
    """Return the arm with the highest mean per batch size of a :func:`table`, or with the lowest if ``lower`` values
    are better; the first of equal ones."""
    known = rows[(rows["seeds"] > 0) & rows["accuracy"].notna()]
    means = known.groupby("batch_size")["accuracy"]
    best = known.loc[means.idxmin() if lower else means.idxmax()]
    return dict(zip(best["batch_size"].astype(int).tolist(), best["arm"].astype(str), strict=True))


def differences(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean difference in accuracy over common finished seeds, for each pair of arms of a batch size.

    A difference is significant if neither the choice of seeds (paired t-test) nor that of test images explains it
    (McNemar's variance of the differences per image if predictions were kept, else the binomial variance of both
    arms): the larger of both p-values, adjusted by Holm's method for all pairs of the frame, is at most 5 %. So seeds
    that all differ alike do not suffice. Nothing is significant with fewer than three seeds, or if the number of test
    images is unknown. Values of a user's task, of which samples are not known one by one, are judged by seeds alone.

    Args:
        runs: one row per run, with ``COLUMNS`` and optionally ``part``. Runs of different parts are not compared,
            but pairs of all parts count for Holm's method.

    Returns:
        Columns: part, batch_size, better, worse (arms), difference (>= 0), interval (half width of the wider of both
        95 % intervals; NaN for one seed), seeds, p_value, p_adjusted (NaN without a verdict), comparisons
        (pairs of the frame), significant, and verdict: "significant", "not significant", or why there is none.
    """
    rows: list[dict[str, Any]] = []
    done = _with_values(runs[runs["status"] == Status.FINISHED.value])
    done = done.assign(part=done.get("part", 0))
    done = done.drop_duplicates(["part", "arm", "batch_size", "seed"], keep="last").dropna(subset="value")
    for (part, batch_size), cell in done.groupby(["part", "batch_size"], sort=True):
        arms = [(str(arm), group.set_index("seed")) for arm, group in cell.groupby("arm", sort=False)]
        for (a, runs_a), (b, runs_b) in itertools.combinations(arms, 2):
            seeds = runs_a.index.intersection(runs_b.index, sort=True)
            if len(seeds):
                pair = _compare(runs_a.loc[seeds], runs_b.loc[seeds])
                higher = pair["difference"] >= 0
                lower_wins = "better" in cell and bool((cell["better"] == "min").all())
                better, worse = (a, b) if higher != lower_wins or not pair["difference"] else (b, a)
                pair["difference"] = abs(pair["difference"])
                rows.append({"part": part, "batch_size": batch_size, "better": better, "worse": worse, **pair})
    adjusted = holm([row["p_value"] for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        row.update(p_adjusted=p, comparisons=len(rows), significant=bool(p <= LEVEL))
        row["verdict"] = row["verdict"] or ("significant" if row["significant"] else "not significant")
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS))


def holm(p_values: list[float]) -> list[float]:
    """Return p-values adjusted for the family-wise error rate; NaN counts as a comparison and stays NaN.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    ascending = pd.Series(p_values, dtype=float).sort_values()  # NaN last
    adjusted = (ascending * np.arange(len(ascending), 0, -1)).clip(upper=1.0).cummax()
    return [float(p) for p in adjusted.sort_index()]


def _compare(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Any]:
    """Compare two arms over the same seeds: difference of the means, interval, and p-value or why there is none."""
    paired = a["value"] - b["value"]
    seeds, mean = len(paired), float(paired.mean())
    of_task = bool(_of_task(a).all())
    images = None if of_task else test_images_of(pd.concat([a, b]))
    found = [_student(mean, float(paired.std()) / math.sqrt(seeds), seeds - 1)]
    if images is not None and images > 1:
        found.append(_student(mean, _error_of_images(a, b, images), images - 1))
    intervals, p_values = zip(*found, strict=True)
    verdict = ""
    if seeds < FEWEST_SEEDS:
        verdict = f"fewer than {FEWEST_SEEDS} seeds"
    elif not of_task and (images is None or images < 2):
        verdict = "unknown number of test images" if images is None else "one test image"
    return {
        "difference": mean,
        "interval": float(np.max(intervals)),  # NaN if one of them is
        "seeds": seeds,
        "p_value": math.nan if verdict else max(p_values),
        "verdict": verdict,
    }


def _student(mean: float, error: float, degrees: int) -> tuple[float, float]:
    """Return half width of the 95 % interval of a mean, and the p-value of a true mean of 0, by Student's t."""
    from scipy import stats

    p = 1.0 if abs(mean) < 1e-12 else float(2 * stats.t.sf(abs(mean) / error, degrees)) if error > 0 else 0.0
    return float(stats.t.ppf(0.975, degrees) * error), p


def test_images_of(runs: pd.DataFrame) -> int | None:
    """Return the number of test images of all runs; None if it is unknown, or differs."""
    numbers = set(runs["test_images"].astype(float)) if "test_images" in runs else set()
    if len(numbers) != 1 or not math.isfinite(number := numbers.pop()) or number < 1:
        return None
    return int(number)


def _error_of_images(a: pd.DataFrame, b: pd.DataFrame, images: int) -> float:
    """Return the standard error of two arms' difference in mean accuracy that the choice of test images causes."""
    right_a, right_b = _predictions(a, images), _predictions(b, images)
    if right_a is not None and right_b is not None:
        # If the arms are equally good, each image's difference is as likely to have one sign as the other (McNemar).
        return math.sqrt(max(float(np.square(right_a - right_b).sum()), 1.0)) / images  # one image at least
    variance = 0.0
    # Assumes that all seeds fail on the same images; one more right and one more wrong keep it above 0.
    for arm in (a, b):
        rate = (float(arm["value"].mean()) * images + 1) / (images + 2)
        variance += rate * (1 - rate) / (images + 2)
    return math.sqrt(variance)


def _predictions(arm: pd.DataFrame, images: int) -> Any:
    """Return the fraction of an arm's runs that were right on each test image; None if a run lacks predictions."""
    kept = [one for one in arm.get("correct", []) if isinstance(one, np.ndarray) and one.shape == (images,)]
    return np.asarray(kept, dtype=float).mean(axis=0) if kept and len(kept) == len(arm) else None
