"""Tables of a comparison: cells with text and sort keys, and the table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from tvlars.lab.comparison.comparison import Comparison
from tvlars.lab.comparison.pair import said_margin
from tvlars.lab.comparison.paper import number_text, p_text, runs_text, seeds_text
from tvlars.lab.comparison.statistics import metrics_in
from tvlars.lab.comparison.verdict import beside_best
from tvlars.lab.console import print_table, say
from tvlars.lab.tasks import Measure, plus_minus

P_VALUE, SECONDS, EFFECT = "p (Holm)", "training, s", "Hedges' g_z"


class Cell(NamedTuple):
    """A cell of a table. ``strong`` marks a mean that is significantly better than all others."""

    text: str
    key: Any
    """Sort key."""
    strong: bool = False


def table_cells(rows: pd.DataFrame, pairs: pd.DataFrame, measure: Measure) -> list[dict[str, Cell]]:
    """Return the cells of a table by column, one row per arm and batch size.

    Args:
        rows, pairs: results of ``table`` and ``differences`` of :mod:`tvlars.lab.comparison.statistics`.
        measure: measure of the means.
    """
    done = rows[rows["seeds"] > 0].groupby("batch_size").size()
    names = [name for name in metrics_in(rows) if not (measure.of_task and name == measure.column)]
    above = pairs[pairs["significant"].astype(bool)].groupby(["batch_size", "better"]).size()
    found = []
    for row, beside in zip(rows.to_dict("records"), beside_best(rows, pairs, measure).to_dict("records"), strict=True):
        others = done.get(row["batch_size"], 0) - 1
        ahead = others > 0 and above.get((row["batch_size"], row["arm"]), 0) == others
        found.append(_cells(row, beside, ahead, measure, names))
    return found


def pair_cells(pairs: pd.DataFrame, measure: Measure) -> list[dict[str, Cell]]:
    """Return the cells of the table of all differences, paired over seeds."""
    margins = pairs["margin"].dropna()
    within = said_margin(margins.iloc[0], measure.of_task) if len(margins) else ""
    found = []
    for pair in pairs.to_dict("records"):
        better, worse, gap = ("better", "worse", "") if measure.of_task else ("higher", "lower", ", points")
        equivalence = {
            f"p of equivalence within {within} (Holm)": _p_cell(pair["equivalence_p_adjusted"]),
            f"seeds for {within}": _number_cell(pair["seeds_needed"], seeds_text),
        }
        cells = {
            "batch size": Cell(f"{pair['batch_size']:,}", pair["batch_size"]),
            better: Cell(pair["better"], pair["better"]),
            worse: Cell(pair["worse"], pair["worse"]),
            f"difference{gap}": Cell(measure.text(pair["difference"], pair["interval"]), pair["difference"]),
            "seeds": Cell(runs_text(pair), pair["seeds"]),
            EFFECT: _number_cell(pair["effect_size"], "{:.2f}".format),
            "p": _p_cell(pair["p_value"]),
            P_VALUE: _p_cell(pair["p_adjusted"]),
            **(equivalence if within else {}),
            "verdict": Cell(pair["verdict"], pair["verdict"]),
        }
        found.append(cells)
    return found


def table_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Return the table of a comparison as text; p-values are for the difference from the best mean."""
    measure = comparison.measure
    cells = table_cells(comparison.rows(), comparison.differences(), measure)
    left_out = against(measure), SECONDS
    return [{name: cell.text for name, cell in row.items() if name not in left_out} for row in cells]


def against(measure: Measure) -> str:
    """Return the head of the column of differences from the best mean."""
    return f"against the {measure.best} mean"


def print_comparison(comparison: Comparison) -> None:
    """Print the table and the results in sentences to standard output."""
    if not (rows := table_rows(comparison)):
        return say("no run has finished")
    print_table(rows, by_least_importance(rows, comparison.measure))
    say(*comparison.answers(), *comparison.remarks(), comparison.protocol)


def by_least_importance(rows: list[dict[str, str]], measure: Measure) -> list[str]:
    """Return the columns that may be left out, least important first."""
    kept = ["optimizer", measure.name] + ["batch size"] * (len({row["batch size"] for row in rows}) > 1)
    kept += ["runs"] * any("of" in row["runs"] for row in rows)  # a mean must not hide that it leaves out seeds
    last = [*kept, P_VALUE, "runs", "lr", "test loss", "each seed", "batch size"]
    others = [name for name in rows[0] if name not in last]  # images/s, extra measures, train loss
    return [*reversed(others), *(name for name in reversed(last[len(kept) :]) if name in rows[0] and name not in kept)]


def _cells(
    row: dict[Any, Any], beside: dict[Any, Any], ahead: bool, measure: Measure, metrics: list[str]
) -> dict[str, Cell]:
    done, difference, words = row["seeds"] > 0, beside["difference"], beside["verdict"]
    if math.isnan(difference):
        beside_it = Cell("-" if words == "no result" else words, 0.0 if words == f"{measure.best} mean" else -2.0)
    else:
        # the p-value of a difference, or of equivalence if only equivalence was shown
        shown = "equivalence_p_adjusted" if words.startswith("equivalent") else "p_adjusted"
        p = "" if math.isnan(beside[shown]) else f", p {_p_cell(beside[shown]).text}"
        sign = "−" if difference < 0 else "+"
        beside_it = Cell(f"{sign}{measure.text(abs(difference), beside['interval'])}, {words}{p}", difference)
    each = " ".join(measure.text(value) for value in row["accuracies"] if not math.isnan(value))
    mean_of_all = measure.text(row["accuracy"], row["interval"])
    known = not math.isnan(row["accuracy"])

    def metric(name: str) -> Cell:
        key = -math.inf if math.isnan(row[name]) else row[name]
        return Cell(plus_minus(row[name], row[f"{name}_interval"]), key)

    def mean(name: str, form: str) -> Cell:
        return Cell(format(row[name], form), row[name]) if done and not math.isnan(row[name]) else Cell("-", -1)

    return {
        "optimizer": Cell(row["arm"], row["arm"]),
        "batch size": Cell(f"{row['batch_size']:,}", row["batch_size"]),
        "lr": Cell(number_text(row["lr"]), row["lr"]),
        measure.name: Cell(f"{mean_of_all}{measure.unit * known}", row["accuracy"] if done else -1, ahead),
        "runs": Cell(runs_text(row), row["seeds"]),
        against(measure): beside_it,
        P_VALUE: _p_cell(beside["p_adjusted"]),
        "each seed": Cell(each or "-", each),
        "train loss": mean("train_loss", ".4f"),
        **({} if measure.name == "test loss" else {"test loss": mean("test_loss", ".4f")}),
        **{name.replace("_", " "): metric(name) for name in metrics},
        "images/s": mean("images_per_second", ",.0f"),
        SECONDS: mean("seconds", ",.0f"),
    }


def _p_cell(p: float) -> Cell:
    """Return the cell of a p-value; rows without one are sorted last."""
    return Cell(p_text(p), 2.0 if math.isnan(p) else p)


def _number_cell(value: float, text: Callable[[float], str]) -> Cell:
    """Return the cell of a number, "-" for NaN, which is sorted first."""
    return Cell("-", -1.0) if math.isnan(value) else Cell(text(value), value)
