"""Choice of the plan's defaults: regret of each candidate on the workloads of development.

    python benchmarks/studies/regret.py

It reads docs/results/studies/plan-*.csv, which ``run.py NAME --collect`` has written, and makes the tables of the page
docs/results/plan.md. A candidate is a schedule with a rule for the peak of the rate. Its regret on a workload is the
best mean over seeds of any arm and rate, less its own mean, in points of validation accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from results import GUESS, RESULTS, write_page

WORKLOADS = ("plan-250", "plan-500-noisy", "plan-2000-short", "plan-2000", "plan-8192")
BY_NOISE = "phi by noise"
BASE, BASE_SIZE = 16.0, 256
Peak = Callable[[int], float]


@dataclass(frozen=True)
class Candidate:
    """A schedule, by the name of its arm, and the peak of its rate as a function of the batch size in samples."""

    schedule: str
    rule: str
    peak: Peak

    def arm(self, batch_size: int) -> str:
        """Return the arm at a batch size: that of ``BY_NOISE`` holds φ longer where there is less noise."""
        if self.schedule != BY_NOISE:
            return self.schedule
        return "phi50" if batch_size <= 500 else "phi75" if batch_size <= 2000 else "phi90"


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean validation accuracy in percent over seeds (arms x rates); a diverged run counts as guessing."""
    counted = frame.assign(counted=frame["validation_accuracy"].where(frame["status"] == "finished", GUESS))
    return 100 * counted.pivot_table(index="arm", columns="lr", values="counted", aggfunc="mean")


def constant(lr: float) -> Peak:
    """Return the rule of one peak for all batch sizes."""
    return lambda batch_size: lr


def square_root(limit: float) -> Peak:
    """Return the rule 16 √(B / 256), up to a limit."""
    return lambda batch_size: min(BASE * math.sqrt(batch_size / BASE_SIZE), limit)


def candidates(schedules: list[str], rates: list[float]) -> list[Candidate]:
    """Return all candidates that the protocols declare."""
    rules = {f"{lr:g}": constant(lr) for lr in rates}
    rules |= {f"16 √(B / 256), at most {limit:g}": square_root(limit) for limit in (22.6, 32.0)}
    return [Candidate(schedule, rule, peak) for schedule in schedules for rule, peak in rules.items()]


def regrets(found: dict[str, tuple[int, pd.DataFrame]]) -> pd.DataFrame:
    """Return a row for each candidate: schedule, peak, regret on each workload, and the worst and mean of them.

    Args:
        found: batch size and :func:`means` of each workload.
    """
    tables = [table for _, table in found.values()]
    schedules = [*dict.fromkeys(str(arm) for table in tables for arm in table.index), BY_NOISE]
    rates = [float(lr) for lr in tables[0].columns]
    rows = []
    for one in candidates(schedules, rates):
        lost = {}
        for name, (batch_size, table) in found.items():
            nearest = min(table.columns, key=lambda lr: abs(math.log(lr / one.peak(batch_size))))
            lost[name] = float(np.nanmax(table.to_numpy()) - table.loc[one.arm(batch_size), nearest])
        values = list(lost.values())
        rows.append({"schedule": one.schedule, "peak": one.rule, **lost, "worst": max(values), "mean": np.mean(values)})
    return pd.DataFrame(rows).sort_values(["worst", "mean"], ignore_index=True)


def best_shares(found: dict[str, tuple[int, pd.DataFrame]]) -> pd.DataFrame:
    """Return for each workload the best mean of each schedule over the rates, in percent, and its rate."""
    rows = []
    for name, (_, table) in found.items():
        cells = {arm: f"{row.max():.2f} ({row.idxmax():g})" for arm, row in table.iterrows()}
        rows.append({"workload": name, **cells})
    return pd.DataFrame(rows)


def text_table(frame: pd.DataFrame) -> str:
    """Return a frame as a Markdown table, numbers with two digits."""
    lines = [f"| {' | '.join(map(str, frame.columns))} |", f"|{'---|' * len(frame.columns)}"]
    for row in frame.itertuples(index=False):
        lines.append(f"| {' | '.join(f'{cell:.2f}' if isinstance(cell, float) else str(cell) for cell in row)} |")
    return "\n".join(lines)


def main() -> None:
    found = {}
    for name in WORKLOADS:
        file = RESULTS / f"{name}.csv"
        if not file.is_file():
            raise SystemExit(f"{file} must be there: python benchmarks/studies/run.py {name} --out F --collect")
        frame = pd.read_csv(file)
        found[name] = int(frame["batch_size"].iloc[0]), means(frame)
    lost = regrets(found)
    now = lost[(lost["schedule"] == "phi75") & (lost["peak"] == "16 √(B / 256), at most 22.6")]
    shown = pd.concat([lost.head(10), now]).drop_duplicates(["schedule", "peak"])
    parts = [text_table(best_shares(found)), "Regrets in points, the best ten candidates and the present plan:"]
    write_page("plan", "python benchmarks/studies/regret.py", "\n\n".join([*parts, text_table(shown)]))
    print(text_table(shown))


if __name__ == "__main__":
    main()
