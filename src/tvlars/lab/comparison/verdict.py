"""Sentences on a table of runs: which arms have the highest mean, and which differences are significant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tvlars.lab.comparison.statistics import FEWEST_SEEDS, best_arms

ABOVE, BELOW = "significantly above {}", "significantly below {} on the seeds that both have"
SAME, UNPAIRED = "no significant difference from {}", "no seed in common with {}"
FEW = f"no verdict on {{}} with fewer than {FEWEST_SEEDS} common seeds"
UNKNOWN = "no verdict on {}, since the number of test images is not known or is 1"
ORDER = (ABOVE, SAME, BELOW, FEW, UNKNOWN, UNPAIRED)


def answers(rows: pd.DataFrame, pairs: pd.DataFrame, measure: str = "test accuracy") -> list[str]:
    """The result in a sentence for each batch size: which arms have the highest mean, and from which they differ.

    Args:
        rows: a frame that :func:`tvlars.lab.comparison.statistics.table` made.
        pairs: that of :func:`tvlars.lab.comparison.statistics.differences` for the same runs.
        measure: name of the accuracy.
    """
    done = rows[rows["seeds"] > 0].to_dict("records")
    return [
        f"Batch size {size:,}: "
        + _answer({str(row["arm"]): row for row in done if row["batch_size"] == size}, best, pairs, measure)
        for size, best in best_arms(rows).items()
    ]


def _answer(rows: dict[str, dict[Any, Any]], best: str, pairs: pd.DataFrame, measure: str) -> str:
    """The result at one batch size, of the rows of its arms by name."""
    row, highest = rows[best], f"{100 * rows[best]['accuracy']:.2f} %"
    if len(rows) == 1:
        seeds = "one seed" if row["seeds"] == 1 else f"mean of {row['seeds']} seeds"
        return f"{best} has {highest} {measure}{_part(row) or f' ({seeds})'}."
    named = {arm: f"{arm}{_part(other)}" for arm, other in rows.items()}
    equal = [arm for arm in rows if math.isclose(rows[arm]["accuracy"], row["accuracy"], rel_tol=1e-9)]
    said = f"{_and([named[arm] for arm in equal])} share the highest mean {measure}, {highest}"
    if len(equal) == 1:
        said = f"{best} has the highest mean {measure}, {highest}{_part(row)}"
    clauses, seeds_of = [], []
    for number, leader in enumerate(equal, 1):
        relations: dict[str, list[str]] = {}
        for arm in rows:
            if arm not in equal[:number]:
                pair = _between(row["batch_size"], leader, arm, pairs)
                relations.setdefault(_relation(leader, pair), []).append(arm if arm in equal else named[arm])
                if pair is not None and not math.isnan(pair["p_adjusted"]):
                    seeds_of.append(int(pair["seeds"]))
        if relations:
            name = f"{leader}: " if len(equal) > 1 and len(rows) > 2 else ""
            parts = [words.format(_and(relations[words])) for words in ORDER if words in relations]
            clauses.append(name + ", and ".join(parts))
    return f"{said}; {'; '.join(clauses)}{_basis(seeds_of, pairs)}."


def _relation(arm: str, pair: dict[Any, Any] | None) -> str:
    """Which of the sentences on two arms holds of ``arm``, the first of them."""
    if pair is None:
        return UNPAIRED
    if math.isnan(pair["p_adjusted"]):
        return FEW if pair["seeds"] < FEWEST_SEEDS else UNKNOWN
    return (ABOVE if pair["better"] == arm else BELOW) if pair["significant"] else SAME


def _basis(seeds: list[int], pairs: pd.DataFrame) -> str:
    """On what verdicts rest, " (3 seeds, Holm over 6 comparisons)"; "" where there is none."""
    if not seeds:
        return ""
    low, high, count = min(seeds), max(seeds), int(pairs["comparisons"].iloc[0])
    number = f"{low} seeds" if low == high else f"{low} to {high} seeds"
    return f" ({number}, Holm over {count} comparisons)" if count > 1 else f" ({number}, one comparison)"


def _part(row: dict[Any, Any]) -> str:
    """How many of an arm's runs its mean is of, " (2 of 3 runs finished)"; "" where all finished."""
    return f" ({row['seeds']} of {row['of']} runs finished)" if row["seeds"] < row["of"] else ""


@dataclass(frozen=True)
class Beside:
    """An arm beside the one with the highest mean; ``difference`` and ``p`` are NaN where there is none."""

    verdict: str
    difference: float = math.nan
    interval: float = math.nan
    p: float = math.nan
    """Adjusted for all comparisons."""

    def __str__(self) -> str:
        if math.isnan(self.difference):
            return self.verdict
        p = "" if math.isnan(self.p) else f", p {p_text(self.p)}"
        return f"{'−' if self.difference < 0 else '+'}{points(abs(self.difference), self.interval)}, {self.verdict}{p}"


def against(batch_size: int, arm: str, best: str, pairs: pd.DataFrame) -> Beside:
    """How an arm compares to ``best``, the one with the highest mean."""
    if arm == best:
        return Beside("highest mean")
    pair = _between(batch_size, best, arm, pairs)
    if pair is None:
        return Beside("no seed in common")
    sign = -1 if pair["better"] == best else 1
    return Beside(pair["verdict"], sign * pair["difference"], float(pair["interval"]), float(pair["p_adjusted"]))


def with_verdicts(rows: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """``rows`` with each arm beside the one with the highest mean: against_highest (the difference), p_adjusted and
    verdict (words); numbers are NaN for that arm itself, and where there are none."""
    best = best_arms(rows)
    found = [
        against(size, str(arm), best[size], pairs) if seeds and size in best else Beside("no result")
        for size, arm, seeds in zip(rows["batch_size"], rows["arm"], rows["seeds"], strict=True)
    ]
    return rows.assign(
        against_highest=[one.difference for one in found],
        p_adjusted=[one.p for one in found],
        verdict=[one.verdict for one in found],
    )


def is_ahead(batch_size: int, arm: str, rows: pd.DataFrame, pairs: pd.DataFrame) -> bool:
    """Whether an arm is significantly above every other one that has a result, of which there is one at least."""
    here = rows[(rows["batch_size"] == batch_size) & (rows["seeds"] > 0) & (rows["arm"] != arm)]
    return len(here) > 0 and all(
        _relation(arm, _between(batch_size, arm, str(other), pairs)) == ABOVE for other in here["arm"]
    )


def points(difference: float, interval: float) -> str:
    """A difference in percentage points with its interval."""
    return f"{100 * difference:.2f}" + ("" if math.isnan(interval) else f" ± {100 * interval:.2f}")


def p_text(p: float) -> str:
    """A p-value for people."""
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"


def _between(batch_size: int, one: str, other: str, pairs: pd.DataFrame) -> dict[Any, Any] | None:
    """The row of ``pairs`` for two arms, whichever is ahead; None where they have no seed in common."""
    both = pairs["better"].isin([one, other]) & pairs["worse"].isin([one, other])
    return next(iter(pairs[both & (pairs["batch_size"] == batch_size)].to_dict("records")), None)


def _and(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
