"""Page of a scaling study: tables, figures and sentences."""

from __future__ import annotations

import math
from typing import Any

from tvlars.lab.comparison.colors import colors_of
from tvlars.lab.comparison.paper import means_of, number_text
from tvlars.lab.experiments.scaling.result import ScalingResult, said_ends
from tvlars.lab.experiments.scaling.target import Fit
from tvlars.lab.experiments.studies.runs import save_study
from tvlars.lab.report.chart import Chart, Line, Marks, Span, powers_of_two
from tvlars.lab.report.study import StudyReport, StudyTable
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.tasks import Measure


def save_results(result: ScalingResult) -> None:
    """Write scaling.json, results.csv (runs), scaling.csv (targets), horizons.csv, and page, figure and tables."""
    tables = {"targets": result.targets(), "fits": result.fits(), "horizons": result.horizons()}
    files = {"horizons.csv": tables["horizons"], "scaling.csv": tables["targets"]}
    save_study(result, report_of(result), files, tables, target=result.config.target)


def report_of(result: ScalingResult) -> StudyReport:
    """Return the title, tables, charts and sentences of the results."""
    title = f"Scaling of {', '.join(result.arms)}: steps to {result.config.target:.4g} over the batch size"
    tables = [_targets(result), _fits(result), _horizons(result)]
    said = title, command_line(), result.answers(), result.ran.protocol
    return StudyReport(*said, tables, _charts(result), result.notes())


def _targets(result: ScalingResult) -> StudyTable:
    rows: list[list[str]] = []
    for row in result.targets().to_dict("records"):
        head = [row["arm"], f"{row['batch_size']:,}"]
        if row["steps"] == math.inf:
            rows.append([*head, f"not within {row['longest']:,}", *["-"] * 4])
            continue
        least = "at most " if row["at_most"] else ""
        lost, ends = len(result.config.seeds) - row["seeds"], said_ends(row["low"], row["high"])
        ends += f"; {lost} of {len(result.config.seeds)} seeds never reached it" * (lost > 0)
        steps = f"{least}{row['steps']:,.0f}", ends, f"{least}{row['samples']:,.0f}"
        rows.append([*head, *steps, f"{row['seconds']:.3g}", number_text(row["lr"])])
    head = ["arm", "batch size", "steps", result.spread, "samples", "seconds", "lr"]
    caption = (
        f"Optimizer steps to a {result.ran.measure} of {result.config.target:.4g}: the length of the shortest run "
        "whose mean over seeds at its best rate reaches the target, refined by interpolation in log(steps) from the "
        f"next shorter run. The schedule of each run covers its whole length. {result.spread}: bootstrap over "
        "seeds, with rates chosen anew. Samples are steps times batch size; seconds of training and lr are from the "
        "shortest run that reaches the target."
    )
    return StudyTable(head, rows, 2, caption, (0,), drop=(4, 3, 6, 5))


def _fits(result: ScalingResult) -> StudyTable:
    rows = []
    for row in result.fits().to_dict("records"):
        if row["why"]:
            rows.append([row["arm"], str(row["sizes"]), "-", "-", "-"])
            continue
        critical = f"{row['critical']:,.0f}" if not row["beyond"] else f"{row['beyond']} all"
        critical += " (extrapolated)" * bool(row["extrapolated"] and not row["beyond"])
        ends = said_ends(row["low"], row["high"])
        rows.append([row["arm"], str(row["sizes"]), critical, ends, f"{row['least']:,.0f}"])
    caption = (
        "Fit of steps(B) = S_min (1 + B_crit / B) by least squares of log(steps) (McCandlish et al. 2018) to the batch "
        f"sizes that reach the target, but not with their shortest run; {result.spread}: bootstrap over seeds. "
        "A critical batch size outside of those batch sizes is extrapolated."
    )
    head = ["arm", "batch sizes", "critical batch size", result.spread, "fewest steps"]
    return StudyTable(head, rows, 2, caption, title="Critical batch size", drop=(1, 4))


def _horizons(result: ScalingResult) -> StudyTable:
    rows: list[list[str]] = []
    for row in result.horizons().to_dict("records"):
        mean, lr = Measure().text(row["accuracy"], row["interval"]), number_text(row["lr"])
        edge = f"{row['rates']}, best {row['edge']}" if row["edge"] else str(row["rates"])
        rows.append([row["arm"], f"{row['batch_size']:,}", f"{row['horizon']:,}", mean, lr, edge])
    head = ["arm", "batch size", "horizon", f"{result.ran.measure}, %", "best lr", "rates"]
    caption = f"Each run at its best rate, with a schedule over the whole run{means_of([len(result.config.seeds)])}."
    return StudyTable(head, rows, 3, caption, (0, 1), title="Each horizon")


def _charts(result: ScalingResult) -> list[Chart]:
    """Return steps, samples and seconds to the target over the batch size, as in Shallue et al. (2019)."""
    targets, colors = result.targets(), colors_of({arm: arm for arm in result.arms})
    sizes, to = list(result.config.batch_sizes), f"to {result.config.target:.4g}"
    bars = f" (bars: {result.spread})" * bool(targets["low"].notna().any())
    charts = [
        _chart(f"Steps {to}{bars}", "optimizer steps", targets, "steps", sizes, result.arms),
        _chart(f"Samples {to}{bars}", "samples", targets, "samples", sizes, result.arms),
        _chart(f"Time {to}", "seconds of training", targets, "seconds", sizes, result.arms),
    ]
    for fit in result.fits().to_dict("records"):
        arm, (color, _) = fit["arm"], colors[fit["arm"]]
        if fit["why"] or fit["beyond"]:
            continue
        curve, beyond = Fit(fit["least"], fit["critical"]), " (extrapolated)" * bool(fit["extrapolated"])
        many = [sizes[0] * (sizes[-1] / sizes[0]) ** (i / 40) for i in range(41)]
        steps = [curve.steps(size) for size in many]
        first = not any(one.dash == "dot" for one in charts[0].lines)
        charts[0].lines.append(Line("fit", color, many, steps, dash="dot", markers=False, legend=first))
        if sizes[0] / 2 <= fit["critical"] <= sizes[-1] * 2:
            low, high = (min(max(float(fit[name]), sizes[0] / 2), sizes[-1] * 2.0) for name in ("low", "high"))
            charts[0].spans.append(Span(f"{arm}: critical batch size{beyond}", color, low, high, x=fit["critical"]))
    return charts


def _chart(title: str, unit: str, targets: Any, column: str, sizes: list[int], arms: list[str]) -> Chart:
    known = targets[targets["steps"] < math.inf]
    above = targets.loc[targets["steps"] == math.inf, "longest"]
    ticks = [*known[column], *(above if column == "steps" else ())]
    chart = Chart(title, "batch size", unit, [float(size) for size in sizes], powers_of_two(ticks))
    ideal = {"steps": -1.0, "samples": 0.0}.get(column)
    for arm, (color, _) in colors_of({arm: arm for arm in arms}).items():
        mine = known[known["arm"] == arm]
        x, y = mine["batch_size"].tolist(), mine[column].tolist()
        ends: dict[str, Any] = {}
        if column != "seconds" and len(mine) and not mine["low"].isna().all():
            factor = mine["batch_size"] if column == "samples" else 1
            low, high = (mine["low"] * factor).tolist(), (mine["high"] * factor).tolist()
            ends = dict(low=low, high=high, bars=True)
        if x:
            chart.lines.append(Line(arm, color, x, y, **ends))
        if ideal is not None and x:
            line = [y[0] * (size / x[0]) ** ideal for size in sizes if size >= x[0]]
            at = [size for size in sizes if size >= x[0]]
            first = not any(one.dash == "dash" for one in chart.lines)
            chart.lines.append(Line("perfect scaling", color, at, line, dash="dash", markers=False, legend=first))
        not_reached = targets[(targets["arm"] == arm) & (targets["steps"] == math.inf)]
        if len(not_reached) and column != "seconds":
            factor = not_reached["batch_size"] if column == "samples" else 1
            points = not_reached["batch_size"].tolist(), (not_reached["longest"] * factor).tolist()
            chart.marks.append(Marks(f"{arm}: not reached", color, *points, symbol="triangle-up"))
        if len(most := mine[mine["at_most"]]) and column != "seconds":
            points = most["batch_size"].tolist(), most[column].tolist()
            chart.marks.append(Marks(f"{arm}: at most", color, *points, symbol="triangle-down"))
    return chart
