"""Style of the figures of a report, and curves, bands and points of arms."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tvlars.lab.report.arms import Arm, config_of, steps_per_epoch
from tvlars.lab.run_folder.loaded_run import LoadedRun

MAX_KNOTS = 60
"""Most epochs whose time is stored on a page; between them it is interpolated."""
MAX_POINTS = 400
"""Most points of a curve; each is the mean of some steps."""
GRAY, GRID = "#808080", "rgba(128,128,128,0.25)"
CLEAR = "rgba(0,0,0,0)"


def figure_of(title: str, x: str, y: str, log: bool = False) -> go.Figure:
    """Return an empty figure in the common style; ``title`` is plain text, the other texts may be HTML."""
    axis: dict[str, Any] = {"gridcolor": GRID, "zeroline": False, "automargin": True}
    return go.Figure(
        layout={
            "title": {"text": text(title), "x": 0, "xref": "paper", "font": {"size": 15}},
            "xaxis": {**axis, "title": {"text": x, "standoff": 4}},
            "yaxis": {**axis, "title": y, "type": "log" if log else "linear", "exponentformat": "power"},
            "height": 340,
            "margin": {"l": 50, "r": 10, "t": 45, "b": 70},
            "paper_bgcolor": CLEAR,
            "plot_bgcolor": CLEAR,
            "font": {"color": GRAY, "family": "system-ui, sans-serif"},
            "legend": {"orientation": "h", "y": -0.22, "yanchor": "top"},
            "hovermode": "x unified",
            "modebar": {"bgcolor": CLEAR, "color": GRAY},
            "hoverlabel": {"bgcolor": "#222", "font": {"color": "#eee"}},
            "template": "none",
        }
    )


@dataclass(frozen=True)
class Curve:
    """Figure of one column over epochs; ``source`` is the frame, an attribute of ``LoadedRun``."""

    source: str
    column: str
    title: str
    unit: str = ""
    scale: float = 1.0
    log: bool = False
    markers: bool = False
    schedule: bool = False
    """True if the column is equal for all seeds, so that one run is drawn; dashes separate coinciding curves."""

    def draw(self, arms: list[Arm]) -> go.Figure | None:
        """Return a figure with the mean over seeds and the range of each arm; None if no run has the column."""
        figure = figure_of(self.title, "epoch", self.unit, log=self.log)
        for arm in arms:
            runs = [run for run in arm.runs if getattr(run, self.source).get(self.column, pd.Series()).notna().any()]
            whole, others = [run for run in runs if run.complete], [run for run in runs if not run.complete]
            if self.schedule and runs:
                whole, others = [max(runs, key=lambda run: len(getattr(run, self.source)))], []
            if whole:
                dash = arm.dash if self.schedule else arm.line
                band(figure, arm, self._stack(whole), dash=dash, markers=self.markers)
            for run in others:  # not part of the mean, but drawn
                only, name = self._stack([run]), f"{arm.name}, {run.folder.name}: {run.status}"
                more: dict[str, Any] = {"markers": self.markers, "width": 1, "meta": arm.name}
                line(figure, name, only["x"], only["mean"], arm.color, "dot", **more)
        kind = "accuracy" if self.unit == "%" else "schedule" if self.schedule else "plain"
        figure.update_layout(showlegend=False, meta={"kind": kind, "clocks": clocks(arms)})
        return figure if figure.data else None

    def _stack(self, runs: list[LoadedRun]) -> pd.DataFrame:
        """Return epochs with mean, lowest and highest value over the runs, thinned to MAX_POINTS."""
        # Several steps may have the same rounded epoch: the first one counts.
        frames = [_over_epochs(run, getattr(run, self.source)) for run in runs]
        curves = [frame.drop_duplicates("epoch").set_index("epoch")[self.column] for frame in frames]
        wide = self.scale * pd.concat(curves, axis=1).replace([np.inf, -np.inf], np.nan).sort_index()
        wide = thinned(wide.reset_index(), MAX_POINTS)
        values = wide.drop(columns="epoch")
        rows = {"x": wide["epoch"], "mean": values.mean(axis=1), "low": values.min(axis=1), "high": values.max(axis=1)}
        return pd.DataFrame(rows)


def _over_epochs(run: LoadedRun, frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the epoch as a number; for sharpness, only rows at steps and epochs that all seeds have."""
    per_epoch = run.plan.get("steps_per_epoch")
    if "at" not in frame or not isinstance(per_epoch, int) or per_epoch < 1:
        return frame
    frame = frame[frame["at"].astype(str).str.contains("step|epoch")]
    return frame.assign(epoch=frame["step"] / per_epoch)


def clocks(arms: list[Arm]) -> dict[str, dict[str, Any]]:
    """Return data to convert epochs of each arm at one batch size to steps, samples and seconds of training: steps per
    epoch, batch size, and the mean time over its runs at the end of some epochs."""
    found = {}
    for arm in (arm for arm in arms if arm.runs):
        run = max(arm.runs, key=lambda run: len(run.epochs))
        times = [one.epochs.set_index("epoch")["seconds"].astype(float).cumsum() for one in arm.runs]
        mean = pd.concat(times, axis=1).mean(axis=1).sort_index().cummax()
        mean = mean.iloc[np.unique(np.linspace(0, len(mean) - 1, min(len(mean), MAX_KNOTS)).round().astype(int))]
        per_epoch = {"per_epoch": steps_per_epoch(run), "batch": config_of(run).batch_size}
        found[arm.name] = per_epoch | {"epochs": numbers(mean.index), "seconds": numbers(mean)}
    return found


def run_points(
    arms: list[Arm], figure: go.Figure, points: Callable[[LoadedRun], list[tuple[Any, float]]], hover: str
) -> list[go.Figure]:
    """Draw the points (x, y) of each run; return ``figure`` in a list, or an empty list if there are no points."""
    for arm in arms:
        found = [(x, y, f"seed {config_of(run).seed}") for run in arm.runs for x, y in points(run)]
        if found:
            x, y, seeds = zip(*found, strict=True)
            marker = {"color": arm.color, "size": 10, "opacity": 0.75}
            figure.add_scatter(
                **{"x": x, "y": numbers(y), "text": seeds, "mode": "markers", "name": text(arm.name), "meta": arm.name},
                **{"marker": marker, "hovertemplate": hover},
            )
    figure.update_layout(hovermode="closest", showlegend=False)
    return [figure] if figure.data else []


def band(figure: go.Figure, arm: Arm, frame: pd.DataFrame, dash: str = "solid", markers: bool = False) -> None:
    """Draw ``mean`` over ``x``, and the band from ``low`` to ``high``, of an arm."""
    x, name = numbers(frame["x"]), text(arm.name)
    if not np.allclose(frame["low"], frame["high"], equal_nan=True):
        around = numbers(frame["high"]) + numbers(frame["low"])[::-1]
        area(figure, x + x[::-1], around, arm.color, name, "range", meta=arm.name)
    more: dict[str, Any] = {"markers": markers, "legendgroup": name, "meta": arm.name}
    line(figure, arm.name, frame["x"], frame["mean"], arm.color, dash, **more)


def area(figure: go.Figure, x: Any, y: Any, color: str, name: str, what: str, **more: Any) -> None:
    """Fill the area that a line encloses; ``name`` is the curve with which it is shown and hidden."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    more |= {"fill": "toself", "fillcolor": f"rgba({red},{green},{blue},0.18)", "line": {"width": 0}}
    more |= {"mode": "lines", "hoverinfo": "skip", "showlegend": False, "legendgroup": name}
    figure.add_scatter(x=x, y=y, name=f"{name}, {what}", **more)


def line(
    figure: go.Figure, name: str, x: Any, y: Any, color: str, dash: str, *, markers: bool, width: int = 2, **more: Any
) -> None:
    """Draw a line; a single point gets a marker."""
    mode = "lines+markers" if markers or len(x) == 1 else "lines"
    more |= {"line": {"color": color, "width": width, "dash": dash}, "hovertemplate": "%{y:.4g}"}
    figure.add_scatter(x=numbers(x), y=numbers(y), name=text(name), mode=mode, **more)


def thinned(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most ``most`` rows, each the mean of neighbouring rows."""
    return frame.groupby(np.arange(len(frame)) // max(-(-len(frame) // most), 1)).mean()


def text(name: str) -> str:
    """Escape a name for plotly, which interprets some HTML."""
    return html.escape(name, quote=False)


def numbers(values: Any) -> list[float | None]:
    """Return values with five digits, more than a figure shows; None, a gap, for values that are not finite."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in map(float, values)]
