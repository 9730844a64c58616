"""The page of some runs: one HTML file that needs no network, made for reading first."""

from __future__ import annotations

import base64
import gzip
import html
import math
import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
import plotly.offline

from tvlars.lab.report import figures
from tvlars.lab.report.arms import Arm, batch_size_of, frame_of, make_arms
from tvlars.lab.run_folder import LoadedRun
from tvlars.lab.summary import best_arms, differences, percent, table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, a sentence or two on how to read it, and its figures."""

    title: str
    figures: list[go.Figure]
    text: str = ""


@dataclass
class Report:
    """What a page says, before it is HTML."""

    title: str
    command: str
    runs: list[LoadedRun]
    notes: list[str] = field(default_factory=list)
    """What has to be said of runs that are not whole, a sentence each."""

    def __post_init__(self) -> None:
        self.arms = make_arms(self.runs)
        self.frame = frame_of(self.arms)
        self.table = table(self.frame)
        self.differences = differences(self.frame)
        self.batch_sizes = sorted({batch_size_of(run) for run in self.runs})

    def answers(self) -> list[str]:
        """What came out, a sentence for each batch size."""
        return [
            answer(batch_size, best, self.table, self.differences) for batch_size, best in best_arms(self.table).items()
        ]

    def rows(self) -> list[dict[str, tuple[str, Any]]]:
        """The table's cells: text, and what they are sorted by."""
        best = best_arms(self.table)
        return [_row(record, best, self.differences) for record in self.table.to_dict("records")]

    def pairs(self) -> list[dict[str, tuple[str, Any]]]:
        """All differences, paired over seeds."""
        return [
            {
                "batch size": (f"{pair['batch_size']:,}", pair["batch_size"]),
                "better": (pair["better"], pair["better"]),
                "worse": (pair["worse"], pair["worse"]),
                "difference, points": (_points(pair["difference"], pair["interval"]), pair["difference"]),
                "seeds": (str(pair["seeds"]), pair["seeds"]),
                "larger than noise": ("yes" if pair["clear"] else "no", int(pair["clear"])),
            }
            for pair in self.differences.to_dict("records")
        ]

    def sections(self) -> list[Section]:
        """All figures that the runs have something for."""
        found = []
        if len(self.batch_sizes) > 1 and len(self.table):
            found.append(Section("Over batch sizes", [figures.accuracy_over_batch_size(self.arms, self.table)]))
        for batch_size in self.batch_sizes:
            found += self._at(batch_size)
        if (speed := figures.speed(self.arms, self.frame)) is not None:
            found.append(Section("Time", [speed], "Each run is a point. What else the machine did then is not known."))
        return [section for section in found if section.figures]

    def _at(self, batch_size: int) -> list[Section]:
        arms, where = self.arms, f"batch size {batch_size:,}"
        training = [figures.test_accuracy, figures.training_loss, figures.learning_rate, figures.factor]
        sharp = [figures.top_eigenvalue, figures.worst_case, figures.sharpness_and_accuracy]
        maps = []
        for arm in arms:
            stats = figures.mean_layer_stats(arm.at(batch_size), self.notes)
            if len(stats):
                run = arm.at(batch_size)[0]
                maps.append(figures.heat_map(arm, batch_size, stats, int(run.plan.get("steps_per_epoch", 1)) or 1))
        noise = figures.noise(arms, batch_size)
        return [
            Section(
                where[0].upper() + where[1:],
                _drawn(training, arms, batch_size),
                "Lines are means over seeds, bands reach from the lowest to the highest seed.",
            ),
            Section(
                f"Layers, {where}",
                maps,
                "Each row is a layer, from input to output; colours are powers of ten. The menu chooses the quantity. "
                "Mean over seeds.",
            ),
            Section(
                f"Sharpness, {where}",
                _drawn(sharp, arms, batch_size),
                "Of the training loss, on images as they are, in evaluation mode. The adaptive form does not change "
                "when layers are rescaled; the eigenvalue does.",
            ),
            Section(f"Loss slices, {where}", figures.slices(arms, batch_size, self.notes)),
            Section(
                f"Noise, {where}",
                [noise] if noise is not None else [],
                "B_simple = tr(Σ)/‖G‖² of McCandlish et al. (2018). Batches far above it save few steps.",
            ),
        ]


def write_page(report: Report, file: Path, refresh: int | None = None) -> Path:
    """Write the page, whole or not at all; ``refresh`` makes a browser load it anew every so many seconds."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tvlars.lab"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    sections = report.sections()  # first, since it may add notes
    page = environment.get_template("report.html.j2").render(
        report=report,
        rows=report.rows(),
        pairs=report.pairs(),
        sections=[
            {"title": s.title, "text": s.text, "figures": [_for_the_page(figure) for figure in s.figures]}
            for s in sections
        ],
        runs=[_run(run) for run in report.runs],
        facts=_facts(report.runs),
        plotly=_plotly() if sections else "",
        refresh=refresh,
    )
    part = file.with_name(file.name + ".part")
    part.write_text(page, encoding="utf-8", errors="replace")  # a folder's name may be no text
    os.replace(part, file)
    return file


def answer(batch_size: int, best: str, rows: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """The result at one batch size in a sentence: who leads, by how much, and whether that is more than noise."""
    mean = float(rows[(rows["arm"] == best) & (rows["batch_size"] == batch_size)]["accuracy"].iloc[0])
    start = f"Batch size {batch_size:,}: {best} has the highest test accuracy, {100 * mean:.2f} %"
    ahead = pairs[(pairs["batch_size"] == batch_size) & (pairs["better"] == best)]
    if ahead.empty:
        return start + "."
    told, close = ahead[ahead["clear"]], ahead[~ahead["clear"]]
    parts = [
        f"ahead of {_and(told['worse'])} by more than noise" if len(told) else "",
        f"not told apart from {_and(close['worse'])} by {int(close['seeds'].min())} "
        f"seed{'s' if int(close['seeds'].min()) > 1 else ''}"
        if len(close)
        else "",
    ]
    return f"{start}; {', and '.join(part for part in parts if part)}."


def _row(record: dict[Any, Any], best: dict[int, str], pairs: pd.DataFrame) -> dict[str, tuple[str, Any]]:
    done, size, arm = record["seeds"] > 0, int(record["batch_size"]), str(record["arm"])
    against = "-", 1.0
    if done and best.get(size) == arm:
        against = "best", 0.0
    elif done:
        pair = pairs[(pairs["batch_size"] == size) & (pairs["better"] == best[size]) & (pairs["worse"] == arm)]
        if len(pair):
            only = pair.iloc[0]
            verdict = ", more than noise" if only["clear"] else ", within noise"
            against = "−" + _points(only["difference"], only["interval"]) + verdict, -float(only["difference"])
    accuracies = " ".join(f"{100 * a:.2f}" for a in record["accuracies"])
    return {
        "optimizer": (arm, arm),
        "batch size": (f"{size:,}", size),
        "lr": (f"{record['lr']:.4g}", record["lr"]),
        "test accuracy": (percent(record["accuracy"], record["interval"]), record["accuracy"] if done else -1),
        "against the best": against,
        "each seed": (accuracies or "-", accuracies),
        "train loss": _number(record["train_loss"], ".4f", done),
        "test loss": _number(record["test_loss"], ".4f", done),
        "images/s": _number(record["images_per_second"], ",.0f", done),
        "training, s": _number(record["seconds"], ",.0f", done),
        "runs": (
            f"{record['seeds']}" + (f" of {record['of']}" if record["seeds"] < record["of"] else ""),
            record["seeds"],
        ),
    }


def _number(value: float, how: str, done: bool) -> tuple[str, Any]:
    return (format(value, how), value) if done and not math.isnan(value) else ("-", -1)


def _points(difference: float, interval: float) -> str:
    return f"{100 * difference:.2f}" + ("" if math.isnan(interval) else f" ± {100 * interval:.2f}")


def _and(names: Any) -> str:
    *first, last = [str(name) for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def _drawn(make: list[Any], arms: list[Arm], batch_size: int) -> list[go.Figure]:
    return [figure for f in make if (figure := f(arms, batch_size)) is not None]


def _run(run: LoadedRun) -> dict[str, Any]:
    """One run for the list at the end: everything somebody needs who wants it again."""
    stored, config = run.environment, run.config
    versions = stored.get("versions")
    facts = {
        "status": run.status,
        "command": stored.get("command", "not recorded"),
        "seed": str(config.seed) if config else "not recorded",
        "device": f"{stored.get('device', 'not recorded')}, {stored.get('precision', '')}".rstrip(", "),
        "hardware": f"{stored.get('system', 'not recorded')}, {stored.get('cpu_cores', '?')} CPU cores",
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items())
        if isinstance(versions, dict)
        else "not recorded",
        "started": str(stored.get("started", "not recorded")),
    }
    return {"name": run.folder.name, "facts": facts, "problems": [*run.problems], "ok": run.status == "finished"}


def _facts(runs: list[LoadedRun]) -> dict[str, str]:
    """What is the same for all runs that say it: data, model, device, versions."""
    found: dict[str, str] = {}
    for name in ("data", "model", "device", "precision", "python"):
        values = {str(run.environment[name]) for run in runs if name in run.environment}
        if len(values) == 1:
            found[name] = values.pop()
    return found


def _for_the_page(figure: Figure) -> dict[str, str]:
    """A figure as JSON that may stand in a script element, and a name for its data's file."""
    text: str = figure.to_json()
    title = str(figure.layout.title.text or "figure")
    name = re.sub(r"\W+", "-", html.unescape(title).lower()).strip("-")[:60]
    return {"json": text.replace("<", "\\u003c"), "file": name or "figure"}


@cache
def _plotly() -> str:
    """plotly.js, compressed: it is nearly all of the page, and browsers unpack it themselves."""
    return base64.b64encode(gzip.compress(plotly.offline.get_plotlyjs().encode(), 9)).decode()
