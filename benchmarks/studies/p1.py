"""Study P1 as a waterfall: the published lead of TVLARS, and what is left of it after each correction.

    python benchmarks/studies/p1.py 512

Figure and table in docs/results/published-lead.md are made of the CSVs that ``run.py NAME --collect`` writes. p1-512 is
a sweep of the published grids, whose runs the first steps read in five ways; p1-equal-512, p1-biases-512 and
p1-corrected-512 are tunings, whose final runs the others are means of. Arms with unfinished runs are left out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from results import RESULTS, draw, write_page
from tuned import signed

from tvlars.lab import expected_best
from tvlars.lab.comparison.statistics import mean_and_interval
from tvlars.lab.experiments.grid import Grid
from tvlars.lab.experiments.yaml_file import read_yaml

PROTOCOLS = Path(__file__).parent / "protocols"
SIZES = (512, 2048, 8192)
FIRST, OTHERS = "tvlars", ("lars-cold", "lars-warm", "lamb")
BUDGET = 3
"""Trials of each arm once budgets are equal: those of LARS with warm-up."""
READINGS: dict[str, Callable[[pd.DataFrame], float]] = {
    "as published": lambda trials: trials["share_best"].max(),
    "last epoch": lambda trials: trials["share_last"].max(),
    "whole test set": lambda trials: trials["test_accuracy"].max(),
    f"best of {BUDGET} trials each": lambda trials: drawn(trials, "test_accuracy"),
    "chosen on validation": lambda trials: drawn(trials, "validation_accuracy"),
}
"""Ways to read the trials of an arm: the best epoch of the best trial on a random quarter of the test set, its last
epoch, that on the whole test set, and means over all draws of ``BUDGET`` trials, of which the best is chosen by its
test or its validation accuracy."""
TUNINGS = {
    "equal": "equal budgets, tuned",
    "biases": "rate of biases and norms",
    "corrected": "all corrections",
}
"""Corrections that need runs of their own, by the part of their protocol's name."""


def drawn(trials: pd.DataFrame, chosen_by: str) -> float:
    """Return the mean test accuracy of the best of ``BUDGET`` trials, over all draws; of fewer, of the best."""
    tested, by = (trials[name].to_list() for name in ("test_accuracy", chosen_by))
    return expected_best(tested, min(BUDGET, len(trials)), by=by)


def readings(runs: pd.DataFrame, planned: dict[str, int]) -> list[dict[str, str | float]]:
    """Return a row for each reading: accuracies in percent, and the lead of TVLARS over each other arm in points.

    A diverged run counts as 0. An arm with fewer trials than ``planned`` is not over and has NaN, so that no step
    stands on a part of its runs.
    """
    found = []
    accuracies = [name for name in runs.columns if "accuracy" in name or name.startswith("share_")]
    counted = runs.assign(**{name: runs[name].fillna(0.0) for name in accuracies})
    for step, read in READINGS.items():
        values = {}
        for arm in (FIRST, *OTHERS):
            mine = counted[counted["arm"] == arm]
            values[arm] = 100 * read(mine) if len(mine) and len(mine) == planned.get(arm) else math.nan
        leads = {f"lead over {arm}": values[FIRST] - values[arm] for arm in OTHERS}
        found.append({"step": step, **values, **leads})
    return found


def tuned(step: str, runs: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, str | float]:
    """Return the row of a tuning: means of its final runs in percent, and the leads with the half width of their 95 %
    interval in points, as ``pairs``, the rows of its comparison, have them."""
    final = runs[(runs["part"] == "final") & (runs["status"] == "finished")]
    row: dict[str, str | float] = {"step": step}
    for arm in (FIRST, *OTHERS):
        row[arm] = 100 * mean_and_interval(final.loc[final["arm"] == arm, "test_accuracy"].to_list())[0]
    for first, second, pair in signed(pairs, [FIRST, *OTHERS]):
        if first == FIRST:
            row[f"lead over {second}"], row[f"interval of {second}"] = pair["signed"], 100 * pair["interval"]
    return row


def best_epochs(step: str, runs: pd.DataFrame) -> dict[str, str | float]:
    """Return the row of a tuning whose final runs are read at their best epoch, on the validation images by which that
    epoch is found."""
    final = runs[(runs["part"] == "final") & (runs["status"] == "finished")]
    values = {arm: 100 * mine.set_index("seed")["validation_best"] for arm, mine in final.groupby("arm")}
    row: dict[str, str | float] = {"step": step, **{str(arm): one.mean() for arm, one in values.items()}}
    for arm in OTHERS:
        pairs = (values[FIRST] - values[arm]).dropna().to_list()
        row[f"lead over {arm}"], row[f"interval of {arm}"] = mean_and_interval(pairs)
    return row


def waterfall(batch_size: int, folder: Path = RESULTS) -> pd.DataFrame:
    """Return a row for each step whose runs are in the CSVs of ``folder``."""
    content = read_yaml(PROTOCOLS / f"p1-{batch_size}.yaml")
    grid = {**content["space"], "seed": content["seeds"]}
    planned: dict[str, int] = {}
    for run in Grid.from_mapping({"base": content["options"], "grid": grid, "arms": content["arms"]}).runs:
        planned[run.arm_name] = planned.get(run.arm_name, 0) + 1
    published = folder / f"p1-{batch_size}.csv"
    if not published.is_file():
        raise SystemExit(f"{published} must be there: python benchmarks/studies/run.py {published.stem} --collect")
    found = readings(pd.read_csv(published), planned)
    for part, step in TUNINGS.items():
        file = folder / f"p1-{part}-{batch_size}.csv"
        if file.is_file():
            runs = pd.read_csv(file)
            if (runs["validation_best"] != runs["validation_accuracy"]).any():  # each epoch was evaluated
                found.append(best_epochs(f"{step}, best epoch", runs))
            found.append(tuned(step, runs, pd.read_csv(file.with_name(f"{file.stem}-pairs.csv"))))
    return pd.DataFrame(found)


def markdown(found: pd.DataFrame) -> str:
    """Return the table of steps: accuracy of TVLARS in percent, and its leads in points."""
    lines = [
        f"| | step | {FIRST}, % | {' | '.join(f'over {arm}, points' for arm in OTHERS)} |",
        f"|{'---|' * (3 + len(OTHERS))}",
    ]
    for number, row in enumerate(found.to_dict("records"), 1):
        leads = [_lead(row.get(f"lead over {arm}"), row.get(f"interval of {arm}")) for arm in OTHERS]
        own = "-" if math.isnan(row[FIRST]) else f"{row[FIRST]:.2f}"
        lines.append(f"| {number} | {row['step']} | {own} | {' | '.join(leads)} |")
    return "\n".join(lines)


def _lead(points: Any, half: Any) -> str:
    if points is None or math.isnan(points):
        return "-"
    return f"{points:+.2f}" + ("" if half is None or math.isnan(half) else f" ± {half:.2f}")


def painter(found: pd.DataFrame) -> Callable[[Any, Any], None]:
    """Return the function that draws the leads for a theme: a panel for each arm, a bar for each step."""

    def paint(figure: Any, theme: Any) -> None:
        panels = figure.subplots(len(OTHERS), 1)
        steps = list(range(1, len(found) + 1))
        for i, (arm, axes) in enumerate(zip(OTHERS, panels, strict=True)):
            axes.barh(steps, found[f"lead over {arm}"].fillna(0.0), 0.7, color=theme.color(i), alpha=0.75)
            if f"interval of {arm}" in found:
                known = found.assign(at=steps).dropna(subset=[f"interval of {arm}"])
                points, half = known[f"lead over {arm}"], known[f"interval of {arm}"]
                axes.errorbar(points, known["at"], xerr=half, fmt="none", color=theme.ink, linewidth=1, capsize=2)
            leads = [0.0, *found[f"lead over {arm}"].dropna()]
            axes.set_xlim(1.15 * min(leads) - 1, 1.15 * max(leads) + 1)
            axes.axvline(0, color=theme.faint, linewidth=1)
            axes.set_yticks(steps)
            axes.invert_yaxis()
            axes.set_title(f"Lead over {arm}")
        panels[-1].set_xlabel("points of accuracy; steps as in the table; wide intervals are cut")

    return paint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batch_size", type=int, choices=SIZES)
    size = parser.parse_args().batch_size
    found = waterfall(size)
    words = f"Leads of TVLARS at a batch size of {size:,} after each step, a panel for each other arm"
    figure = draw(f"study-p1-{size}", painter(found), words, 1.8 + 0.55 * len(found))
    write_page("p1", f"python benchmarks/studies/p1.py {size}", f"{markdown(found)}\n\n{figure}")
    print(found.round(2).to_string(index=False, na_rep="-"))


if __name__ == "__main__":
    main()
