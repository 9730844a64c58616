"""Statistics of runs: means with intervals, and paired differences with their tests."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pandas as pd

from tvlars.lab.comparison.family import ALL, pairs_of
from tvlars.lab.comparison.pair import Pair, said_margin
from tvlars.lab.comparison.paired import LEVEL, fewest_seeds, holm, student
from tvlars.lab.run_folder.status import Status
from tvlars.lab.tasks import Measure

MEANS = ("train_loss", "test_loss", "images_per_second", "seconds")
COLUMNS = ("arm", "batch_size", "seed", "lr", "status", "test_accuracy", *MEANS, "test_images", "correct")
"""Columns of a frame of runs, one row per run. An arm is an optimizer, or an optimizer with certain settings.

A column ``metrics`` may have a dictionary of extra measures by name. ``test_images`` is the number of test images, and
``correct`` an array (test_images,) that is True for images that were classified correctly; both may be missing. Runs of
a user's task have their measure in ``value``, which takes the place of the accuracy, and in ``better`` "min" or "max".
"""
TABLE_COLUMNS = ("arm", "batch_size", "lr", "seeds", "of", "left_out", "accuracy", "interval", "accuracies", *MEANS)
PAIR_COLUMNS = (
    *("part", "batch_size", "better", "worse", "difference", "interval", "seeds", "of", "deviation", "effect_size"),
    *("in_family", "comparisons", "p_value", "p_adjusted", "significant"),
    *("margin", "equivalence_p_value", "equivalence_p_adjusted", "equivalent", "seeds_needed", "verdict"),
)
SIGNIFICANT, INCONCLUSIVE, OUTSIDE = "significant", "inconclusive", "outside the family"


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Return mean and half width of its 95 % interval by Student's t, which is NaN for fewer than three values."""
    series = pd.Series(values, dtype=float)
    mean, error = float(series.mean()), series.std() / math.sqrt(max(len(series), 1))
    return mean, student(mean, error, len(series) - 1)[0]


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per arm and batch size: mean test accuracy and its 95 % interval over seeds.

    Columns: arm, batch_size, lr, seeds (finished ones), of (all seeds), left_out (reasons for the rest, as in "1
    diverged"), accuracy and interval (half width, Student's t; NaN for fewer than three seeds), accuracies (each
    seed's), train_loss, test_loss, images_per_second, seconds (means), and NAME and NAME_interval for each extra
    measure. Batch sizes ascend; their arms are in the order in which they first appear.
    """
    runs = _with_values(runs)
    names = list(dict.fromkeys(name for one in _metrics_of(runs) for name in one))
    rows = []
    for (batch_size, arm), group in runs.groupby(["batch_size", "arm"], sort=False):
        finished = group[group["status"] == Status.FINISHED.value]
        done = finished.drop_duplicates("seed", keep="last")  # a repeated seed is not an independent run
        accuracies = done["value"].astype(float).tolist()
        means = [done[name].astype(float).mean() for name in MEANS]
        lost = group[~group["seed"].isin(done["seed"])].drop_duplicates("seed", keep="last")["status"]
        why = ", ".join(f"{count} {status}" for status, count in lost.value_counts().items())
        of = len(done) + len(lost), why
        extra = [mean_and_interval([one.get(name, math.nan) for one in _metrics_of(done)]) for name in names]
        row = (arm, batch_size, group["lr"].iloc[0], len(done), *of, *mean_and_interval(accuracies), accuracies, *means)
        rows.append((*row, *itertools.chain(*extra)))
    columns = [*TABLE_COLUMNS, *(column for name in names for column in (name, f"{name}_interval"))]
    return pd.DataFrame(rows, columns=columns).sort_values("batch_size", kind="stable", ignore_index=True)


def named_columns(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return a :func:`table` for users: for a task, the columns NAME, NAME_interval and NAME_seeds of its measure
    replace those of the accuracy."""
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
    """Return runs with the value by which they are compared: the accuracy, or the measure of a user's task."""
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


def differences(runs: pd.DataFrame, family: str = ALL, margin: float | None = None) -> pd.DataFrame:
    """Return the mean difference over common finished seeds, and its tests, for each pair of arms of a batch size.

    A difference is significant if neither the choice of seeds nor the choice of test images explains it. p_value is the
    larger p-value of two tests: the exact sign-flip test over seeds
    (:func:`tvlars.lab.comparison.paired.sign_flip_p`), and a t-test over test images (with McNemar's variance of the
    differences per image if predictions were kept, else the binomial variance of both arms). Two arms are equivalent if
    two one-sided t-tests, by seeds and by test images, show that their difference is within the margin. Both kinds of
    p-values are adjusted by Holm's method for all pairs of the family, and significance and equivalence are judged at
    5 %. Values of a user's task, which has no results per sample, are judged only by seeds.

    Args:
        runs: one row per run, with ``COLUMNS`` and optionally ``part``. Runs of different parts are not compared,
            but pairs of all parts count for Holm's method.
        family: pairs to test: "all", an arm to compare with each other arm, or pairs as in "a:b,a:c".
        margin: margin of equivalence, > 0: in points of accuracy, None (default) for 0.3; for a user's task in the unit
            of its measure, None for no test of equivalence.

    Returns:
        Columns of accuracies are fractions; columns of a user's task are in the unit of its measure.

        - part, batch_size, better, worse: the pair of arms.
        - difference: of the means over common seeds, >= 0; interval: half width of the wider of both 95 % intervals by
          Student's t, by seeds and by test images; NaN for fewer than three seeds.
        - seeds: number of common seeds; of: with those on which an arm diverged; deviation: standard deviation of the
          paired differences over common seeds.
        - effect_size: Hedges' g_z, see :func:`tvlars.lab.comparison.paired.effect_size`.
        - in_family: True if the pair is tested; comparisons: number of pairs in the family, including pairs of arms
          whose runs all diverged.
        - p_value, p_adjusted (Holm) and significant: the test of a difference.
        - margin, equivalence_p_value, equivalence_p_adjusted (Holm) and equivalent: the test of equivalence.
        - seeds_needed: number of seeds at which a true difference as large as the margin is found with a probability of
          80 % in a family of this size, infinite if test images are too few for it; NaN for fewer than three seeds, or
          without a margin.
        - verdict: "significant", "equivalent within 0.3 points", both, "inconclusive", or why there is no verdict.

        p-values are NaN outside the family, with fewer seeds than one comparison needs (six), and if the number of
        test images is unknown or 1.
    """
    rows: list[dict[str, Any]] = []
    over = _with_values(runs[(runs["status"] == Status.FINISHED.value) | (runs["status"] == Status.DIVERGED.value)])
    over = over.assign(part=over.get("part", 0))
    done = over[over["status"] == Status.FINISHED.value]
    done = done.drop_duplicates(["part", "arm", "batch_size", "seed"], keep="last").dropna(subset="value")
    count = 0
    for (part, batch_size), every in over.groupby(["part", "batch_size"], sort=True):
        declared = pairs_of(family, map(str, every["arm"]))
        count += len(declared)
        cell = done[(done["part"] == part) & (done["batch_size"] == batch_size)]
        arms = [(str(arm), group.set_index("seed")) for arm, group in cell.groupby("arm", sort=False)]
        of_task = bool(_of_task(cell).all())
        for (a, runs_a), (b, runs_b) in itertools.combinations(arms, 2):
            seeds = runs_a.index.intersection(runs_b.index, sort=True)
            if len(seeds):
                pair = Pair.of(runs_a.loc[seeds], runs_b.loc[seeds], margin, of_task)
                lower_wins = "better" in cell and bool((cell["better"] == "min").all())
                better, worse = (a, b) if (pair.mean >= 0) != lower_wins or not pair.mean else (b, a)
                of = every.loc[every["arm"].isin((a, b)), "seed"].nunique()
                head = {"part": part, "batch_size": batch_size, "better": better, "worse": worse, "of": of}
                within = {"in_family": frozenset((a, b)) in declared, **_UNTESTED}
                rows.append({**head, **pair.measured(), **within, "pair": pair})
    _judge([row for row in rows if row["in_family"]], count)
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS)).assign(comparisons=count)


_UNTESTED = {
    **dict.fromkeys(("p_value", "p_adjusted", "equivalence_p_value", "equivalence_p_adjusted"), math.nan),
    **{"significant": False, "equivalent": False, "seeds_needed": math.nan, "verdict": OUTSIDE},
}


def _judge(family: list[dict[str, Any]], count: int) -> None:
    """Add p-values, verdicts and seeds needed to the rows of a family of ``count`` pairs; pairs without a common seed,
    because all runs of an arm diverged, have no row."""
    absent = [math.nan] * (count - len(family))
    # Holm's method for the smallest possible p-values shows which pairs can be significant at all.
    least = holm([*(2.0 ** (1 - row["seeds"]) if row["pair"].known else 1.0 for row in family), *absent])
    tests = [(row["pair"].difference_p(), row["pair"].equivalence_p()) for row in family]
    both = (holm([*(p for p, _ in tests), *absent]), holm([*(q for _, q in tests), *absent]))
    for row, (p, q), p_adjusted, q_adjusted, possible in zip(family, tests, *both, least, strict=False):
        pair: Pair = row["pair"]
        significant, equivalent = bool(p_adjusted <= LEVEL), bool(q_adjusted <= LEVEL)
        row.update(p_value=p, p_adjusted=p_adjusted, significant=significant)
        row.update(equivalence_p_value=q, equivalence_p_adjusted=q_adjusted, equivalent=equivalent)
        row.update(seeds_needed=pair.seeds_needed(count))
        found = [SIGNIFICANT] if significant else []
        if equivalent:
            found.append(f"equivalent within {said_margin(pair.margin, pair.of_task)}")
        if not found and not pair.known:
            found = ["unknown number of test images" if pair.images is None else "one test image"]
        elif not found:
            found = [INCONCLUSIVE if possible <= LEVEL else f"fewer than {fewest_seeds(count)} seeds"]
        row["verdict"] = ", ".join(found)
