"""Heat maps of a report: norms and ratios of every layer over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects as go

from tvlars.lab.errors import UsageError
from tvlars.lab.report.arms import Arm, steps_per_epoch
from tvlars.lab.report.drawing import figure_of, numbers, text, thinned
from tvlars.lab.run_folder.loaded_run import LoadedRun

MAX_BINS = 60
"""Most columns of a heat map; each is the mean of some records."""
EARLY_EPOCHS = 2
SPANS = ("whole run", f"first {EARLY_EPOCHS} epochs")
HEAT = {"LNR": "LNR = ‖w‖ / ‖g‖", "LWN": "LWN = ‖w‖", "LGN": "LGN = ‖g‖", "trust_ratio": "trust ratio q"}


def heat_maps(arms: list[Arm], problems: list[str]) -> list[go.Figure]:
    """Draw a heat map for each arm with layer statistics, on one colour scale; add damaged files to ``problems``."""
    means = [mean_layer_stats([run for run in arm.runs if run.complete], problems) for arm in arms]
    found = [(arm, stats) for arm, stats in zip(arms, means, strict=True) if len(stats)]
    ranges = color_ranges([stats for _, stats in found]) if found else {}
    return [heat_map(arm, stats, steps_per_epoch(arm.runs[0]), ranges) for arm, stats in found]


def color_ranges(all_stats: list[pd.DataFrame]) -> dict[str, tuple[float, float]]:
    """Return the range of colours of each quantity, in powers of ten: one scale for all arms, to compare them."""
    both = pd.concat([stats[["quantity", "value"]].astype({"quantity": str}) for stats in all_stats])
    both = both[(both["value"] > 0) & np.isfinite(both["value"])]
    logs = np.log10(both["value"]).groupby(both["quantity"])
    return {str(name): (float(part.quantile(0.01)), float(part.quantile(0.99))) for name, part in logs}


def heat_map(
    arm: Arm, stats: pd.DataFrame, steps_per_epoch: float, ranges: dict[str, tuple[float, float]]
) -> go.Figure:
    """Draw norms and ratios of every layer over time; the page chooses the quantity, and the first epochs or all.

    ``stats`` is a frame of layer statistics, a mean over the arm's seeds; ``ranges`` are the colours' ranges. The data
    of all quantities are in ``layout.meta["quantities"]``, in the two lengths of ``SPANS``.
    """
    layers = [str(name) for name in stats["layer"].cat.categories if (stats["layer"] == name).any()]
    shown: dict[str, dict[str, Any]] = {}
    for quantity, label in HEAT.items():
        mine = stats[stats["quantity"] == quantity].astype({"layer": str})
        if len(mine):
            wide = mine.pivot_table("value", "step", "layer").reindex(columns=layers)
            logs = wide.where(wide > 0).apply(np.log10)
            spans = [logs, logs[logs.index <= EARLY_EPOCHS * steps_per_epoch]]
            binned = [thinned(span.reset_index(), MAX_BINS) for span in spans]
            low, high = ranges.get(quantity, (0.0, 1.0))
            shown[label] = {
                "x": [numbers(span["step"] / steps_per_epoch) for span in binned],
                "z": [[numbers(span[name]) for name in layers] for span in binned],
                **{"zmin": low, "zmax": high},
            }
    figure = figure_of(arm.name, "epoch", "")
    first = next(iter(shown.values()))
    figure.add_heatmap(
        **{"x": first["x"][0], "y": [text(name) for name in layers], "z": first["z"][0], "name": text(arm.name)},
        **{"zmin": first["zmin"], "zmax": first["zmax"], "colorscale": "Cividis", "showscale": False, "meta": arm.name},
        **{"hoverongaps": False, "hovertemplate": "%{y}<br>epoch %{x:.2f}: 10^%{z:.2f}<extra></extra>"},
    )
    figure.update_layout(
        **{"height": min(90 + 14 * len(layers), 760), "hovermode": "closest"},
        meta={"kind": "heat", "quantities": shown},
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, tickfont={"size": 10})
    return figure


def mean_layer_stats(runs: list[LoadedRun], problems: list[str]) -> pd.DataFrame:
    """Return the geometric mean of the layer statistics of some runs, since statistics differ by factors."""
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
