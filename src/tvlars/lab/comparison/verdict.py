"""Verdicts in sentences: arms with the best mean, and significant differences."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from tvlars.lab.comparison.statistics import FEWEST_SEEDS, best_arms
from tvlars.lab.tasks import Measure

ABOVE, BELOW = "significantly above {}", "significantly below {} on the seeds that both have"
LOWER = {ABOVE: "significantly below {}", BELOW: "significantly above {} on the seeds that both have"}
"""Words in their place where lower values are better."""
SAME, UNPAIRED = "no significant difference from {}", "no seed in common with {}"
FEW = f"no verdict on {{}} with fewer than {FEWEST_SEEDS} common seeds"
UNKNOWN = "no verdict on {}, since the number of test images is not known or is 1"
ORDER = (ABOVE, SAME, BELOW, FEW, UNKNOWN, UNPAIRED)
Pairs = dict[tuple[int, frozenset[str]], dict[Any, Any]]
"""Rows of :func:`tvlars.lab.comparison.statistics.differences` by batch size and the set of both arms."""


def answers(rows: pd.DataFrame, pairs: pd.DataFrame, measure: Measure | None = None) -> list[str]:
    """Return one sentence per batch size: the arms with the best mean, and their differences from others.

    Args:
        rows: a frame that :func:`tvlars.lab.comparison.statistics.table` made.
        pairs: the frame of :func:`tvlars.lab.comparison.statistics.differences` for the same runs.
        measure: what the means are of; None (default): the test accuracy.
    """
    measure = measure or Measure()
    done, between = rows[rows["seeds"] > 0], _by_arms(pairs)
    return [
        f"Batch size {size:,}: {_answer(done[done['batch_size'] == size], best, between, measure)}"
        for size, best in best_arms(rows, measure.lower).items()
    ]


def _answer(here: pd.DataFrame, best: str, pairs: Pairs, measure: Measure) -> str:
    """Return the result at one batch size."""
    rows = {str(row["arm"]): row for row in here.to_dict("records")}
    row, value = rows[best], f"{measure.text(rows[best]['accuracy'])}{measure.unit}"
    if len(rows) == 1:
        seeds = "one seed" if row["seeds"] == 1 else f"mean of {row['seeds']} seeds"
        has = f"a {measure.name} of {value}" if measure.of_task else f"{value} {measure.name}"
        return f"{best} has {has}{_part(row) or f' ({seeds})'}."
    named = {arm: f"{arm}{_part(other)}" for arm, other in rows.items()}
    equal = [arm for arm in rows if math.isclose(rows[arm]["accuracy"], row["accuracy"], rel_tol=1e-9)]
    said = f"{_and([named[arm] for arm in equal])} share the {measure.best} mean {measure.name}, {value}"
    if len(equal) == 1:
        said = f"{best} has the {measure.best} mean {measure.name}, {value}{_part(row)}"
    clauses, judged = [], []
    for number, leader in enumerate(equal, 1):
        relations: dict[str, list[str]] = {}
        for arm in rows:
            if arm not in equal[:number]:
                pair = pairs.get((row["batch_size"], frozenset((leader, arm))))
                relations.setdefault(_relation(leader, pair), []).append(arm if arm in equal else named[arm])
                if pair is not None and not math.isnan(pair["p_adjusted"]):
                    judged.append(pair)
        if relations:
            name = f"{leader}: " if len(equal) > 1 and len(rows) > 2 else ""
            said_as = LOWER if measure.lower else {}
            parts = [said_as.get(words, words).format(_and(relations[words])) for words in ORDER if words in relations]
            clauses.append(name + ", and ".join(parts))
    return f"{said}; {'; '.join(clauses)}{_basis(judged)}."


def _relation(arm: str, pair: dict[Any, Any] | None) -> str:
    """Return the words that relate ``arm`` to the other arm of the pair."""
    if pair is None:
        return UNPAIRED
    if math.isnan(pair["p_adjusted"]):
        return FEW if pair["seeds"] < FEWEST_SEEDS else UNKNOWN
    return (ABOVE if pair["better"] == arm else BELOW) if pair["significant"] else SAME


def _basis(judged: list[dict[Any, Any]]) -> str:
    """Return the basis of verdicts on pairs, as in " (3 seeds, Holm over 6 comparisons)"; "" if there is none."""
    if not judged:
        return ""
    seeds, count = [pair["seeds"] for pair in judged], judged[0]["comparisons"]
    low, high = min(seeds), max(seeds)
    number = f"{low} seeds" if low == high else f"{low} to {high} seeds"
    return f" ({number}, Holm over {count} comparisons)" if count > 1 else f" ({number}, one comparison)"


def _part(row: dict[Any, Any]) -> str:
    """Return the number of runs in an arm's mean, as in " (2 of 3 runs finished)"; "" if all finished."""
    return f" ({row['seeds']} of {row['of']} runs finished)" if row["seeds"] < row["of"] else ""


def beside_best(rows: pd.DataFrame, pairs: pd.DataFrame, measure: Measure | None = None) -> pd.DataFrame:
    """Compare each arm of ``rows`` with the one with the best mean at its batch size.

    Columns: difference (of the arm from the best), interval and p_adjusted, which may be NaN; and verdict, in words.
    """
    measure = measure or Measure()
    best, between, found = best_arms(rows, measure.lower), _by_arms(pairs), []
    for size, arm, seeds in zip(rows["batch_size"], rows["arm"], rows["seeds"], strict=True):
        first = best.get(size, "")
        pair = between.get((size, frozenset((arm, first))))
        if not seeds or not first:
            found.append({"verdict": "no result"})
        elif pair is None:
            found.append({"verdict": f"{measure.best} mean" if arm == first else "no seed in common"})
        else:
            sign = 1 if (pair["better"] == first) == measure.lower else -1
            found.append({**pair, "difference": sign * pair["difference"]})
    return pd.DataFrame(found, columns=["difference", "interval", "p_adjusted", "verdict"])


def with_verdicts(rows: pd.DataFrame, pairs: pd.DataFrame, measure: Measure | None = None) -> pd.DataFrame:
    """Return ``rows`` with each arm's against_best (difference from the best mean), p_adjusted and verdict."""
    beside = beside_best(rows, pairs, measure).set_index(rows.index)
    return rows.assign(against_best=beside["difference"], p_adjusted=beside["p_adjusted"], verdict=beside["verdict"])


def _by_arms(pairs: pd.DataFrame) -> Pairs:
    return {(pair["batch_size"], frozenset((pair["better"], pair["worse"]))): pair for pair in pairs.to_dict("records")}


def _and(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
