"""Sentences on a table of runs: which arm has the highest mean, and which differences are significant."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tvlars.lab.comparison.statistics import FEWEST_SEEDS, best_arms


def answers(rows: pd.DataFrame, pairs: pd.DataFrame, measure: str = "test accuracy") -> list[str]:
    """The result in a sentence for each batch size.

    Args:
        rows: a frame that :func:`tvlars.lab.comparison.statistics.table` made.
        pairs: that of :func:`tvlars.lab.comparison.statistics.differences` for the same runs.
        measure: name of the accuracy.
    """
    return [answer(batch_size, best, rows, pairs, measure) for batch_size, best in best_arms(rows).items()]


def answer(batch_size: int, best: str, rows: pd.DataFrame, pairs: pd.DataFrame, measure: str = "test accuracy") -> str:
    """The result at one batch size in a sentence: which arm has the highest mean, and from which it differs."""
    here = rows[rows["batch_size"] == batch_size].set_index("arm")
    leader, start = here.loc[best], f"Batch size {batch_size:,}: "
    others = [str(arm) for arm in here.index if arm != best and here.loc[arm, "seeds"]]
    part = _part(here, best)
    if not others:
        seeds = "one seed" if leader["seeds"] == 1 else f"mean of {leader['seeds']} seeds"
        return f"{start}{best} has {100 * leader['accuracy']:.2f} % {measure} ({part or seeds})."
    start += f"{best} has the highest mean {measure}, {100 * leader['accuracy']:.2f} %{f' ({part})' if part else ''}"
    said: dict[str, list[str]] = {}
    seeds_of: list[int] = []
    for arm in others:
        pair = _between(batch_size, best, arm, pairs)
        said.setdefault(_relation(best, pair), []).append(f"{arm} ({told})" if (told := _part(here, arm)) else arm)
        if pair is not None and not math.isnan(pair["p_adjusted"]):
            seeds_of.append(int(pair["seeds"]))
    parts = [words.format(_and(arms)) for words, arms in sorted(said.items(), key=lambda one: ORDER.index(one[0]))]
    basis = f" ({_basis(seeds_of, pairs)})" if seeds_of else ""
    return f"{start}; {', and '.join(parts)}{basis}."


ABOVE, BELOW = "significantly above {}", "significantly below {} on the seeds that both have"
SAME, UNPAIRED = "no significant difference from {}", "no seed in common with {}"
FEW = f"no verdict on {{}} with fewer than {FEWEST_SEEDS} common seeds"
UNKNOWN = "no verdict on {}, since the number of test images is not known or is 1"
ORDER = (ABOVE, SAME, BELOW, FEW, UNKNOWN, UNPAIRED)


def _relation(best: str, pair: dict[Any, Any] | None) -> str:
    if pair is None:
        return UNPAIRED
    if math.isnan(pair["p_adjusted"]):
        return FEW if pair["seeds"] < FEWEST_SEEDS else UNKNOWN
    return (ABOVE if pair["better"] == best else BELOW) if pair["significant"] else SAME


def _basis(seeds: list[int], pairs: pd.DataFrame) -> str:
    """On what verdicts rest: "3 seeds, Holm over 6 comparisons"."""
    low, high, count = min(seeds), max(seeds), int(pairs["comparisons"].iloc[0])
    number = f"{low} seeds" if low == high else f"{low} to {high} seeds"
    return f"{number}, Holm over {count} comparisons" if count > 1 else f"{number}, one comparison"


def _part(rows: pd.DataFrame, arm: str) -> str:
    """How many of an arm's runs its mean is of, where not all finished."""
    row = rows.loc[arm]
    return f"{row['seeds']} of {row['of']} runs finished" if row["seeds"] < row["of"] else ""


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
    best, found = best_arms(rows), []
    for row in rows.to_dict("records"):
        size = int(row["batch_size"])
        done = row["seeds"] and size in best
        found.append(against(size, str(row["arm"]), best[size], pairs) if done else Beside("no result"))
    return rows.assign(
        against_highest=[one.difference for one in found],
        p_adjusted=[one.p for one in found],
        verdict=[one.verdict for one in found],
    )


def is_ahead(batch_size: int, arm: str, rows: pd.DataFrame, pairs: pd.DataFrame) -> bool:
    """Whether an arm is significantly above every other one that has a result, of which there is one at least."""
    here = rows[(rows["batch_size"] == batch_size) & (rows["seeds"] > 0) & (rows["arm"] != arm)]
    found = [_between(batch_size, arm, str(other), pairs) for other in here["arm"]]
    return bool(found) and all(pair is not None and _relation(arm, pair) == ABOVE for pair in found)


def points(difference: float, interval: float) -> str:
    """A difference in percentage points with its interval."""
    return f"{100 * difference:.2f}" + ("" if math.isnan(interval) else f" ± {100 * interval:.2f}")


def p_text(p: float) -> str:
    """A p-value for people."""
    return "-" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.2g}"


def _between(batch_size: int, one: str, other: str, pairs: pd.DataFrame) -> dict[Any, Any] | None:
    """The row of ``pairs`` for two arms, whichever is ahead; None where they have no seed in common."""
    here = pairs[pairs["batch_size"] == batch_size]
    for better, worse in ((one, other), (other, one)):
        found = here[(here["better"] == better) & (here["worse"] == worse)]
        if len(found):
            return dict(found.to_dict("records")[0])
    return None


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
