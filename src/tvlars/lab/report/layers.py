"""Heat maps of a report: norms and ratios of every layer over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from tvlars.lab.errors import UsageError
from tvlars.lab.report.arms import Arm, plan_number
from tvlars.lab.report.drawing import figure_of, numbers, text, thinned
from tvlars.lab.run_folder.loaded_run import LoadedRun

MAX_BINS = 60
"""Most columns of a heat map; each is the mean of some records."""
EARLY_EPOCHS = 2
HEAT = {"LNR": "LNR = ‖w‖ / ‖g‖", "LWN": "LWN = ‖w‖", "LGN": "LGN = ‖g‖", "trust_ratio": "trust ratio q"}


def heat_maps(arms: list[Arm], problems: list[str]) -> list[go.Figure]:
    """Draw a heat map for each arm with layer statistics, on one colour scale; add damaged files to ``problems``."""
    means = [mean_layer_stats([run for run in arm.runs if run.complete], problems) for arm in arms]
    found = [(arm, stats) for arm, stats in zip(arms, means, strict=True) if len(stats)]
    ranges = color_ranges([stats for _, stats in found]) if found else {}
    return [heat_map(arm, stats, _steps_per_epoch(arm.runs[0]), ranges) for arm, stats in found]


def color_ranges(all_stats: list[pd.DataFrame]) -> dict[str, tuple[float, float]]:
    """Return the range of colours of each quantity, in powers of ten: one scale for all arms, to compare them."""
    both = pd.concat([stats[["quantity", "value"]].astype({"quantity": str}) for stats in all_stats])
    both = both[(both["value"] > 0) & np.isfinite(both["value"])]
    logs = np.log10(both["value"]).groupby(both["quantity"])
    return {str(name): (float(part.quantile(0.01)), float(part.quantile(0.99))) for name, part in logs}


def heat_map(
    arm: Arm, stats: pd.DataFrame, steps_per_epoch: float, ranges: dict[str, tuple[float, float]]
) -> go.Figure:
    """Draw norms and ratios of every layer over time: the first epochs on the left, the whole run on the right.

    ``stats`` is a frame of layer statistics, a mean over the arm's seeds; ``ranges`` are the colours' ranges. A menu
    selects the quantity.
    """
    layers = [str(name) for name in stats["layer"].cat.categories if (stats["layer"] == name).any()]
    shown: dict[str, dict[str, Any]] = {}  # data of both panels by quantity, in the form of the menu
    for quantity, label in HEAT.items():
        mine = stats[stats["quantity"] == quantity].astype({"layer": str})
        if len(mine):
            wide = mine.pivot_table("value", "step", "layer").reindex(columns=layers)
            logs = wide.where(wide > 0).apply(np.log10)
            panels = [logs[logs.index <= EARLY_EPOCHS * steps_per_epoch], logs]
            binned = [thinned(panel.reset_index(), MAX_BINS) for panel in panels]
            low, high = ranges.get(quantity, (0.0, 1.0))
            shown[label] = {
                "x": [numbers(panel["step"] / steps_per_epoch) for panel in binned],
                "z": [[numbers(panel[name]) for name in layers] for panel in binned],
                **{"zmin": low, "zmax": high},
            }
    names = (f"first {EARLY_EPOCHS} epochs", "whole run")
    style = {"shared_yaxes": True, "horizontal_spacing": 0.02, "subplot_titles": names}
    figure = make_subplots(1, 2, figure=figure_of(arm.name, "", ""), **style)
    first = next(iter(shown.values()))
    for column in (0, 1):
        figure.add_heatmap(
            x=first["x"][column],
            y=[text(name) for name in layers],
            z=first["z"][column],
            zmin=first["zmin"],
            zmax=first["zmax"],
            name=("first epochs", "whole run")[column],
            colorscale="Cividis",
            showscale=column == 1,
            colorbar={"title": "log10", "thickness": 12},
            hovertemplate="%{y}<br>epoch %{x:.2f}: 10^%{z:.2f}<extra></extra>",
            row=1,
            col=column + 1,
        )
    head = 110  # pixels for title, menu and titles of the panels, from top to bottom
    height = min(head + 60 + 15 * len(layers), 900)
    menu = {
        "buttons": [{"label": label, "method": "restyle", "args": [values]} for label, values in shown.items()],
        **{"x": 0, "xanchor": "left", "y": 1 + 26 / (height - head - 50), "yanchor": "bottom", "active": 0},
        **{"font": {"size": 12, "color": "#1c1c1c"}, "bgcolor": "#e8e8e8"},
    }
    figure.update_layout(
        title={"y": 1 - 18 / height, "yanchor": "middle"},
        height=height,
        margin={"l": 10, "r": 10, "t": head, "b": 50},
        hovermode="closest",
        updatemenus=[menu],
    )
    figure.update_annotations(font_size=12)
    figure.update_xaxes(title="epoch", showgrid=False, zeroline=False, automargin=True)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, automargin=True, tickfont={"size": 9})
    return figure


def mean_layer_stats(runs: list[LoadedRun], problems: list[str]) -> pd.DataFrame:
    """Return the geometric mean of the layer statistics of some runs, since they differ by factors."""
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
    both = pd.concat([frame.astype({"layer": str, "quantity": str}) for frame in frames])
    logs = both.assign(value=np.log(both["value"])).groupby(["step", "layer", "quantity"], sort=False)
    mean = logs["value"].mean().reset_index()
    return mean.assign(value=np.exp(mean["value"]), layer=pd.Categorical(mean["layer"], categories=names))


def _steps_per_epoch(run: LoadedRun) -> float:
    """Return optimizer steps per epoch from the plan or, if it is missing, from the record."""
    planned = plan_number(run, "steps_per_epoch")
    if planned > 0:
        return planned
    first = run.epochs.iloc[0] if len(run.epochs) else {"step": 1, "epoch": 1}
    return max(float(first["step"]) / float(first["epoch"]), 1.0)
