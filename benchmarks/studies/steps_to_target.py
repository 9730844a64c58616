"""Steps to a target over the batch size: the page of study b1, and the target that b1-target gives it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
from results import FAILED, GUESS, RESULTS, draw, log_ticks, said_runs, whole_seeds, write_page

from tvlars.lab.comparison.statistics import mean_and_interval
from tvlars.lab.experiments.scaling.result import ScalingResult
from tvlars.lab.experiments.studies.runs import Ran
from tvlars.lab.protocol import Protocol
from tvlars.lab.tasks import Measure

SHARE = 0.9
"""Share of what the reference gains over guessing that is the target."""


def target_of(frame: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """Return the target, an accuracy, and a row for each rate of the reference: lr, mean and interval, in percent.

    The interval is half the width of that of 95 % (Student's t). A run that diverged counts as guessing.
    """
    counted = frame.assign(counted=frame["validation_accuracy"].where(frame["status"] == "finished", GUESS))
    rows = [(lr, *mean_and_interval((100 * one).tolist())) for lr, one in counted.groupby("lr")["counted"]]
    rates = pd.DataFrame(rows, columns=["lr", "mean", "interval"])
    return round(GUESS + SHARE * (float(rates["mean"].max()) / 100 - GUESS), 3), rates


def result_of(protocol: Protocol, frame: pd.DataFrame) -> ScalingResult:
    """Return the results of whole seeds in a CSV of b1, with the arms and horizons that are there.

    Raises:
        SystemExit: no seed has all runs.
    """
    seeds = whole_seeds(frame, "arm", "batch_size", "horizon", "lr")
    if not seeds:
        raise SystemExit(f"{RESULTS / f'{protocol.name}.csv'} must have all runs of a seed at least")
    accuracy = frame["validation_accuracy"]
    runs = frame.assign(
        accuracy=accuracy, failed=~(accuracy > FAILED), scale=math.nan, folder=frame["run"], note=""
    ).sort_values("arm", key=lambda arms: arms.map(list(protocol.content["arms"]).index), kind="stable")
    runs = runs[runs["seed"].isin(seeds)]
    lengths = frame.groupby("batch_size")["horizon"].unique()
    horizons = tuple(f"{size}={','.join(str(int(one)) for one in sorted(some))}" for size, some in lengths.items())
    config = replace(protocol.config, horizons=horizons, seeds=tuple(seeds))
    return ScalingResult(RESULTS, config, Ran(runs, GUESS, "validation accuracy", ""))


def tables(result: ScalingResult) -> str:
    """Return the table of steps and critical batch sizes, and that of the best rates, in Markdown."""
    sizes, targets = result.config.batch_sizes, result.targets()
    head = ["arm", *(f"steps at {size:,}" for size in sizes), "B_crit, samples (95 %)", "S_min, steps"]
    lines = []
    for fit in result.fits().to_dict("records"):
        mine = targets[targets["arm"] == fit["arm"]].to_dict("records")
        least = "-" if math.isnan(fit["least"]) else f"{fit['least']:,.1f}"
        lines.append([fit["arm"], *map(_steps, mine), _critical(fit), least])
    rates = [
        [arm, *("-" if math.isnan(lr) else f"{lr:.3g}" for lr in mine["lr"])]
        for arm, mine in targets.groupby("arm", sort=False)
    ]
    rates_head = ["rate of the run that reaches it", *(f"{size:,}" for size in sizes)]
    return "\n\n".join(_table(*one) for one in ((head, lines), (rates_head, rates)))


def _steps(row: Any) -> str:
    if row["steps"] == math.inf:
        return f"not within {row['longest']:,}"
    ends = "" if math.isnan(row["low"]) else f" ({row['low']:,.0f} to {_end(row['high'])})"
    return f"{'at most ' * row['at_most']}{row['steps']:,.0f}{ends}"


def _end(value: float) -> str:
    return "not reached" if math.isinf(value) else f"{value:,.0f}"


def _critical(row: Any) -> str:
    if row["why"]:
        return "-"
    if row["beyond"]:
        return f"{row['beyond']} all"
    ends = "" if math.isnan(row["low"]) else f" ({row['low']:,.0f} to {row['high']:,.0f})"
    return f"{row['critical']:,.0f}{ends}" + ", extrapolated" * bool(row["extrapolated"])


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(one)} |" for one in (head, ["---"] * len(head), *lines))


def answers(result: ScalingResult) -> list[str]:
    """Return the results in sentences: one for each arm, then critical batch sizes held against that of the first."""
    said = result.answers()
    fits = [row for row in result.fits().to_dict("records") if not row["why"] and not row["beyond"]]
    if not fits or fits[0]["arm"] != result.arms[0]:
        return [*said, f"{result.arms[0]} has no critical batch size that others could be held against."]
    first = fits[0]
    for row in fits[1:]:
        apart = first["low"] > row["high"] or row["low"] > first["high"]
        times = first["critical"] / row["critical"]
        said.append(
            f"The critical batch size of {first['arm']} is {times:.2f} times that of {row['arm']}; their intervals "
            + ("do not overlap." if apart else "overlap.")
        )
    return said


def painter(result: ScalingResult) -> Callable[[Any, Any], None]:
    """Return the function that draws steps to the target over the batch size for a theme.

    Points of arms at one batch size stand side by side. Bars at the bottom are intervals of critical batch sizes.
    """
    targets, sizes, arms = result.targets(), list(result.config.batch_sizes), result.arms
    fits = {row["arm"]: row for row in result.fits().to_dict("records")}

    def paint(figure: Any, theme: Any) -> None:
        axes = figure.add_subplot()
        reached = targets[targets["steps"] < math.inf]
        bottom = float(reached["steps"].min()) / 1.4
        for i, arm in enumerate(arms):
            color, dash = (theme.color(i), "-") if i < len(theme.series) else (theme.ink, "--")
            mine = reached[reached["arm"] == arm]
            if mine.empty:
                continue
            aside = 1.05 ** (i - (len(arms) - 1) / 2)
            x, y = mine["batch_size"] * aside, mine["steps"]
            axes.plot(x, y, dash, color=color, label=arm, marker="o", markersize=3)
            ends = y - mine["low"], mine["high"].where(mine["high"] < math.inf, y) - y  # one seed has none
            axes.errorbar(
                x,
                y,
                yerr=[one.fillna(0.0).clip(lower=0) for one in ends],
                fmt="none",
                color=color,
                linewidth=1,
                capsize=2,
            )
            first, most = float(x.iloc[0]), float(y.iloc[0])
            end = min(sizes[-1] * aside, first * most / bottom)
            axes.plot([first, end], [most, most * first / end], ":", color=color, linewidth=1)
            fit, at = fits[arm], bottom / 1.16 ** (i + 1)
            if not fit["why"] and not fit["beyond"]:
                bar = [min(max(one, sizes[0] / 1.5), sizes[-1] * 1.5) for one in (fit["low"], fit["high"])]
                axes.plot(bar, [at, at], "-", color=color, linewidth=2.5, solid_capstyle="butt")
                if bar[0] <= fit["critical"] <= bar[1]:
                    axes.plot([fit["critical"]], [at], "|", color=color, markersize=7, markeredgewidth=2)
        axes.plot([], [], ":", color=theme.ink, linewidth=1, label="perfect scaling")
        axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="optimizer steps")
        axes.set_ylim(bottom=bottom / 1.16 ** (len(arms) + 1))
        log_ticks(axes.yaxis)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.minorticks_off()
        axes.set_title(f"Steps to {100 * result.config.target:.4g} % validation accuracy; bars: critical batch sizes")
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)

    return paint


def make_page(protocol: Protocol) -> None:
    """Put the target, or tables, figure and sentences of b1, into the page b1."""
    name, command = protocol.name, f"python benchmarks/studies/run.py {protocol.name}"
    frame = pd.read_csv(RESULTS / f"{name}.csv")
    if name == "b1-target":
        target, rates = target_of(frame)
        at = int(rates["mean"].argmax())
        lines = [[f"{row.lr:g}", Measure().text(row.mean / 100, row.interval / 100)] for row in rates.itertuples()]
        edge = " It is at an edge of the grid." if at in (0, len(rates) - 1) else ""
        said = f"The best rate is {rates['lr'][at]:g}.{edge} The target is {target:.3f}."
        text = f"{said_runs(protocol, frame)}\n\n{_table(['rate', 'validation accuracy, %'], lines)}\n\n{said}"
        return write_page("b1", command, text)
    result = result_of(protocol, frame)
    words = f"Optimizer steps to the target over the batch size for {len(result.arms)} arms, with perfect scaling"
    figure = draw(f"study-{name}", painter(result), words, 5.0)
    sentences = "\n".join(f"- {one}" for one in (*answers(result), *result.notes()))
    write_page("b1", command, f"{said_runs(protocol, result.runs)}\n\n{sentences}\n\n{figure}\n\n{tables(result)}")
