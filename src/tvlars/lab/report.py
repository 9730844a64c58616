"""The page of a comparison: one HTML file that needs no network, made for reading first."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.offline

if TYPE_CHECKING:
    from tvlars.lab.compare import Comparison, RunRow

# Okabe and Ito's palette: told apart by colour-blind readers, legible on light and on dark.
COLORS = {"tvlars": "#D55E00", "lars": "#0072B2", "lamb": "#009E73", "sgd": "#CC79A7", "adamw": "#E69F00"}
DASHES = {"lars": "dash", "lamb": "dot", "sgd": "dashdot", "adamw": "longdash"}
MAX_POINTS = 400
"""Points a curve is thinned to, each the mean of the steps it stands for."""


@dataclass(frozen=True)
class Curves:
    """The records of the runs of one optimizer at one batch size."""

    optimizer: str
    steps: list[pd.DataFrame]
    epochs: list[pd.DataFrame]


def write_report(comparison: Comparison) -> Path:
    """Write report.html into the comparison's folder and return its path."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tvlars.lab"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    batch_sizes = sorted({run.batch_size for run in comparison.runs})
    sections = []
    if len(batch_sizes) > 1:
        sections.append({"title": "Over batch sizes", "figures": [_json(accuracy_over_batch_size(comparison))]})
    for batch_size in batch_sizes:
        curves = figures(read_curves(comparison, batch_size))
        sections.append({"title": f"Batch size {batch_size:,}", "figures": [_json(figure) for figure in curves]})
    page = environment.get_template("report.html.j2").render(
        title=f"Comparison of {', '.join(dict.fromkeys(run.optimizer for run in comparison.runs)) or 'no runs'}",
        command=comparison.command,
        rows=table_rows(comparison),
        runs=comparison.runs,
        facts=_facts(comparison),
        sections=sections,
        plotly_js=plotly.offline.get_plotlyjs() if sections else "",
    )
    file = comparison.folder / "report.html"
    part = file.with_suffix(".html.part")
    part.write_text(page, encoding="utf-8", errors="replace")  # a folder's name may be no text
    os.replace(part, file)
    return file


def table_rows(comparison: Comparison) -> list[dict[str, str]]:
    """The table of a comparison with its cells as text, for the page, the terminal and Markdown."""
    rows = []
    for record in comparison.table().to_dict("records"):
        done = record["seeds"] > 0
        rows.append(
            {
                "optimizer": str(record["optimizer"]),
                "batch size": f"{record['batch_size']:,}",
                "lr": f"{record['lr']:.4g}",
                "test accuracy": accuracy_text(record["accuracy"], record["interval"]),
                "each seed": " ".join(f"{100 * a:.2f}" for a in record["accuracies"]) or "-",
                "train loss": f"{record['train_loss']:.4f}" if done else "-",
                "test loss": f"{record['test_loss']:.4f}" if done else "-",
                "images/s": f"{record['images_per_second']:,.0f}" if done else "-",
                "runs": f"{record['seeds']}" + (f" of {record['of']}" if record["seeds"] < record["of"] else ""),
            }
        )
    return rows


def accuracy_text(mean: float, interval: float) -> str:
    """``90.12 ± 0.34 %``; without an interval where there is only one seed."""
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.2f} %" if math.isnan(interval) else f"{100 * mean:.2f} ± {100 * interval:.2f} %"


def read_curves(comparison: Comparison, batch_size: int) -> list[Curves]:
    """The records of all runs at ``batch_size``, by optimizer; what a run lacks is left out."""
    by_optimizer: dict[str, list[RunRow]] = {}
    for run in comparison.runs:
        if run.batch_size == batch_size:
            by_optimizer.setdefault(run.optimizer, []).append(run)

    def read(runs: list[RunRow], name: str) -> list[pd.DataFrame]:
        files = [comparison.folder / run.folder / name for run in runs]
        frames = [pd.read_csv(file) for file in files if file.is_file()]
        return [frame for frame in frames if len(frame)]

    return [
        Curves(optimizer, read(runs, "steps.csv"), read(runs, "epochs.csv")) for optimizer, runs in by_optimizer.items()
    ]


def figures(curves: list[Curves]) -> list[go.Figure]:
    """Accuracy, loss, learning rate and φ over training, a curve an optimizer with its range over seeds."""
    accuracy = _figure("Test accuracy", "epoch", "%")
    loss = _figure("Training loss", "epoch", "cross-entropy", log=True)
    lr = _figure("Learning rate, φ or schedule included", "epoch", "", log=True)
    phi = _figure("φ, or the schedule's factor", "epoch", "")
    for c in curves:
        color = COLORS.get(c.optimizer, "#999999")
        if c.epochs:
            _band(accuracy, c.optimizer, color, _stack(c.epochs, "epoch", "test_accuracy", scale=100))
        if c.steps:
            _band(loss, c.optimizer, color, _stack(c.steps, "epoch", "loss"))
            longest = [max(c.steps, key=len)]  # the schedule is the same for every seed
            for figure, column in ((lr, "lr"), (phi, "phi")):
                # dashes let curves that coincide be seen
                _band(figure, c.optimizer, color, _stack(longest, "epoch", column), DASHES.get(c.optimizer))
    return [accuracy, loss, lr, phi]


def accuracy_over_batch_size(comparison: Comparison) -> go.Figure:
    """Mean test accuracy with its interval over the batch size, a line an optimizer."""
    figure = _figure("Test accuracy after the last epoch", "batch size (samples)", "%")
    table = comparison.table()
    figure.update_xaxes(type="log", tickvals=sorted(table["batch_size"].unique()), dtick=None)
    for optimizer, rows in table.groupby("optimizer", sort=False):
        figure.add_scatter(
            x=rows["batch_size"].tolist(),
            y=(100 * rows["accuracy"]).tolist(),
            error_y={"type": "data", "array": (100 * rows["interval"]).fillna(0).tolist(), "thickness": 1},
            name=str(optimizer),
            line={"color": COLORS.get(str(optimizer), "#999999"), "width": 2},
            hovertemplate="%{y:.2f}",
        )
    return figure


def _stack(frames: list[pd.DataFrame], x: str, y: str, scale: float = 1.0) -> pd.DataFrame:
    """x, and mean, low and high of y over the runs, thinned to MAX_POINTS."""
    wide = pd.concat([frame.set_index(x)[y] * scale for frame in frames], axis=1)
    wide = wide.replace([np.inf, -np.inf], np.nan).sort_index()
    width = -(-len(wide) // MAX_POINTS)
    bins = np.arange(len(wide)) // width
    wide = wide.reset_index().groupby(bins).mean()
    values = wide.drop(columns=x)
    return pd.DataFrame(
        {"x": wide[x], "mean": values.mean(axis=1), "low": values.min(axis=1), "high": values.max(axis=1)}
    )


def _band(figure: go.Figure, name: str, color: str, frame: pd.DataFrame, dash: str | None = None) -> None:
    x, many = frame["x"].tolist(), not np.allclose(frame["low"], frame["high"], equal_nan=True)
    if many:
        red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
        figure.add_scatter(
            x=x + x[::-1],
            y=frame["high"].tolist() + frame["low"].tolist()[::-1],
            fill="toself",
            fillcolor=f"rgba({red},{green},{blue},0.18)",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
        )
    figure.add_scatter(
        x=x,
        y=frame["mean"].tolist(),
        name=name,
        legendgroup=name,
        mode="lines+markers" if len(x) == 1 else "lines",
        line={"color": color, "width": 2, "dash": dash},
        hovertemplate="%{y:.4g}",
    )


def _figure(title: str, x: str, y: str, log: bool = False) -> go.Figure:
    axis: dict[str, Any] = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False, "automargin": True}
    layout = go.Layout(
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 15}},
        xaxis={**axis, "title": x},
        yaxis={
            **axis,
            "title": y,
            "type": "log" if log else "linear",
            "dtick": 1 if log else None,
            "exponentformat": "power",
        },
        height=330,
        margin={"l": 50, "r": 10, "t": 45, "b": 70},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#808080", "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "y": -0.25},
        hovermode="x unified",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#808080"},
        hoverlabel={"bgcolor": "#222", "font": {"color": "#eee"}},
        template="none",
    )
    return go.Figure(layout=layout)


def _json(figure: go.Figure) -> str:
    """The figure as JSON that may stand in a script element."""
    text: str = figure.to_json()
    return text.replace("<", "\\u003c")


def _facts(comparison: Comparison) -> dict[str, str]:
    """What is the same for all runs: data, model, device, versions."""
    import json

    for run in comparison.runs:
        file = comparison.folder / run.folder / "environment.json"
        if file.is_file():
            stored = json.loads(file.read_text())
            versions = ", ".join(f"{name} {version}" for name, version in stored["versions"].items())
            return {
                "data": stored["data"],
                "model": stored["model"],
                "device": f"{stored['device']} ({stored['cpu_cores']} CPU cores), {stored['precision']}",
                "versions": f"Python {stored['python']}, {versions}",
                "started": stored["started"],
            }
    return {}
