"""Study p1, docs/results/studies/p1.md: the lead of TVLARS under the published protocol, and what is left of it after one correction after another.

    python benchmarks/studies/run.py p1-8192 --out /tmp/studies --collect     # and p1-equal-8192 and so on
    python benchmarks/studies/waterfall.py 8192

The first steps are analyses of the same runs. The last three are tunings with equal numbers of trials, of which the
final runs count, paired by seed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from results import RESULTS, draw, write_page

from tvlars.lab import expected_best
from tvlars.lab.comparison.statistics import mean_and_interval

FIRST = "tvlars"
FEWEST = 3
"""Trials of LARS with warm-up, the arm with the fewest that was tuned."""
PUBLISHED = (
    "as published: best epoch, a quarter of the test set, best of all trials",
    "last epoch",
    "whole test set",
    f"mean of the best of {FEWEST} trials",
    "trial chosen by validation",
)
TUNED = {
    "equal": "tuned alike, fresh seeds",
    "biases": "biases and norms with a rate of their own",
    "corrected": "all corrections",
}


@dataclass(frozen=True)
class Lead:
    """Lead of TVLARS over another arm in points; ``half`` is half of its 95 % interval, NaN without seeds."""

    step: str
    arm: str
    points: float
    half: float = math.nan


def published(frame: pd.DataFrame) -> dict[str, list[float]]:
    """Return the accuracy in percent of each arm after each step of ``PUBLISHED``; a run that diverged counts as 0."""
    found = {}
    for arm, runs in frame.groupby("arm"):
        values = runs.fillna(dict.fromkeys(("share_best", "share_last", "test_accuracy", "validation_accuracy"), 0.0))
        whole = values["test_accuracy"].tolist()
        steps = [
            values["share_best"].max(),
            values["share_last"].max(),
            max(whole),
            expected_best(whole, min(FEWEST, len(whole))),
            values.loc[values["validation_accuracy"].idxmax(), "test_accuracy"],
        ]
        found[str(arm)] = [100 * float(value) for value in steps]
    return found


def leads(frame: pd.DataFrame, tuned: dict[str, pd.DataFrame]) -> list[Lead]:
    """Return the leads after all steps, in order.

    Args:
        frame: runs under the published protocol.
        tuned: runs of the tunings by key of ``TUNED``; those that are not there are left out.
    """
    values = published(frame)
    others = [arm for arm in values if arm != FIRST]
    found = [
        Lead(step, arm, values[FIRST][i] - values[arm][i]) for i, step in enumerate(PUBLISHED) for arm in sorted(others)
    ]
    for key, step in TUNED.items():
        if key not in tuned:
            continue
        final = tuned[key][tuned[key]["part"] == "final"].fillna({"test_accuracy": 0.0})
        table = 100 * final.pivot(index="seed", columns="arm", values="test_accuracy")
        for arm in sorted(set(table) - {FIRST}):
            mean, half = mean_and_interval((table[FIRST] - table[arm]).dropna().tolist())
            found.append(Lead(step, str(arm), mean, half))
    return found


def table_of(found: list[Lead]) -> str:
    """Return the leads in Markdown, a line for each step."""
    arms, steps = (list(dict.fromkeys(getattr(one, name) for one in found)) for name in ("arm", "step"))
    cells = {(one.step, one.arm): _said(one) for one in found}
    lines = [
        f"| each with those before it | {' | '.join(f'over {arm}' for arm in arms)} |",
        f"|---|{'---|' * len(arms)}",
    ]
    return "\n".join(
        [*lines, *(f"| {step} | {' | '.join(cells.get((step, arm), '') for arm in arms)} |" for step in steps)]
    )


def _said(one: Lead) -> str:
    return f"{one.points:+.2f}" if math.isnan(one.half) else f"{one.points:+.2f} ± {one.half:.2f}"


def painter(found: list[Lead]) -> Callable[[Any, Any], None]:
    """Return the function that draws the leads for a theme: a panel for each arm, a bar for each step."""
    arms, steps = (list(dict.fromkeys(getattr(one, name) for one in found)) for name in ("arm", "step"))

    def paint(figure: Any, theme: Any) -> None:
        panels = figure.subplots(len(arms), 1, sharex=True, squeeze=False)[:, 0]
        for i, (arm, axes) in enumerate(zip(arms, panels, strict=True)):
            for one in (one for one in found if one.arm == arm):
                at = steps.index(one.step)
                axes.barh(at, one.points, 0.7, color=theme.color(i), alpha=0.75)
                if not math.isnan(one.half):
                    axes.errorbar(one.points, at, xerr=one.half, color=theme.ink, linewidth=1, capsize=2)
            axes.axvline(0, color=theme.faint, linewidth=1)
            axes.set_yticks(range(len(steps)), [str(number) for number in range(1, len(steps) + 1)])
            axes.invert_yaxis()
            axes.set_title(f"lead over {arm}")
        panels[-1].set_xlabel("points of accuracy; steps as in the table")

    return paint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batch_size", type=int, choices=(512, 2048, 8192))
    size = parser.parse_args().batch_size
    frame = pd.read_csv(RESULTS / f"p1-{size}.csv")
    files = {key: RESULTS / f"p1-{key}-{size}.csv" for key in TUNED}
    found = leads(frame, {key: pd.read_csv(file) for key, file in files.items() if file.is_file()})
    draw(f"study-p1-{size}", painter(found))
    write_page("p1", f"python benchmarks/studies/waterfall.py {size}", table_of(found))


if __name__ == "__main__":
    main()
