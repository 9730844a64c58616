"""Estimates with intervals on one axis: a table with a drawing in each row, which works without scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from tvlars.lab.comparison.paper import p_text, runs_text
from tvlars.lab.comparison.statistics import INCONCLUSIVE, OUTSIDE, mean_and_interval
from tvlars.lab.report.drawing import GRAY
from tvlars.lab.tasks import Measure

MOST_PAIRS = 6
"""Most pairs of arms in a drawing; if there are more, only pairs with the best arm are drawn."""
REACH = 1.5
"""Intervals are cut at this multiple of the estimates' spread, or of the median half width, beyond the estimates."""
EVERY = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Estimate:
    """A row: an estimate, its interval from ``low`` to ``high`` (NaN if there is none), and the single values."""

    name: str
    value: float
    text: str
    low: float = math.nan
    high: float = math.nan
    points: Sequence[tuple[float, str]] = ()
    """Single values, each with a label."""
    color: str = GRAY
    against: tuple[str, str] = ("", "")
    """Name and colour of the arm with which a difference is taken."""
    verdict: str = ""
    kind: str = ""
    """Kind of the verdict: "significant", "equivalent", "open" or "plain"."""


@dataclass(frozen=True)
class Intervals:
    """Rows on one axis. ``log`` makes the axis logarithmic, ``zero`` includes 0, and ``bars`` draws bars from 0."""

    title: str
    rows: list[Estimate]
    column: str = ""
    """Head of the column of estimates."""
    log: bool = False
    zero: bool = False
    bars: bool = False
    within: float = math.nan
    """Margin of equivalence, the half width of a shade around 0."""
    limits: tuple[float, float] = (-math.inf, math.inf)
    """Smallest and largest possible value."""
    note: str = ""
    range: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "range", self._range())

    def _range(self) -> tuple[float, float]:
        inner = [value for row in self.rows for value in (row.value, *(x for x, _ in row.points)) if self._fits(value)]
        inner = [self._scaled(value) for value in inner] or [0.0, 1.0]
        ends = [self._scaled(end) for row in self.rows for end in (row.low, row.high) if self._fits(end)]
        widths = [self._scaled(r.high) - self._scaled(r.low) for r in self.rows if self._fits(min(r.low, r.high))]
        low, high = min(inner), max(inner)
        reach = REACH * max(high - low, sorted(widths)[(len(widths) - 1) // 2] / 2 if widths else 0.0)
        low, high = max(min([low, *ends]), low - reach), min(max([high, *ends]), high + reach)
        low, high = (min(low, 0.0), max(high, 0.0)) if self.zero else (low, high)
        pad = 0.04 * (high - low) or (0.5 if self.log else 0.05 * abs(high) or 1.0)
        limits = [self._scaled(end) if math.isfinite(end) else end for end in self.limits]
        return max(low - (0 if self.bars else pad), limits[0]), min(high + pad, limits[1])

    def _fits(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def place(self, value: float) -> float | None:
        """Return the position of a value on the axis in percent, cut to its ends; None if there is no position."""
        if math.isnan(value) or (self.log and not value > 0):
            return None
        low, high = self.range
        scaled = value if math.isinf(value) else self._scaled(value)
        return round(100 * min(max((scaled - low) / (high - low), 0.0), 1.0), 2)

    def cut(self, value: float) -> bool:
        """Return True if a value lies beyond the axis."""
        low, high = self.range
        return self._fits(value) and not low - 1e-9 <= self._scaled(value) <= high + 1e-9

    def ticks(self) -> list[tuple[float, str]]:
        """Return place and label of about four round values."""
        low, high = self.range
        if self.log and high - low > 0.8:
            every, digits = max(math.ceil((high - low) / 4), 1), (1, 2, 5) if high - low < 1.5 else (1,)
            powers = range(math.floor(low), math.floor(high) + 1, every)
            values = [digit * 10.0**power for power in powers for digit in digits]
            values = [value for value in values if low <= math.log10(value) <= high]
        else:
            low, high = (10**low, 10**high) if self.log else (low, high)
            wanted = (high - low) / (3 if self.zero else 4)
            power = 10.0 ** math.floor(math.log10(wanted))
            step = next(power * one for one in EVERY if power * one >= 0.7 * wanted)
            values = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
        placed = [(self.place(v), f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.4g}") for v in values]
        return [(place, label) for place, label in placed if place is not None]


def estimates(rows: pd.DataFrame, colors: dict[str, str], measure: Measure, title: str = "") -> Intervals:
    """Return the means of the arms at one batch size with their intervals and the values of the seeds.

    Args:
        rows: rows of :func:`tvlars.lab.comparison.statistics.table`.
        colors: colour of each arm.
        measure: measure of the means.
        title: what tells these rows from others.
    """
    scale, found = 1 if measure.of_task else 100, []
    for row in rows.to_dict("records"):
        mean, half = scale * row["accuracy"], scale * row["interval"]
        seeds = [(scale * one, measure.text(one)) for one in row["accuracies"] if not math.isnan(one)]
        of = runs_text(row) if row["seeds"] < row["of"] else ""
        text = measure.text(row["accuracy"], row["interval"])
        color, ends = colors[row["arm"]], (mean - half, mean + half)
        found.append(Estimate(row["arm"], mean, text, *ends, seeds, color, verdict=of, kind="plain"))
    limits = (-math.inf, math.inf) if measure.of_task else (0.0, 100.0)
    return Intervals(title, found, measure.title, limits=limits)


def gaps(pairs: pd.DataFrame, colors: dict[str, str], measure: Measure, best: str, title: str = "") -> Intervals:
    """Return the differences of pairs of arms at one batch size, the better arm first, with intervals and verdicts.

    Args:
        pairs: rows of :func:`tvlars.lab.comparison.statistics.differences`.
        colors: colour of each arm.
        measure: measure of the differences.
        best: the arm with the best mean.
        title: what tells these rows from others.
    """
    shown, note = pairs[pairs["in_family"].astype(bool)], ""
    if len(shown) > MOST_PAIRS:
        mine = shown[(shown["better"] == best) | (shown["worse"] == best)]
        shown = mine if len(mine) else shown.iloc[:MOST_PAIRS]
        note = f"{len(shown)} of {len(pairs)} pairs; all of them are in the table below."
    scale, sign, found = 1 if measure.of_task else 100, -1 if measure.lower else 1, []
    for row in shown.to_dict("records"):
        gap, half = scale * row["difference"], scale * row["interval"]
        kind = "significant" if row["significant"] else "equivalent" if row["equivalent"] else "plain"
        kind = "open" if row["verdict"] in (INCONCLUSIVE, OUTSIDE) else kind
        p = row["equivalence_p_adjusted"] if kind == "equivalent" else row["p_adjusted"]
        verdict = row["verdict"] + ("" if math.isnan(p) else f", p {p_text(p)}")
        text = f"{'−' if sign < 0 and gap else '+'}{measure.text(row['difference'], row['interval'])}"
        color, against, middle = colors[row["better"]], (row["worse"], colors[row["worse"]]), sign * gap
        ends = middle - half, middle + half
        found.append(Estimate(row["better"], middle, text, *ends, (), color, against, verdict, kind))
    margin = scale * float(shown["margin"].iloc[0]) if len(shown) else math.nan
    column = "difference" if measure.of_task else "difference, points"
    return Intervals(title, found, column, zero=True, within=margin, note=note)


def over_seeds(name: str, values: Sequence[tuple[float, str]], color: str, form: str, log: bool = False) -> Estimate:
    """Return the mean of labelled values of seeds (geometric with ``log``) with its 95 % interval by Student's t."""
    known = [(value, said) for value, said in values if math.isfinite(value) and (value > 0 or not log)]
    if not known:
        return Estimate(name, math.nan, "-", color=color)
    mean, half = mean_and_interval([math.log(value) if log else value for value, _ in known])
    back = math.exp if log else float
    ends = (math.nan, math.nan) if math.isnan(half) else (back(mean - half), back(mean + half))
    text = format(back(mean), form)
    if not math.isnan(half):
        text += f" ({ends[0]:{form}} to {ends[1]:{form}})" if log else f" ± {half:{form}}"
    return Estimate(name, back(mean), text, *ends, [(v, f"{said}: {v:{form}}") for v, said in known], color)
