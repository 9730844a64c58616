"""Choice of the plan's defaults: regret of each candidate on the workloads of development.

    python benchmarks/studies/regret.py
    python benchmarks/studies/regret.py --test

It reads docs/results/studies/plan-*.csv, which ``run.py NAME --collect`` has written, and makes the tables of the page
docs/results/plan.md. A candidate is a schedule with a rule for the peak of the rate. Its regret on a workload is the
accuracy of the best arm and rate, chosen by other seeds, less its own, in points of validation accuracy. ``--test``
makes the table of the workloads that have no part in the choice.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from results import GUESS, RESULTS, Values, draw, write_page

from tvlars.lab.comparison.statistics import mean_and_interval

WORKLOADS = ("plan-250", "plan-500-noisy", "plan-2000-short", "plan-2000", "plan-8192")
TESTS = ("plan-test-digits", "plan-test-color", "plan-test-4096", "plan-test-plain20")
MORE_RATES = {"plan-test-plain20": "plan-test-plain20-low"}
"""Studies that add rates to a workload, with the same seeds."""
BY_SIZE = "phi by batch size"
BASE, BASE_SIZE, AIM = 16.0, 256, 0.3
SAID = {
    "linear": "LARS: linear",
    "phi": "TVLARS: φ by batch size",
    "trapezoid": "trapezoid",
    "phi75": "TVLARS before: φ at 75 %",
    "cosine-warm20": "LARS before: cosine, 20 % warm-up",
}
"""Defaults that are tested, in words."""
Peak = Callable[[int], float]


@dataclass(frozen=True)
class Candidate:
    """A schedule, by the name of its arm, and the peak of its rate as a function of the batch size in samples."""

    schedule: str
    rule: str
    peak: Peak

    def arm(self, batch_size: int) -> str:
        """Return the arm at a batch size: that of ``BY_SIZE`` holds φ longer for larger batches."""
        if self.schedule != BY_SIZE:
            return self.schedule
        return "phi50" if batch_size <= 500 else "phi75" if batch_size <= 2000 else "phi90"


def accuracies(frame: pd.DataFrame) -> pd.DataFrame:
    """Return validation accuracies in percent, a row for each arm and rate, a column for each seed that has a run of
    every row; a diverged run counts as guessing."""
    counted = frame.assign(counted=frame["validation_accuracy"].where(frame["status"] == "finished", GUESS))
    return 100 * counted.pivot(index=["arm", "lr"], columns="seed", values="counted").dropna(axis=1)


def best_of_others(table: pd.DataFrame) -> Values:
    """Return for each seed the accuracy of the arm and rate with the best mean over the other seeds.

    The best of many means is above its true value by luck. So it is chosen by other runs than it is judged by.
    """
    chosen = [table.drop(columns=seed).mean(axis=1).idxmax() for seed in table.columns]
    return np.array([table.loc[cell, seed] for cell, seed in zip(chosen, table.columns, strict=True)], dtype=float)


def regret_by_seed(table: pd.DataFrame, arm: str, peak: float) -> Values:
    """Return the regrets of an arm at the rate nearest to ``peak``, in points, one for each seed."""
    rates = table.loc[arm].index
    nearest = min(rates, key=lambda lr: abs(math.log(lr / peak)))
    found: Values = best_of_others(table) - table.loc[(arm, nearest)].to_numpy(dtype=float)
    return found


def constant(lr: float) -> Peak:
    """Return the rule of one peak for all batch sizes."""
    return lambda batch_size: lr


def square_root(limit: float) -> Peak:
    """Return the rule 16 √(B / 256), up to a limit."""
    return lambda batch_size: min(BASE * math.sqrt(batch_size / BASE_SIZE), limit)


def candidates(schedules: list[str], rates: list[float]) -> list[Candidate]:
    """Return all candidates that the protocols declare; ``rates`` are those that every workload has."""
    rules = {f"{lr:g}": constant(lr) for lr in rates}
    rules |= {f"16 √(B / 256), at most {limit:g}": square_root(limit) for limit in (22.6, 32.0)}
    return [Candidate(schedule, rule, peak) for schedule in schedules for rule, peak in rules.items()]


DEFAULTS = (
    Candidate("linear", "16 √(B / 256), at most 32", square_root(32.0)),
    Candidate("phi", "16 √(B / 256), at most 22.6", square_root(22.6)),
    Candidate("trapezoid", "16 √(B / 256), at most 22.6", square_root(22.6)),
    Candidate("phi75", "16 √(B / 256), at most 22.6", square_root(22.6)),
    Candidate("cosine-warm20", "16 √(B / 256), at most 45.3", square_root(45.3)),
)
"""Plans of LARS and TVLARS, a trapezoid, and the plans of TVLARS and LARS before the choice. In each protocol of a test
``phi`` is that of the plan at its batch size."""


def regrets(found: dict[str, tuple[int, pd.DataFrame]]) -> pd.DataFrame:
    """Return a row for each candidate: schedule, peak, regret on each workload, and the worst and mean of them.

    Args:
        found: batch size and :func:`accuracies` of each workload.
    """
    tables = [table for _, table in found.values()]
    schedules = [*dict.fromkeys(str(arm) for table in tables for arm, _ in table.index), BY_SIZE]
    rates = sorted(set.intersection(*({float(lr) for _, lr in table.index} for table in tables)))
    rows = []
    for one in candidates(schedules, rates):
        lost = {
            name: float(regret_by_seed(table, one.arm(batch_size), one.peak(batch_size)).mean())
            for name, (batch_size, table) in found.items()
        }
        values = list(lost.values())
        rows.append({"schedule": one.schedule, "peak": one.rule, **lost, "worst": max(values), "mean": np.mean(values)})
    return pd.DataFrame(rows).sort_values(["worst", "mean"], ignore_index=True)


def tested(found: dict[str, tuple[int, pd.DataFrame]], defaults: Sequence[Candidate]) -> pd.DataFrame:
    """Return a row for each workload and each of the defaults: the default's rate, the mean of its regret over seeds,
    and half the width of the 95 % interval (Student's t)."""
    rows = []
    for name, (batch_size, table) in found.items():
        for one in defaults:
            peak = one.peak(batch_size)
            mean, half = mean_and_interval(regret_by_seed(table, one.arm(batch_size), peak).tolist())
            rows.append({"workload": name, "schedule": one.schedule, "lr": peak, "regret": mean, "half": half})
    return pd.DataFrame(rows)


def test_table(found: dict[str, tuple[int, pd.DataFrame]], lost: pd.DataFrame) -> str:
    """Return the regrets as a Markdown table, with the best arm and rate of each workload by the mean of all seeds."""
    rows = []
    for name, (_, table) in found.items():
        arm, lr = table.mean(axis=1).idxmax()
        row = {"workload": name, "best": f"{arm} at {lr:g}: {table.mean(axis=1).max():.2f} %"}
        for one in lost[lost["workload"] == name].to_dict("records"):
            row[SAID[one["schedule"]]] = f"{one['regret']:+.2f} ± {one['half']:.2f}"
        rows.append(row)
    return text_table(pd.DataFrame(rows))


def painter(lost: pd.DataFrame) -> Callable[[Any, Any], None]:
    """Return the function that draws the regrets, a row of the figure for each workload."""

    def paint(figure: Any, theme: Any) -> None:
        axes = figure.add_subplot()
        workloads, schedules = lost["workload"].unique().tolist(), lost["schedule"].unique().tolist()
        for i, schedule in enumerate(schedules):
            mine = lost[lost["schedule"] == schedule]
            at = [workloads.index(name) + (i - (len(schedules) - 1) / 2) * 0.15 for name in mine["workload"]]
            axes.errorbar(
                mine["regret"], at, xerr=mine["half"], fmt="o", color=theme.color(i), markersize=4, capsize=2,
                label=SAID[schedule],
            )  # fmt: skip
        axes.axvline(0, color=theme.faint, linewidth=1)
        axes.axvline(AIM, color=theme.ink, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(workloads)), [name.removeprefix("plan-test-") for name in workloads])
        axes.invert_yaxis()
        axes.set_xlabel("regret in points of accuracy, 95 % interval; dotted: the aim")
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)

    return paint


def best_shares(found: dict[str, tuple[int, pd.DataFrame]]) -> pd.DataFrame:
    """Return for each workload the best mean of each schedule over the rates, in percent, and its rate."""
    rows = []
    for name, (_, table) in found.items():
        means = table.mean(axis=1).unstack()
        cells = {arm: f"{row.max():.2f} ({row.idxmax():g})" for arm, row in means.iterrows()}
        rows.append({"workload": name, **cells})
    return pd.DataFrame(rows)


def text_table(frame: pd.DataFrame) -> str:
    """Return a frame as a Markdown table, numbers with two digits."""
    lines = [f"| {' | '.join(map(str, frame.columns))} |", f"|{'---|' * len(frame.columns)}"]
    for row in frame.itertuples(index=False):
        lines.append(f"| {' | '.join(f'{cell:.2f}' if isinstance(cell, float) else str(cell) for cell in row)} |")
    return "\n".join(lines)


def read(names: Sequence[str]) -> dict[str, tuple[int, pd.DataFrame]]:
    """Return batch size and accuracies of studies by name; raise ``SystemExit`` if the CSV of one is missing."""
    found = {}
    for name in names:
        file = RESULTS / f"{name}.csv"
        if not file.is_file():
            raise SystemExit(f"{file} must be there: python benchmarks/studies/run.py {name} --out F --collect")
        frames = [pd.read_csv(file)]
        if name in MORE_RATES:
            frames.append(pd.read_csv(RESULTS / f"{MORE_RATES[name]}.csv"))
        found[name] = int(frames[0]["batch_size"].iloc[0]), accuracies(pd.concat(frames, ignore_index=True))
    return found


def development() -> str:
    """Return the tables of the workloads of development."""
    found = read(WORKLOADS)
    lost = regrets(found)
    now = lost[(lost["schedule"] == "phi75") & (lost["peak"] == "16 √(B / 256), at most 22.6")]
    shown = pd.concat([lost.head(10), now]).drop_duplicates(["schedule", "peak"])
    text = "Regrets in points, the best ten candidates and φ with half at 75 %, the plan of TVLARS before the choice:"
    return "\n\n".join([text_table(best_shares(found)), text, text_table(shown)])


def test() -> str:
    """Return the tables and the figure of the workloads that have no part in the choice."""
    found = read(TESTS)
    lost = tested(found, DEFAULTS)
    words = "Regret of five untuned defaults on three workloads that have no part in the choice, with 95 % intervals"
    on_scale = lost[lost["workload"] != "plan-test-plain20"]  # tens of points
    figure = draw("study-plan-test", painter(on_scale), words)
    return "\n\n".join([figure, test_table(found, lost), text_table(best_shares(found))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", action="store_true", help="the workloads that the defaults were not chosen on")
    arguments = parser.parse_args()
    made, option = (test(), " --test") if arguments.test else (development(), "")
    write_page("plan", f"python benchmarks/studies/regret.py{option}", made)
    print(made)


if __name__ == "__main__":
    main()
