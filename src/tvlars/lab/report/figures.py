"""The figures of a report: of arms at one batch size a figure each, or None where nothing was measured."""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tvlars.lab.errors import UsageError
from tvlars.lab.report.arms import DASHES, Arm
from tvlars.lab.run_folder import LoadedRun

MAX_POINTS = 400
"""Points a curve is thinned to, each the mean of the steps it stands for."""
MAX_BINS = 60
"""Columns of a heat map, each the mean of the records it stands for."""
EARLY_EPOCHS = 2
GRID = "rgba(128,128,128,0.25)"
HEAT = {"LNR": "LNR = ‖w‖ / ‖g‖", "LWN": "LWN = ‖w‖", "LGN": "LGN = ‖g‖", "trust_ratio": "trust ratio q"}


# -- training -------------------------------------------------------------------------------------------------


def test_accuracy(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """Accuracy over epochs, a line an arm with the range over its seeds."""
    return _over_training(arms, batch_size, "epochs", "test_accuracy", "Test accuracy", "%", scale=100)


def training_loss(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """Loss of every step."""
    return _over_training(arms, batch_size, "steps", "loss", "Training loss", "cross-entropy", log=True)


def learning_rate(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """What adapted layers took."""
    title = "Learning rate, φ or schedule included"
    return _over_training(arms, batch_size, "steps", "lr", title, "", log=True, dashed=True)


def factor(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """φ, or the schedule's factor."""
    return _over_training(arms, batch_size, "steps", "phi", "φ, or the schedule's factor", "", dashed=True)


def accuracy_over_batch_size(arms: list[Arm], table: pd.DataFrame) -> go.Figure:
    """Mean test accuracy with its interval over the batch size, a line an arm."""
    figure = _figure("Test accuracy after the last epoch", "batch size (samples)", "%")
    sizes = sorted(int(size) for size in table["batch_size"].unique())
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{size:,}" for size in sizes], dtick=None)
    for arm in arms:
        rows = table[(table["arm"] == arm.name) & (table["seeds"] > 0)]
        if rows.empty:
            continue
        figure.add_scatter(
            x=rows["batch_size"].tolist(),
            y=_numbers(100 * rows["accuracy"]),
            error_y={"type": "data", "array": _numbers(100 * rows["interval"]), "thickness": 1},
            name=_text(arm.name),
            line={"color": arm.color, "width": 2, "dash": arm.dash},
            hovertemplate="%{y:.2f}",
        )
    return figure


def speed(arms: list[Arm], runs: pd.DataFrame) -> go.Figure | None:
    """Images per second of training, each run a point."""
    if runs["images_per_second"].dropna().empty:
        return None
    figure = _figure("Speed of training, tests not counted", "batch size", "images/s")
    sizes = [f"{size:,}" for size in sorted(runs["batch_size"].unique())]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=sizes)
    for arm in arms:
        rows = runs[runs["arm"] == arm.name].dropna(subset=["images_per_second"])
        figure.add_scatter(
            x=[f"{size:,}" for size in rows["batch_size"]],
            y=_numbers(rows["images_per_second"]),
            mode="markers",
            name=_text(arm.name),
            marker={"color": arm.color, "size": 9, "opacity": 0.75},
            hovertemplate="%{y:,.0f}",
        )
    figure.update_yaxes(rangemode="tozero")
    return figure


# -- what happens inside --------------------------------------------------------------------------------------


def heat_map(arm: Arm, stats: pd.DataFrame, steps_per_epoch: float) -> go.Figure:
    """Norms and ratios of every layer over time: the first epochs on the left, the whole run on the right.

    ``stats`` is a frame of layer statistics, a mean over the arm's seeds. A menu chooses the quantity.
    """
    layers = [str(name) for name in stats["layer"].cat.categories if (stats["layer"] == name).any()]
    early = EARLY_EPOCHS * steps_per_epoch
    panels: list[list[dict[str, Any]]] = []
    ranges = []
    shown = [quantity for quantity in HEAT if (stats["quantity"] == quantity).any()]
    for quantity in shown:
        wide = stats[stats["quantity"] == quantity].pivot_table("value", "layer", "step", observed=False)
        wide = wide.where(wide > 0).map(math.log10, na_action="ignore").reindex(layers)
        finite = wide.to_numpy()[np.isfinite(wide.to_numpy())]
        ranges.append((float(np.quantile(finite, 0.01)), float(np.quantile(finite, 0.99))) if len(finite) else (0, 1))
        first = wide.loc[:, [float(str(step)) <= early for step in wide.columns]]
        panels.append([_binned(part, steps_per_epoch) for part in (first, wide)])
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=(f"first {EARLY_EPOCHS} epochs", "whole run")
    )
    for column, panel in enumerate(panels[0], 1):
        low, high = ranges[0]
        figure.add_heatmap(
            **panel,
            name=("first epochs", "whole run")[column - 1],
            y=[_text(name) for name in layers],
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
            "args": [{"z": [p["z"] for p in panel], "x": [p["x"] for p in panel], "zmin": low, "zmax": high}],
        }
        for quantity, panel, (low, high) in zip(shown, panels, ranges, strict=True)
    ]
    base = _figure(_text(arm.name), "", "").layout
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


def top_eigenvalue(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """The Hessian's largest eigenvalue over training."""
    title = "Top eigenvalue of the Hessian"
    return _over_training(arms, batch_size, "sharpness", "hessian_max", title, "", log=True, markers=True)


def worst_case(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """Adaptive worst-case sharpness over training."""
    title = "Adaptive worst-case sharpness, ρ = 0.5"
    return _over_training(arms, batch_size, "sharpness", "worst_case", title, "rise of the loss", markers=True)


def sharpness_and_accuracy(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """Where runs end: sharpness against test accuracy, each run a point."""
    figure = _figure("At the end: sharpness and accuracy", "adaptive worst-case sharpness, ρ = 0.5", "test accuracy, %")
    for arm in arms:
        done = [run for run in arm.at(batch_size) if run.complete and _measured_at_its_end(run)]
        if done:
            figure.add_scatter(
                x=_numbers(pd.Series([run.sharpness["worst_case"].iloc[-1] for run in done])),
                y=_numbers(pd.Series([100 * run.epochs["test_accuracy"].iloc[-1] for run in done])),
                mode="markers",
                name=_text(arm.name),
                marker={"color": arm.color, "size": 11},
                text=[f"seed {run.config.seed}" if run.config else "" for run in done],
                hovertemplate="%{text}: %{x:.3g}, %{y:.2f} %",
            )
    figure.update_layout(hovermode="closest")
    return figure if figure.data else None


def _measured_at_its_end(run: LoadedRun) -> bool:
    return bool(len(run.sharpness) and run.sharpness["step"].iloc[-1] == run.epochs["step"].iloc[-1])


def noise(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """The gradient noise scale over training, a geometric mean over seeds; the band is that of their intervals."""
    figure = _figure("Gradient noise scale", "epoch", "samples", log=True)
    for arm in arms:
        frames = [run.noise for run in arm.at(batch_size) if run.complete and len(run.noise)]
        if not frames:
            continue
        logs = pd.concat(frames)[["epoch", "noise_scale", "low", "high"]]
        for name in ("noise_scale", "low", "high"):
            values = logs[name].where(np.isfinite(logs[name]) & (logs[name] > 0))
            logs[name] = values.map(math.log, na_action="ignore")
        both = logs.groupby("epoch").mean().map(math.exp, na_action="ignore").dropna(subset="noise_scale").reset_index()
        middle = both["noise_scale"]  # an interval that is open to one side is drawn to the point itself
        frame = pd.DataFrame(
            {"x": both["epoch"], "mean": middle, "low": both["low"].fillna(middle), "high": both["high"].fillna(middle)}
        )
        if len(frame):
            _band(figure, arm, frame, markers=True)
    if not figure.data:
        return None
    figure.add_hline(y=batch_size, line={"dash": "dot", "width": 1, "color": "#808080"})
    figure.add_annotation(
        x=1, xref="paper", xanchor="right", y=math.log10(batch_size), yshift=9, text="batch size", showarrow=False
    )
    return figure


def slices(arms: list[Arm], batch_size: int, problems: list[str]) -> list[go.Figure]:
    """Loss slices and lines between runs: one-dimensional ones together, and each two-dimensional one."""
    along = _figure("Training loss along a random direction", "in norms of the filters", "loss")
    between = _figure("Training loss on the line to another run", "0: this run, 1: the other", "loss")
    planes = []
    for arm in arms:
        for number, run in enumerate(arm.at(batch_size)):
            name = f"{arm.name}, seed {run.config.seed}" if run.config else arm.name
            for file, figure in ((run.folder / "landscape.csv", along), (run.folder / "line.csv", between)):
                if not file.is_file():
                    continue
                try:
                    frame = pd.read_csv(file).astype(float)
                    if "y" in frame:
                        planes.append(_plane(frame, name))
                        continue
                    x, loss = _numbers(frame["x"]), _numbers(frame["loss"])
                except (OSError, ValueError, KeyError) as error:
                    problems.append(f"{file} cannot be read: {error}.")
                    continue
                dash = DASHES[number % len(DASHES)]
                figure.add_scatter(x=x, y=loss, name=_text(name), line={"color": arm.color, "dash": dash})
    return [*(figure for figure in (along, between) if figure.data), *planes]


def _plane(frame: pd.DataFrame, name: str) -> go.Figure:
    grid = frame.pivot(index="y", columns="x", values="loss")
    logs = grid.where(grid > 0).map(math.log10, na_action="ignore")
    figure = _figure(f"{_text(name)}: training loss over two directions", "", "")
    figure.add_contour(
        x=_numbers(pd.Series(grid.columns)),
        y=_numbers(pd.Series(grid.index)),
        z=[_numbers(row) for _, row in logs.iterrows()],
        colorscale="Cividis",
        colorbar={"title": "log10 loss", "thickness": 12},
    )
    figure.update_layout(hovermode="closest")
    return figure


# -- parts ------------------------------------------------------------------------------------------------------


def _over_training(
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
    figure = _figure(title, "epoch", unit, log=log)
    for arm in arms:
        runs = [run for run in arm.at(batch_size) if _has(getattr(run, source), column)]
        frames = [getattr(run, source) for run in runs if run.complete]
        if dashed and runs:  # a schedule is the same for every seed; dashes let curves that coincide be seen
            longest = max(runs, key=lambda run: len(getattr(run, source)))
            frames, runs = [getattr(longest, source)], []
        if frames:
            _band(figure, arm, _stack(frames, column, scale), dashed=dashed, markers=markers)
        for run in runs:
            if not run.complete:  # in no mean, but to be seen
                only = _stack([getattr(run, source)], column, scale)
                figure.add_scatter(
                    x=_numbers(only["x"]),
                    y=_numbers(only["mean"]),
                    name=_text(f"{arm.name}, {run.folder.name}: {run.status}"),
                    mode="lines+markers" if markers or len(only) == 1 else "lines",
                    line={"color": arm.color, "width": 1, "dash": "dot"},
                    hovertemplate="%{y:.4g}",
                )
    return figure if figure.data else None


def _has(frame: pd.DataFrame, column: str) -> bool:
    return bool(len(frame) and frame[column].notna().any())


def _stack(frames: list[pd.DataFrame], column: str, scale: float) -> pd.DataFrame:
    """Epoch, and mean, low and high over the runs, thinned to MAX_POINTS."""
    wide = pd.concat([frame.set_index("epoch")[column] * scale for frame in frames], axis=1)
    wide = wide.replace([np.inf, -np.inf], np.nan).sort_index()
    bins = np.arange(len(wide)) // -(-len(wide) // MAX_POINTS)
    wide = wide.reset_index().groupby(bins).mean()
    values = wide.drop(columns="epoch")
    return pd.DataFrame(
        {"x": wide["epoch"], "mean": values.mean(axis=1), "low": values.min(axis=1), "high": values.max(axis=1)}
    )


def _band(figure: go.Figure, arm: Arm, frame: pd.DataFrame, dashed: bool = False, markers: bool = False) -> None:
    x, name = _numbers(frame["x"]), _text(arm.name)
    if not np.allclose(frame["low"], frame["high"], equal_nan=True):
        red, green, blue = (int(arm.color[i : i + 2], 16) for i in (1, 3, 5))
        figure.add_scatter(
            x=x + x[::-1],
            y=_numbers(frame["high"]) + _numbers(frame["low"])[::-1],
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
        y=_numbers(frame["mean"]),
        name=name,
        legendgroup=name,
        mode="lines+markers" if markers or len(x) == 1 else "lines",
        line={"color": arm.color, "width": 2, "dash": arm.dash if dashed else "solid"},
        hovertemplate="%{y:.4g}",
    )


def _binned(wide: pd.DataFrame, steps_per_epoch: float) -> dict[str, Any]:
    """x (epochs) and z (log10) of a heat map of at most MAX_BINS columns."""
    bins = np.arange(wide.shape[1]) // max(-(-wide.shape[1] // MAX_BINS), 1)
    steps = pd.Series(wide.columns.to_numpy(dtype=float)).groupby(bins).mean() / steps_per_epoch
    values = wide.T.groupby(bins).mean().T
    return {"x": _numbers(steps), "z": [_numbers(row) for _, row in values.iterrows()]}


def _text(name: str) -> str:
    """A name for plotly, which reads some HTML in texts."""
    return html.escape(name, quote=False)


def _numbers(values: pd.Series) -> list[float | None]:
    """Five digits are more than a figure shows; what is no number is a gap."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.astype(float)]


def _figure(title: str, x: str, y: str, log: bool = False) -> go.Figure:
    axis: dict[str, Any] = {"gridcolor": GRID, "zeroline": False, "automargin": True}
    layout = go.Layout(
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 15}},
        xaxis={**axis, "title": x},
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
        legend={"orientation": "h", "y": -0.25},
        hovermode="x unified",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#808080"},
        hoverlabel={"bgcolor": "#222", "font": {"color": "#eee"}},
        template="none",
    )
    return go.Figure(layout=layout)
