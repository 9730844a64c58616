"""Sharpness of the runs of study a2: a CSV of all measurements, and the tables, the test and the figure made of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from results import OVER, RESULTS, draw, log_ticks, said_runs, whole_seeds, write_page

from tvlars.lab.comparison.family import pairs_of
from tvlars.lab.comparison.paired import LEVEL, fewest_seeds, holm, sign_flip_p
from tvlars.lab.comparison.statistics import mean_and_interval
from tvlars.lab.protocol import Protocol
from tvlars.lab.protocol.parse import family_of
from tvlars.lab.report.sharpness import moments
from tvlars.lab.run_folder.loaded_run import load_run

COLUMNS = (
    *("arm", "seed", "step", "epoch", "at", "loss", "hessian_max", "hessian_max_at_initial_norm", "worst_case"),
    *("average_case", "average_case_error", "hessian_trace", "hessian_trace_error", "keskar", "samples", "statistics"),
    *("protocol", "run"),
)
"""``at`` says what a row was measured for, as in "step 12; loss 1"; ``loss`` is that of the images measured on."""
MEASURES = {
    "hessian_max": "λ₁",
    "hessian_max_at_initial_norm": "λ₁ with kernels at their initial norms",
    "worst_case": "adaptive worst case",
}


def measurements(folder: Path, protocol: str) -> pd.DataFrame:
    """Return a row with ``COLUMNS`` for each measurement of the finished runs in ``folder``."""
    found = [pd.DataFrame(columns=list(COLUMNS))]
    for file in sorted(folder.glob("*/config.json")):
        run = load_run(file.parent)
        if run.config is not None and run.status in OVER and len(run.sharpness):
            named = dict(arm=run.config.arm_name, seed=run.config.seed, protocol=protocol, run=run.folder.name)
            found.append(run.sharpness.assign(**named)[list(COLUMNS)])
    rows = pd.concat(found[1:] or found)
    return rows.sort_values(["seed", "arm", "step"], ignore_index=True)


def collect(protocol: Protocol, folder: Path) -> None:
    """Write the measurements of a study to its CSV."""
    rows, file = measurements(folder, protocol.digest), RESULTS / f"{protocol.name}-sharpness.csv"
    rows.to_csv(file, index=False)
    print(f"{len(rows)} measurements in {file}")


class Sharpness:
    """Measurements of whole seeds at equal moments: steps and levels of the training loss.

    Args:
        runs: a row for each run, with arm, seed and test_accuracy.
        rows: measurements with ``COLUMNS``.
        arms: in the order of the tables; ratios are to the first one.
        family: pairs that are tested.
    """

    def __init__(self, runs: pd.DataFrame, rows: pd.DataFrame, arms: list[str], family: str) -> None:
        self.arms, self.first = arms, arms[0]
        self.seeds = whole_seeds(runs, "arm")
        self.runs = runs[runs["seed"].isin(self.seeds)]
        counted = rows[rows["seed"].isin(self.seeds)]
        self.rows = counted.assign(at=counted["at"].str.split("; ")).explode("at", ignore_index=True)
        self.moments = [at for at, _ in moments(self.rows)]
        pairs = pairs_of(family, arms)
        self.pairs = [pair for pair in itertools.combinations(arms, 2) if frozenset(pair) in pairs]

    def values(self, name: str, at: str, arm: str) -> pd.Series[float]:
        """Return a column at a moment by seed; seeds that never reached the moment are missing."""
        mine = self.rows[(self.rows["at"] == at) & (self.rows["arm"] == arm)]
        return mine.set_index("seed")[name].astype(float).dropna()

    def ratio(self, name: str, at: str, arm: str, to: str) -> pd.Series[float]:
        """Return the logarithms of ratios of two arms over their common seeds."""
        return (np.log(self.values(name, at, arm)) - np.log(self.values(name, at, to))).dropna()

    def tests(self) -> pd.DataFrame:
        """Return the tests of λ₁ at the first moment, one row for each pair of the family.

        Columns: arm, to, ratio, low and high (95 % interval by Student's t, of logarithms), seeds, p (exact sign-flip
        test of the logarithms) and adjusted (Holm); both are NaN with too few seeds for the family.
        """
        rows = []
        for to, arm in self.pairs:
            logs = self.ratio("hessian_max", self.moments[0], arm, to)
            enough = len(logs) >= fewest_seeds(len(self.pairs))
            p = sign_flip_p(logs) if enough else math.nan
            rows.append((arm, to, *_geometric(logs), len(logs), p))
        found = pd.DataFrame(rows, columns=["arm", "to", "ratio", "low", "high", "seeds", "p"])
        return found.assign(adjusted=holm(found["p"].tolist()))

    def tables(self) -> str:
        """Return all tables, in Markdown."""
        head = ["arm", *self.moments]
        parts = [
            f"### The test: λ₁ at {self.moments[0]}",
            _table(_HEAD, [_tested(row) for row in _rows(self.tests())]),
        ]
        for name, title in MEASURES.items():
            lines = [[arm, *(_said(np.log(self.values(name, at, arm))) for at in self.moments)] for arm in self.arms]
            lines += [
                [f"{arm} / {self.first}", *(_said(self.ratio(name, at, arm, self.first)) for at in self.moments)]
                for arm in self.arms[1:]
            ]
            parts += [f"### {title if title.startswith('λ') else title.capitalize()}", _table(head, lines)]
        lines = [[arm, *(self._loss(at, arm) for at in self.moments), self._accuracy(arm)] for arm in self.arms]
        parts += ["### Loss of the images measured on", _table([*head, "test accuracy, %"], lines)]
        return "\n\n".join(parts)

    def _loss(self, at: str, arm: str) -> str:
        """Return the mean loss, and for a level of the training loss the mean step."""
        losses, steps = self.values("loss", at, arm), self.values("step", at, arm)
        if losses.empty:
            return "-"
        return f"{losses.mean():.3f}" + (f", step {steps.mean():.1f}" if at.startswith("loss") else "")

    def _accuracy(self, arm: str) -> str:
        mean, half = mean_and_interval((100 * self.runs.loc[self.runs["arm"] == arm, "test_accuracy"]).tolist())
        return f"{mean:.2f}" + ("" if math.isnan(half) else f" ± {half:.2f}")

    def answers(self) -> list[str]:
        """Return the results in sentences, one for each pair of the family."""
        said = []
        for row in _rows(self.tests()):
            arm, to = row["arm"], row["to"]
            if math.isnan(row["p"]):
                verdict = f"no test is made with {row['seeds']} seeds"
            else:
                verdict = f"exact p = {row['p']:.3g}, by Holm {row['adjusted']:.3g}: "
                sharper = "sharper" if row["ratio"] > 1 else "less sharp"
                verdict += sharper if row["adjusted"] <= LEVEL else "no significant difference"
            times = _ends(row["ratio"], row["low"], row["high"])
            text = f"At {self.moments[0]} λ₁ of {arm} is {times} times that of {to}; {verdict}."
            ratios = {"with kernels at their initial norms": ("hessian_max_at_initial_norm", self.moments[0])}
            ratios |= {f"at a training {at}": ("hessian_max", at) for at in self.moments if at.startswith("loss")}
            others = [(where, self.ratio(*which, arm, to)) for where, which in ratios.items()]
            known = [f"{_said(logs)} {where}" for where, logs in others if len(logs)]
            said.append(f"{text} Ratios: {', '.join(known)}." if known else text)
        return said

    def painter(self) -> Callable[[Any, Any], None]:
        """Return the function that draws λ₁ over the steps for a theme, in a second panel at the initial norms."""
        steps = [int(at.removeprefix("step ")) for at in self.moments if at.startswith("step")]

        def paint(figure: Any, theme: Any) -> None:
            panels = figure.subplots(2, 1, sharex=True, sharey=True)
            for axes, name in zip(panels, list(MEASURES)[:2], strict=True):
                for i, arm in enumerate(self.arms):
                    values = [self.values(name, f"step {step}", arm) for step in steps]
                    means = [_geometric(np.log(one))[0] for one in values]
                    axes.plot(steps, means, color=theme.color(i), label=arm, marker="o", markersize=3)
                    ends = [one.min() for one in values], [one.max() for one in values]
                    axes.fill_between(steps, *ends, color=theme.color(i), alpha=0.15, linewidth=0)
                axes.set(yscale="log", ylabel="λ₁")
                log_ticks(axes.yaxis)
            panels[0].set_title(f"λ₁: geometric mean and range of {len(self.seeds)} seeds")
            panels[1].set_title(MEASURES["hessian_max_at_initial_norm"])
            panels[-1].set_xlabel("optimizer step")
            panels[-1].set_xticks(steps)
            figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)

        return paint


_HEAD = ["arm", "ratio to", "λ₁, ratio (95 %)", "seeds", "exact p", "p by Holm"]


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _tested(row: dict[str, Any]) -> list[str]:
    p = ["-" if math.isnan(row[name]) else f"{row[name]:.3g}" for name in ("p", "adjusted")]
    return [row["arm"], row["to"], _ends(row["ratio"], row["low"], row["high"]), str(row["seeds"]), *p]


def _geometric(logs: pd.Series[float]) -> tuple[float, float, float]:
    """Return the geometric mean of values with the ends of its 95 % interval, by Student's t, from their logarithms."""
    mean, half = mean_and_interval(logs.tolist())
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def _said(logs: pd.Series[float]) -> str:
    return _ends(*_geometric(logs))


def _ends(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.3g}" if math.isnan(low) else f"{mean:.3g} ({low:.3g} to {high:.3g})"


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(one)} |" for one in (head, ["---"] * len(head), *lines))


def make_page(protocol: Protocol) -> None:
    """Draw the figure, and put figure, tables and sentences into the page of the study."""
    name = protocol.name
    runs, rows = (pd.read_csv(RESULTS / f"{one}.csv") for one in (name, f"{name}-sharpness"))
    found = Sharpness(runs, rows, list(protocol.content["arms"]), family_of(protocol.content))
    if not found.seeds:
        raise SystemExit(f"{RESULTS / f'{name}.csv'} must have all runs of a seed at least")
    said = f"Largest eigenvalue over the steps for {len(found.arms)} arms, below it with kernels at their initial norms"
    figure = draw(f"study-{name}", found.painter(), said, 5.6)
    answers = "\n".join(f"- {sentence}" for sentence in found.answers())
    text = f"{said_runs(protocol, found.runs)}\n\n{answers}\n\n{figure}\n\n{found.tables()}"
    write_page(name, f"python benchmarks/studies/run.py {name}", text)
