"""Page of a robustness study: table, figure and sentences."""

from __future__ import annotations

import math
from dataclasses import replace

from tvlars._words import counted
from tvlars.lab.comparison.colors import colors_of
from tvlars.lab.comparison.pair import said_margin
from tvlars.lab.comparison.paper import means_of, number_text
from tvlars.lab.experiments.robustness.result import RobustnessResult
from tvlars.lab.experiments.studies.runs import save_study
from tvlars.lab.report.chart import Chart, Line, Marks, Span, powers_of_two
from tvlars.lab.report.study import StudyReport, StudyTable
from tvlars.lab.run_folder.environment import command_line
from tvlars.lab.tasks import Measure


def save_results(result: RobustnessResult) -> None:
    """Write robustness.json, results.csv (runs), robustness.csv (learning rates), and page, figure and tables."""
    rates = result.rates()
    save_study(result, report_of(result), {"robustness.csv": rates}, {"arms": result.table(), "rates": rates})


def report_of(result: RobustnessResult) -> StudyReport:
    """Return the title, table, chart and sentences of the results."""
    title = f"Robustness of {', '.join(result.arms)} to the learning rate"
    tables = [_table(result), _rates(result)]
    said = result.answers(), result.ran.protocol
    return StudyReport(title, command_line(), *said, tables, [_chart(result)], result.notes())


def _table(result: RobustnessResult) -> StudyTable:
    rows = []
    for row in result.table().to_dict("records"):
        if math.isnan(row["octaves"]):
            rows.append([row["arm"], *["-"] * 5, number_text(row["failed"], ".0%")])
            continue
        least = "at least " if row["at_least"] else ""
        around = "" if math.isnan(row["octaves_low"]) else f"{row['octaves_low']:.2f} to {row['octaves_high']:.2f}"
        cells = [f"{row['low']:.4g} to {row['high']:.4g}", f"{least}{row['octaves']:.2f}", around or "-"]
        mean = Measure().text(row["accuracy"], row["interval"])
        rows.append([row["arm"], mean, f"{row['best_lr']:.4g}", *cells, number_text(row["failed"], ".0%")])
    within = said_margin(result.config.within / 100, False)
    head = ["arm", f"best {result.ran.measure}, %", "at lr", f"within {within}", "octaves", result.spread, "failed"]
    caption = (
        f"Best {result.ran.measure}{means_of(result.rates()['seeds'])}; the widest range of learning rates around it "
        f"within {within}, linear in log2(lr) between rates, and its width ({result.spread}: bootstrap over seeds). A "
        "run failed if its loss was not finite, or if its accuracy is not above 2 / classes (for fewer than 11 "
        "classes: a tenth of the way from chance level to 100 %). In means, a run whose loss was not finite counts "
        "with chance-level accuracy."
    )
    return StudyTable(head, rows, 1, caption, drop=(5, 3, 2))


def _rates(result: RobustnessResult) -> StudyTable:
    rows: list[list[str]] = []
    for row in result.rates().to_dict("records"):
        mean, lr = Measure().text(row["accuracy"], row["interval"]), number_text(row["lr"])
        rows.append([row["arm"], lr, mean, number_text(row["failed"], ".0%"), f"{row['seeds']} of {row['of']}"])
    head = ["arm", "lr", f"{result.ran.measure}, %", "failed", "seeds"]
    caption = f"{result.ran.measure.capitalize()} at each rate{means_of(result.rates()['seeds'])}."
    return StudyTable(head, rows, 2, caption, (0,), title="Each rate")


def _chart(result: RobustnessResult) -> Chart:
    means = result.rates().dropna(subset=["lr", "accuracy"])
    seeds = counted(len(result.config.seeds), "seed") + "; bands: 95 %" * bool(means["interval"].notna().any())
    chart = Chart(
        f"{result.ran.measure.capitalize()} over the learning rate ({seeds})",
        *("learning rate", f"{result.ran.measure}, %"),
        powers_of_two(means["lr"].tolist()),
    )
    lowest = 100 * means["accuracy"].min() if len(means) else 0.0
    step = max(100 * means["accuracy"].max() - lowest, 1.0) / 20 if len(means) else 1.0
    for i, (arm, (color, dash)) in enumerate(colors_of({arm: arm for arm in result.arms}).items()):
        mine = means[means["arm"] == arm]
        mean, half = 100 * mine["accuracy"], 100 * mine["interval"].fillna(0.0)
        low, high = (mean - half).clip(lower=0.0), (mean + half).clip(upper=100.0)
        line = Line(arm, color, mine["lr"].tolist(), mean.tolist(), dash=dash)
        chart.lines.append(replace(line, low=low.tolist(), high=high.tolist()) if half.any() else line)
        if (found := result.plateau(arm)) is not None:
            chart.spans.append(Span(f"{arm}, plateau", color, found.low, found.high, lowest - (i + 1) * step))
        if len(failed := mine[mine["failed"] > 0]):
            marks = failed["lr"].tolist(), (100 * failed["accuracy"]).tolist()
            chart.marks.append(Marks(f"{arm}: some runs failed", color, *marks))
    return chart
