"""Heat maps of a report: norms and ratios of every layer over time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from tvlars.lab.errors import UsageError
from tvlars.lab.report.arms import Arm
from tvlars.lab.report.drawing import figure_of, numbers, text
from tvlars.lab.run_folder.loaded_run import LoadedRun

MAX_BINS = 60
"""Columns of a heat map, each the mean of the records it stands for."""
EARLY_EPOCHS = 2
HEAT = {"LNR": "LNR = ‖w‖ / ‖g‖", "LWN": "LWN = ‖w‖", "LGN": "LGN = ‖g‖", "trust_ratio": "trust ratio q"}


def color_ranges(all_stats: list[pd.DataFrame]) -> dict[str, tuple[float, float]]:
    """The powers of ten that colours reach from and to, for each quantity: one scale for all arms, to compare them."""
    both = pd.concat([stats[["quantity", "value"]].astype({"quantity": str}) for stats in all_stats])
    both = both[(both["value"] > 0) & np.isfinite(both["value"])]
    logs = np.log10(both["value"]).groupby(both["quantity"])
    return {str(name): (float(part.quantile(0.01)), float(part.quantile(0.99))) for name, part in logs}


def heat_map(
    arm: Arm, stats: pd.DataFrame, steps_per_epoch: float, ranges: dict[str, tuple[float, float]]
) -> go.Figure:
    """Norms and ratios of every layer over time: the first epochs on the left, the whole run on the right.

    ``stats`` is a frame of layer statistics, a mean over the arm's seeds; ``ranges`` are those of the colours. A menu
    chooses the quantity.
    """
    layers = [str(name) for name in stats["layer"].cat.categories if (stats["layer"] == name).any()]
    early = EARLY_EPOCHS * steps_per_epoch
    panels: list[list[dict[str, Any]]] = []
    shown = [quantity for quantity in HEAT if (stats["quantity"] == quantity).any()]
    for quantity in shown:
        wide = stats[stats["quantity"] == quantity].pivot_table("value", "layer", "step", observed=False)
        wide = wide.where(wide > 0).map(math.log10, na_action="ignore").reindex(layers)
        first = wide.loc[:, [float(str(step)) <= early for step in wide.columns]]
        panels.append([_binned(part, steps_per_epoch) for part in (first, wide)])
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=(f"first {EARLY_EPOCHS} epochs", "whole run")
    )
    for column, panel in enumerate(panels[0], 1):
        low, high = ranges.get(shown[0], (0.0, 1.0))
        figure.add_heatmap(
            **panel,
            name=("first epochs", "whole run")[column - 1],
            y=[text(name) for name in layers],
            zmin=low,
            zmax=high,
            colorscale="Cividis",
            showscale=column == 2,
            colorbar={"title": "log10", "thickness": 12},
            hovertemplate="%{y}<br>epoch %{x:.2f}: 10^%{z:.2f}<extra></extra>",
            row=1,
            col=column,
        )
    buttons = [
        {
            "label": HEAT[quantity],
            "method": "restyle",
            "args": [
                {
                    "z": [p["z"] for p in panel],
                    "x": [p["x"] for p in panel],
                    "zmin": ranges.get(quantity, (0.0, 1.0))[0],
                    "zmax": ranges.get(quantity, (0.0, 1.0))[1],
                }
            ],
        }
        for quantity, panel in zip(shown, panels, strict=True)
    ]
    base = figure_of(text(arm.name), "", "").layout
    head = 110  # pixels for title, menu and the titles of the panels, one below the other
    height = min(head + 60 + 15 * len(layers), 900)
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1 + 26 / (height - head - 50), "yanchor": "bottom"}
    figure.update_layout(
        title={**base.title.to_plotly_json(), "y": 1 - 18 / height, "yanchor": "middle"},
        height=height,
        margin={"l": 10, "r": 10, "t": head, "b": 50},
        paper_bgcolor=base.paper_bgcolor,
        plot_bgcolor=base.plot_bgcolor,
        font=base.font,
        modebar=base.modebar,
        template="none",
        updatemenus=[{**menu, "font": {"size": 12, "color": "#1c1c1c"}, "bgcolor": "#e8e8e8", "active": 0}],
    )
    figure.update_annotations(font_size=12)
    figure.update_xaxes(title="epoch", showgrid=False, zeroline=False, automargin=True)
    figure.update_yaxes(autorange="reversed", showgrid=False, automargin=True, tickfont={"size": 9})
    return figure


def mean_layer_stats(runs: list[LoadedRun], problems: list[str]) -> pd.DataFrame:
    """Layer statistics of some runs, a geometric mean over them, since they differ by factors."""
    frames = []
    for run in runs:
        try:
            frame = run.layer_stats()
        except UsageError as error:
            problems.append(f"{error}.")
            continue
        if len(frame):
            frames.append(frame[frame["quantity"].isin(HEAT) & (frame["value"] > 0)])
    if not frames:
        return pd.DataFrame()
    names = [str(name) for name in frames[0]["layer"].cat.categories]
    both = pd.concat(
        [frame.assign(layer=frame["layer"].astype(str), quantity=frame["quantity"].astype(str)) for frame in frames]
    )
    both["value"] = np.log(both["value"])
    mean = both.groupby(["step", "layer", "quantity"], sort=False)["value"].mean().reset_index()
    return mean.assign(value=np.exp(mean["value"]), layer=pd.Categorical(mean["layer"], categories=names))


def _binned(wide: pd.DataFrame, steps_per_epoch: float) -> dict[str, Any]:
    """x (epochs) and z (log10) of a heat map of at most MAX_BINS columns."""
    bins = np.arange(wide.shape[1]) // max(-(-wide.shape[1] // MAX_BINS), 1)
    steps = pd.Series(wide.columns.to_numpy(dtype=float)).groupby(bins).mean() / steps_per_epoch
    values = wide.T.groupby(bins).mean().T
    return {"x": numbers(steps), "z": [numbers(row) for _, row in values.iterrows()]}
