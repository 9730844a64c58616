"""Tables, figure and answers of a study of ``tune``, made of two CSV files: its runs, and its paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from tvlars.lab.comparison.paper import p_text, seeds_text
from tvlars.lab.comparison.statistics import MEANS, mean_and_interval, table
from tvlars.lab.comparison.verdict import answers
from tvlars.lab.tasks import Measure

DEPTH = 4.0
"""Points below the highest mean that the panel of the search reaches at least."""


class Tuned:
    """A tuning: the search of each arm on validation images, and final runs with fresh seeds.

    Args:
        runs: rows with the columns of ``results.COLUMNS``.
        pairs: rows of ``Comparison.differences()`` for the final runs.
        arms: in the order of the protocol; of each pair the earlier one is compared with the later one.
    """

    def __init__(self, runs: pd.DataFrame, pairs: pd.DataFrame, arms: list[str]) -> None:
        self.arms = arms
        self.trials, self.final = (runs[runs["part"] == part] for part in ("trial", "final"))
        self.every_pair = pairs
        self.pairs = pairs[pairs["in_family"].astype(bool)]

    def search(self, arm: str) -> pd.Series[float]:
        """Return the mean validation accuracy in percent by learning rate, over the tuning seeds that have tried it; a
        diverged run counts as guessing."""
        mine = self.trials[self.trials["arm"] == arm]
        counted = mine.assign(counted=mine["validation_accuracy"].where(mine["status"] == "finished", 0.1))
        return 100 * counted.groupby("lr")["counted"].mean().sort_index()

    def seeds(self, arm: str) -> pd.Series[int]:
        """Return the number of tuning seeds by learning rate."""
        mine = self.trials[self.trials["arm"] == arm]
        return mine.groupby("lr")["seed"].nunique().sort_index()

    def chosen(self, arm: str) -> float:
        """Return the learning rate of the final runs; NaN if there are none."""
        rates = self.final.loc[self.final["arm"] == arm, "lr"]
        return float(rates.iloc[0]) if len(rates) else math.nan

    def tables(self) -> str:
        """Return the table of arms, that of pairs, and the answers, in Markdown."""
        of_training = ("training accuracy, %",) if self.final["train_accuracy"].notna().any() else ()
        head = "arm", "search runs", "rates tried", "chosen lr", "validation, tuning seeds", *of_training
        head = *head, "test accuracy, %", "runs"
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for arm in self.arms:
            mine, lr = self.final[self.final["arm"] == arm], self.chosen(arm)
            trials = self.trials[self.trials["arm"] == arm]
            found = trials.loc[np.isclose(trials["lr"], lr), "validation_accuracy"].dropna()
            over = mine[mine["status"] == "finished"]
            tested, trained = (100 * over[f"{part}_accuracy"] for part in ("test", "train"))
            cells = [
                arm,
                f"{len(trials)}",
                f"{trials['lr'].min():.4g} to {trials['lr'].max():.4g}" if len(trials) else "",
                "" if math.isnan(lr) else f"{lr:.4g}",
                " ".join(f"{100 * value:.2f}" for value in found),
                *(_mean(trained.dropna().tolist()) for _ in of_training),
                _mean(tested.tolist()),
                f"{len(tested)} of {len(mine)}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n\n".join(["\n".join(lines), self._pairs_table(), self.answers()])

    def _pairs_table(self) -> str:
        margin = 100 * float(self.pairs["margin"].iloc[0]) if len(self.pairs) else 0.3
        lines = [
            f"| pair | difference, points | p | p (Holm) | Hedges' g_z | p of equivalence within {margin:g} (Holm) | "
            f"seeds for {margin:g} | verdict |",
            f"|{'---|' * 8}",
        ]
        for first, second, pair in signed(self.pairs, self.arms):
            cells = [
                f"{first} less {second}",
                f"{pair['signed']:+.2f}" + ("" if math.isnan(half := 100 * pair["interval"]) else f" ± {half:.2f}"),
                p_text(pair["p_value"]),
                p_text(pair["p_adjusted"]),
                "-" if math.isnan(pair["effect_size"]) else f"{math.copysign(pair['effect_size'], pair['signed']):.2f}",
                p_text(pair["equivalence_p_adjusted"]),
                "-" if math.isnan(pair["seeds_needed"]) else seeds_text(pair["seeds_needed"]),
                pair["verdict"],
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def answers(self) -> str:
        """Return the results in sentences, as the laboratory words them."""
        rows = table(self.final.assign(**dict.fromkeys(MEANS)))
        return "\n".join(f"- {sentence}" for sentence in answers(rows, self.every_pair, Measure()))

    def painter(self) -> Callable[[Any, Any], None]:
        """Return the function that draws the figure for a theme: the search above, the differences below."""

        def paint(figure: Any, theme: Any) -> None:
            pairs = signed(self.pairs, self.arms)
            above, below = figure.subplots(2, 1, height_ratios=[1.3, 0.35 + 0.22 * max(len(pairs), 1)])
            self._paint_search(above, theme)
            for i, (_, second, pair) in enumerate(pairs):
                color, _ = _line(theme, self.arms.index(second))
                below.errorbar(
                    pair["signed"], i, xerr=100 * pair["interval"], fmt="o", color=color, markersize=4, capsize=2
                )
            if pairs:
                margin = 100 * float(pairs[0][2]["margin"])
                below.axvspan(-margin, margin, color=theme.faint, alpha=0.2, linewidth=0)
            below.axvline(0, color=theme.faint, linewidth=1)
            below.set_title("Differences, 95 % intervals; grey: margin")
            below.set_yticks(range(len(pairs)), [f"{first} less {second}" for first, second, _ in pairs])
            below.set_ylim(len(pairs) - 0.5, -0.5)
            below.set_xlabel("points of test accuracy")
            figure.legend(*above.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)

        return paint

    def _paint_search(self, axes: Any, theme: Any) -> None:
        found = {arm: self.search(arm) for arm in self.arms}
        top = max((one.max() for one in found.values() if len(one)), default=100.0)
        ranges = [(one.index.min(), one.index.max()) for one in found.values() if len(one)]
        alike = max(high for _, high in ranges) <= 16 * min(high for _, high in ranges)
        for i, (arm, one) in enumerate(found.items()):
            color, dash = _line(theme, i)
            best = self.chosen(arm) if not math.isnan(self.chosen(arm)) else one.idxmax()
            rates = np.asarray(one.index, dtype=float) / (1.0 if alike else best)
            axes.plot(rates, one, dash, color=color, label=arm, marker="o", markersize=3)
            once = self.seeds(arm).reindex(one.index) < self.seeds(arm).max()
            axes.plot(rates[once], one[once], "o", color=color, markersize=4, markerfacecolor=theme.ground)
        axes.set_xscale("log", base=2)
        worst = min((one.max() for one in found.values() if len(one)), default=top)
        axes.set_ylim(min(top - DEPTH, worst - 1), top + 0.1 * DEPTH)  # the best of each arm is seen
        axes.set_xlabel("learning rate" if alike else "learning rate, in units of the chosen one")
        axes.set_ylabel("validation, %")
        axes.set_title("Search (hollow: fewer tuning seeds)")
        if alike:
            ticks = sorted({round(float(rate), 1) for one in found.values() for rate in one.index})
            axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
            axes.minorticks_off()


def signed(pairs: pd.DataFrame, arms: list[str]) -> list[tuple[str, str, dict[Any, Any]]]:
    """Return each pair with ``signed``, the difference of the earlier arm from the later one in points, in the order of
    ``arms``."""
    found = []
    for pair in pairs.to_dict("records"):
        first, second = sorted((pair["better"], pair["worse"]), key=arms.index)
        sign = 1 if pair["better"] == first else -1
        found.append((first, second, {**pair, "signed": 100 * sign * pair["difference"]}))
    return sorted(found, key=lambda one: (arms.index(one[0]), arms.index(one[1])))


def _line(theme: Any, number: int) -> tuple[str, str]:
    """Return colour and dash of an arm."""
    count = len(theme.series)
    return (theme.color(number), "-") if number < count else (theme.ink, "--")


def _mean(values: list[float]) -> str:
    if not values:
        return "-"
    mean, half = mean_and_interval(values)
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} ± {half:.2f}"
