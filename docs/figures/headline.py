"""Schedules of LARS over a run, and the differences in test accuracy between TVLARS and the others."""

from __future__ import annotations

import pandas as pd
from _style import HERE, Theme, draw
from matplotlib.figure import Figure

from tvlars import plan

ARMS = {  # of study a1: label, and options of the plan
    "phi": ("TVLARS", dict(optimizer="tvlars", delay=45, delay_factor=0.259455)),  # half at 75 %, 2 % at the end
    "trapezoid": ("LARS, trapezoid", dict(schedule="trapezoid", decay_share=0.5, warmup_epochs=0)),
    "cosine": ("LARS, cosine", dict(schedule="cosine", warmup_epochs=0)),
    "cosine-warm5": ("LARS, cosine, 5 % warm-up", dict(schedule="cosine", warmup_epochs=0.5)),
    "cosine-warm20": ("LARS, cosine, 20 % warm-up", dict(schedule="cosine", warmup_epochs=2)),
    "poly2-warm5": ("LARS, polynomial, 5 % warm-up", dict(schedule="polynomial", warmup_epochs=0.5)),
}


def headline(figure: Figure, theme: Theme) -> None:
    above, below = figure.subplots(2, 1, height_ratios=[1, 1.15])
    pairs = pd.read_csv(HERE.parent / "results" / "studies" / "a1-pairs.csv")
    for i, (arm, (_, options)) in enumerate(ARMS.items()):
        color, dash = (theme.color(i), "-") if i < len(theme.series) else (theme.ink, "--")
        p = plan(8192, 50_000, 10, **{"optimizer": "lars", **options})
        steps = range(1, p.total_steps + 1)
        above.plot(steps, [p.factor(t) for t in steps], dash, color=color, linewidth=2.6 if arm == "phi" else 1.6)
        if arm == "phi":
            continue
        (pair,) = (row for row in pairs.to_dict("records") if {row["better"], row["worse"]} == {"phi", arm})
        gain = 100 * pair["difference"] * (1 if pair["better"] == "phi" else -1)
        below.errorbar(gain, i, xerr=100 * pair["interval"], fmt="o", color=color, markersize=5, capsize=2.5)
    above.set(xlabel="optimizer step", ylabel="factor of the rate", xlim=(0, 60), ylim=(0, 1.08))
    above.set_title("Schedules; the thick line is TVLARS")
    below.axvline(0, color=theme.faint, linewidth=1)
    below.set_yticks(range(1, len(ARMS)), [label for label, _ in list(ARMS.values())[1:]])
    below.set(ylim=(len(ARMS) - 0.5, 0.5), xlim=(-1, 2.2), xlabel="lead of TVLARS, points of test accuracy")
    below.set_title("Lead over each, 95 % intervals")


if __name__ == "__main__":
    draw("headline", 4.0, headline)
