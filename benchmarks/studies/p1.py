"""Study P1 as a waterfall: the published lead of TVLARS, and what is left of it after each correction.

    python benchmarks/studies/p1.py 512 --out /tmp/studies
    python benchmarks/studies/p1.py 512 --out /tmp/studies --csv docs/results/studies/p1-512-steps.csv --page

Each protocol has its folder below --out: p1-512 is a sweep of the published grids, whose runs the first steps read in
five ways; p1-equal-512, p1-biases-512 and p1-corrected-512 are tunings, whose final runs the others are means of.
Arms with unfinished runs are left out. ``--page`` draws the figure, and puts the table into
docs/results/published-lead.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tvlars.lab import LoadedRun, best_of_trials, expected_best, load_run
from tvlars.lab.comparison.statistics import mean_and_interval
from tvlars.lab.experiments.grid import Grid
from tvlars.lab.experiments.yaml_file import read_yaml
from tvlars.lab.run_folder.rows import TEST_SHARE

PROTOCOLS = Path(__file__).parent / "protocols"
SIZES = (512, 2048, 8192)
FIRST, OTHERS = "tvlars", ("lars-cold", "lars-warm", "lamb")
BUDGET = 3
"""Trials of each arm once budgets are equal: those of LARS with warm-up."""
Trials = list[LoadedRun]


@dataclass(frozen=True)
class Reading:
    """One way to read the runs of the published grids."""

    name: str
    value: Callable[[Trials], float]


def published(trials: Trials) -> float:
    """Best epoch of the best trial, on a random quarter of the test set."""
    return best_of_trials(trials, measure=TEST_SHARE).best


def last_epoch(trials: Trials) -> float:
    """Last epoch of the best trial, on a random quarter of the test set."""
    return best_of_trials(trials, measure=TEST_SHARE, epochs="last").best


def whole_test(trials: Trials) -> float:
    """Last epoch of the best trial, on the whole test set."""
    return best_of_trials(trials, measure="test_accuracy", epochs="last").best


def equal_budgets(trials: Trials) -> float:
    """Mean of the best of ``BUDGET`` trials on the whole test set, over all draws; of fewer, the best."""
    return best_of_trials(trials, min(BUDGET, len(trials)), measure="test_accuracy", epochs="last").expected


def on_validation(trials: Trials) -> float:
    """Mean test accuracy of that one of ``BUDGET`` trials which is best by validation, over all draws."""
    tested, chosen_by = (
        best_of_trials(trials, measure=name, epochs="last").values for name in ("test_accuracy", "validation_accuracy")
    )
    return expected_best(tested, min(BUDGET, len(trials)), by=chosen_by)


READINGS = (
    Reading("as published", published),
    Reading("last epoch", last_epoch),
    Reading("whole test set", whole_test),
    Reading(f"best of {BUDGET} trials each", equal_budgets),
    Reading("chosen on validation", on_validation),
)
TUNINGS = {
    "equal": "equal budgets, tuned",
    "biases": "rate of biases and norms",
    "corrected": "all corrections",
}
"""Corrections that need runs of their own, by the part of their protocol's name."""


def trials_in(folder: Path) -> dict[str, Trials]:
    """Return the finished runs in ``folder``, by arm."""
    found: dict[str, Trials] = {}
    for config in sorted(folder.glob("*/config.json")):
        run = load_run(config.parent)
        if run.status in ("finished", "diverged") and run.config is not None:
            found.setdefault(run.config.arm_name, []).append(run)
    return found


def readings(trials: dict[str, Trials], planned: dict[str, int]) -> list[dict[str, str | float]]:
    """Return a row for each reading: accuracies in percent, and the lead of TVLARS over each other arm in points.

    An arm with fewer trials than ``planned`` is not over and has NaN, so that no step stands on a part of its runs.
    """
    found = []
    for reading in READINGS:
        values = {}
        for arm in (FIRST, *OTHERS):
            mine = trials.get(arm, [])
            values[arm] = 100 * reading.value(mine) if mine and len(mine) == planned.get(arm) else math.nan
        leads = {f"lead over {arm}": values[FIRST] - values[arm] for arm in OTHERS}
        found.append({"step": reading.name, **values, **leads})
    return found


def tuned(name: str, trials: dict[str, Trials]) -> dict[str, str | float]:
    """Return the row of a tuning: means of its final runs in percent, and of paired differences in points with the half
    width of their 95 % interval; a diverged run counts as guessing among ten classes."""
    by_seed = {arm: {run.config.seed: _tested(run) for run in runs if run.config} for arm, runs in trials.items()}
    row: dict[str, str | float] = {"step": name}
    for arm in (FIRST, *OTHERS):
        row[arm] = mean_and_interval(list(by_seed.get(arm, {}).values()))[0]
    for arm in OTHERS:
        first, other = by_seed.get(FIRST, {}), by_seed.get(arm, {})
        pairs = [first[seed] - other[seed] for seed in first if seed in other]
        row[f"lead over {arm}"], row[f"interval of {arm}"] = mean_and_interval(pairs)
    return row


def _tested(run: LoadedRun) -> float:
    value = None if run.status == "diverged" else run.test_accuracy
    return 10.0 if value is None else 100 * value


def waterfall(batch_size: int, out: Path) -> pd.DataFrame:
    """Return a row for each step whose runs have finished, from the folders of the protocols in ``out``."""
    content = read_yaml(PROTOCOLS / f"p1-{batch_size}.yaml")
    grid = {**content["space"], "seed": content["seeds"]}
    planned: dict[str, int] = {}
    for run in Grid.from_mapping({"base": content["options"], "grid": grid, "arms": content["arms"]}).runs:
        planned[run.arm_name] = planned.get(run.arm_name, 0) + 1
    found = readings(trials_in(out / f"p1-{batch_size}"), planned)
    for part, name in TUNINGS.items():
        if trials := trials_in(out / f"p1-{part}-{batch_size}" / "final"):
            found.append(tuned(name, trials))
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
            axes.axvline(0, color=theme.faint, linewidth=1)
            axes.set_yticks(steps)
            axes.invert_yaxis()
            axes.set_title(f"Lead over {arm}")
        panels[-1].set_xlabel("points of accuracy; steps as in the table")

    return paint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batch_size", type=int, choices=SIZES)
    parser.add_argument("--out", type=Path, required=True, help="folder of all studies")
    parser.add_argument("--csv", type=Path, help="file that the table is written to, too")
    parser.add_argument("--page", action="store_true", help="draw the figure, and write the table into the page")
    arguments = parser.parse_args()
    found = waterfall(arguments.batch_size, arguments.out)
    if arguments.csv is not None:
        found.to_csv(arguments.csv, index=False, float_format="%.4f")
    if arguments.page:
        from results import draw, write_page

        words = (
            f"Leads of TVLARS at a batch size of {arguments.batch_size:,} after each step, a panel for each other arm"
        )
        figure = draw(f"study-p1-{arguments.batch_size}", painter(found), words)
        text = f"{markdown(found)}\n\n{figure}"
        write_page("p1", f"python benchmarks/studies/p1.py {arguments.batch_size}", text)
    print(found.round(2).to_string(index=False, na_rep="-"))


if __name__ == "__main__":
    main()
