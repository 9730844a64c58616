"""What the figures of a report are drawn with."""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tvlars.lab.report.arms import Arm

MAX_POINTS = 400
"""Points a curve is thinned to, each the mean of the steps it stands for."""
GRID = "rgba(128,128,128,0.25)"


def over_training(
    arms: list[Arm],
    batch_size: int,
    source: str,
    column: str,
    title: str,
    unit: str,
    *,
    scale: float = 1.0,
    log: bool = False,
    dashed: bool = False,
    markers: bool = False,
) -> go.Figure | None:
    figure = figure_of(title, "epoch", unit, log=log)
    for arm in arms:
        runs = [run for run in arm.at(batch_size) if _has(getattr(run, source), column)]
        frames = [getattr(run, source) for run in runs if run.complete]
        if dashed and runs:  # a schedule is the same for every seed; dashes let curves that coincide be seen
            longest = max(runs, key=lambda run: len(getattr(run, source)))
            frames, runs = [getattr(longest, source)], []
        if frames:
            band(figure, arm, _stack(frames, column, scale), dashed=dashed, markers=markers)
        for run in runs:
            if not run.complete:  # in no mean, but to be seen
                only = _stack([getattr(run, source)], column, scale)
                figure.add_scatter(
                    x=numbers(only["x"]),
                    y=numbers(only["mean"]),
                    name=text(f"{arm.name}, {run.folder.name}: {run.status}"),
                    mode="lines+markers" if markers or len(only) == 1 else "lines",
                    line={"color": arm.color, "width": 1, "dash": "dot"},
                    hovertemplate="%{y:.4g}",
                )
    return figure if figure.data else None


def _has(frame: pd.DataFrame, column: str) -> bool:
    return bool(len(frame) and frame[column].notna().any())


def _stack(frames: list[pd.DataFrame], column: str, scale: float) -> pd.DataFrame:
    """Epoch, and mean, low and high over the runs, thinned to MAX_POINTS."""
    # Of steps that are one epoch when it is rounded to the digits that a folder keeps, the first.
    curves = [frame.drop_duplicates("epoch").set_index("epoch")[column] * scale for frame in frames]
    wide = pd.concat(curves, axis=1)
    wide = wide.replace([np.inf, -np.inf], np.nan).sort_index()
    bins = np.arange(len(wide)) // -(-len(wide) // MAX_POINTS)
    wide = wide.reset_index().groupby(bins).mean()
    values = wide.drop(columns="epoch")
    return pd.DataFrame(
        {"x": wide["epoch"], "mean": values.mean(axis=1), "low": values.min(axis=1), "high": values.max(axis=1)}
    )


def band(figure: go.Figure, arm: Arm, frame: pd.DataFrame, dashed: bool = False, markers: bool = False) -> None:
    x, name = numbers(frame["x"]), text(arm.name)
    if not np.allclose(frame["low"], frame["high"], equal_nan=True):
        red, green, blue = (int(arm.color[i : i + 2], 16) for i in (1, 3, 5))
        figure.add_scatter(
            x=x + x[::-1],
            y=numbers(frame["high"]) + numbers(frame["low"])[::-1],
            mode="lines",
            fill="toself",
            fillcolor=f"rgba({red},{green},{blue},0.18)",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
            name=f"{name}, range",
        )
    figure.add_scatter(
        x=x,
        y=numbers(frame["mean"]),
        name=name,
        legendgroup=name,
        mode="lines+markers" if markers or len(x) == 1 else "lines",
        line={"color": arm.color, "width": 2, "dash": arm.dash if dashed else "solid"},
        hovertemplate="%{y:.4g}",
    )


def text(name: str) -> str:
    """A name for plotly, which reads some HTML in texts."""
    return html.escape(name, quote=False)


def numbers(values: pd.Series) -> list[float | None]:
    """Five digits are more than a figure shows; what is no number is a gap."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.astype(float)]


def figure_of(title: str, x: str, y: str, log: bool = False) -> go.Figure:
    axis: dict[str, Any] = {"gridcolor": GRID, "zeroline": False, "automargin": True}
    layout = go.Layout(
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 15}},
        xaxis={**axis, "title": {"text": x, "standoff": 4}},
        yaxis={
            **axis,
            "title": y,
            "type": "log" if log else "linear",
            "exponentformat": "power",
        },
        height=340,
        margin={"l": 50, "r": 10, "t": 45, "b": 70},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#808080", "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "y": -0.22, "yanchor": "top"},
        hovermode="x unified",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#808080"},
        hoverlabel={"bgcolor": "#222", "font": {"color": "#eee"}},
        template="none",
    )
    return go.Figure(layout=layout)
