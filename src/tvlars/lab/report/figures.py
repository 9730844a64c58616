"""Figures of a report. Each function makes the figures of one section, or none without measurements.

Arms are at one batch size unless stated otherwise.
"""

from __future__ import annotations

import io
import math
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tvlars._reading import read_text, reason
from tvlars.lab.comparison.colors import DASHES
from tvlars.lab.report.arms import Arm, config_of, images_per_second
from tvlars.lab.report.drawing import GRAY, Curve, band, clocks, figure_of, line, numbers, run_points, text
from tvlars.lab.report.tables.intervals import Intervals, over_seeds
from tvlars.lab.run_folder.loaded_run import LoadedRun
from tvlars.lab.ssl.evaluations import EVALUATIONS
from tvlars.lab.tasks import Measure

ACCURACY = Curve("evaluated", "test_accuracy", "Test accuracy", "%", scale=100)
LOSS = Curve("steps", "loss", "Training loss", "cross-entropy", log=True)
ONLINE_ACCURACY = Curve("evaluated", "test_accuracy", "Online probe: test accuracy", "%", scale=100)
LOSS_OF_METHOD = Curve("steps", "loss", "Training loss", "loss of the method", log=True)
SCHEDULES = (
    Curve("steps", "lr", "Learning rate, φ or schedule included", log=True, schedule=True),
    Curve("steps", "phi", "φ, or the schedule's factor", schedule=True),
)
REPRESENTATION = (
    Curve("representation", "embedding_std", "Spread of embeddings (1: even, 0: collapsed)", markers=True),
    Curve("representation", "feature_rank", "Effective rank of features", "directions", markers=True),
    Curve("representation", "alignment", "Alignment: squared distance of an image's views", markers=True),
    Curve("representation", "uniformity", "Uniformity on the sphere (lower is more even)", markers=True),
)
SHARPNESS = (
    Curve("sharpness", "hessian_max", "Top eigenvalue of the Hessian", log=True, markers=True),
    Curve("sharpness", "worst_case", "Adaptive worst-case sharpness, ρ = 0.5", "rise of the loss", markers=True),
)


def training(arms: list[Arm], measure: Measure | None = None) -> list[go.Figure]:
    """Draw accuracy or a task's ``measure`` over epochs; loss, learning rate and φ or schedule's factor over steps."""
    supervised = not any(config_of(run).self_supervised for arm in arms for run in arm.runs)
    second = LOSS if supervised else LOSS_OF_METHOD
    if measure is not None and measure.of_task:
        second = replace(second, unit="loss of the task")
    return _drawn(arms, (held_out_curve(arms, measure), second, *SCHEDULES))


def held_out_curve(arms: list[Arm], measure: Measure | None = None) -> Curve:
    """Return the curve of the accuracy, or the ``measure`` of a user's task, on held-out data after each epoch."""
    runs = [run for arm in arms for run in arm.runs]
    validated = any(run.validated for run in runs)
    if measure is not None and measure.of_task:
        split, name = "validation" if validated else "test", measure.name.partition(" ")[2]
        return Curve("evaluated", f"{split}_{name.replace(' ', '_')}", f"{split.capitalize()} {name}")
    found = ONLINE_ACCURACY if any(config_of(run).self_supervised for run in runs) else ACCURACY
    if validated:
        title = found.title.replace("test", "validation").replace("Test", "Validation")
        found = replace(found, column="validation_accuracy", title=title)
    return found


def over_batch_sizes(arms: list[Arm], table: pd.DataFrame, measure: Measure) -> list[go.Figure]:
    """Draw the mean of ``measure`` with its interval over the batch size, one line per arm."""
    scale = 1 if measure.of_task else 100
    figure = figure_of(f"{measure.name.capitalize()} at the end", "batch size (samples)", measure.unit.strip())
    sizes = sorted(int(size) for size in table["batch_size"].unique())
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{size:,}" for size in sizes], dtick=None)
    known = table[table["seeds"] > 0]
    for arm in arms:
        rows = known[known["arm"] == arm.name]
        if len(rows):
            figure.add_scatter(
                x=rows["batch_size"].tolist(),
                y=numbers(scale * rows["accuracy"]),
                error_y={"type": "data", "array": numbers(scale * rows["interval"]), "thickness": 1},
                name=text(arm.name),
                meta=arm.name,
                line={"color": arm.color, "width": 2, "dash": arm.dash},
                text=[f"{row.seeds} of {row.of} runs" for row in rows.itertuples()],
                hovertemplate=f"%{{y:{'.4g' if measure.of_task else '.2f'}}}, mean of %{{text}}",
            )
    figure.update_layout(showlegend=False)
    reach = known["interval"].fillna(0.0)
    low, high = (100 * known["accuracy"] - 100 * reach).min(), (100 * known["accuracy"] + 100 * reach).max()
    if math.isfinite(low) and not measure.of_task:  # intervals from few seeds may exceed 0 to 100 %
        low, high = max(low, 0.0), min(high, 100.0)
        pad = 0.05 * max(high - low, 1.0)
        figure.update_yaxes(range=[low - pad, high + pad])
    return [figure]


def speed(arms: list[Arm]) -> list[Intervals]:
    """Return images per second of training, mean over seeds: bars from zero with each seed."""
    rows = []
    for arm in arms:
        found = [(images_per_second(run), f"seed {config_of(run).seed}") for run in arm.runs]
        if any(math.isfinite(value) for value, _ in found):
            rows.append(over_seeds(arm.name, found, arm.color, ",.0f"))
    return [Intervals("", rows, "images/s", zero=True, bars=True, limits=(0.0, math.inf))] if rows else []


def evaluated(arms: list[Arm]) -> list[Intervals]:
    """Return evaluations of features after self-supervised learning, mean over seeds, each evaluation by all arms."""
    names = list(dict.fromkeys(name for arm in arms for run in arm.runs for name in run.evaluations))
    rows = []
    for name in names:
        for arm in arms:
            mine = [(one, f"seed {config_of(run).seed}") for run in arm.runs if (one := run.evaluations.get(name))]
            if mine:
                values = [(100 * one.accuracy, said) for one, said in mine]
                rows.append(over_seeds(f"{EVALUATIONS.get(name, name)}: {arm.name}", values, arm.color, ".2f"))
    limits = (0.0, 100.0)
    return [Intervals("", rows, f"{_split(arms)} accuracy, %", limits=limits)] if rows else []


def features(arms: list[Arm]) -> list[go.Figure]:
    """Draw the spread of features and embeddings over self-supervised learning."""
    return _drawn(arms, REPRESENTATION)


def sharpness(arms: list[Arm]) -> list[go.Figure]:
    """Draw sharpness over training, and final sharpness against test accuracy."""
    title, x = "At the end: sharpness and accuracy", "adaptive worst-case sharpness, ρ = 0.5"

    def points(run: LoadedRun) -> list[tuple[float | None, float]]:
        last = run.epochs["step"].iloc[-1] if len(run.epochs) else None
        if not run.complete or not len(run.sharpness) or run.sharpness["step"].iloc[-1] != last:
            return []
        if run.accuracy is None or run.best_epoch not in (None, run.epochs["epoch"].iloc[-1]):
            return []  # the accuracy belongs to other weights
        return [(numbers(run.sharpness["worst_case"])[-1], 100 * run.accuracy)]

    ends = run_points(arms, figure_of(title, x, f"{_split(arms)} accuracy, %"), points, "%{text}: %{x:.3g}, %{y:.2f} %")
    return [*_drawn(arms, SHARPNESS), *ends]


def _split(arms: list[Arm]) -> str:
    """Return the split that the runs report accuracies of, in a word."""
    return "test" if all(config_of(run).test for arm in arms for run in arm.runs) else "validation"


def noise(arms: list[Arm], batch_size: int) -> list[go.Figure]:
    """Draw the gradient noise scale over training, a geometric mean over seeds with the band of their intervals."""
    figure = figure_of("Gradient noise scale", "epoch", "samples", log=True)
    for arm in arms:
        frames = [run.noise for run in arm.runs if run.complete and len(run.noise)]
        if not frames:
            continue
        rows = pd.concat(frames).set_index("epoch")[["noise_scale", "low", "high"]]
        logs = rows.where(np.isfinite(rows) & (rows > 0)).apply(np.log)
        both = logs.groupby("epoch").mean().apply(np.exp).dropna(subset="noise_scale")
        middle = both["noise_scale"]  # a one-sided interval is drawn up to the point itself
        ends = {name: both[name].fillna(middle) for name in ("low", "high")}
        if len(both):
            band(figure, arm, pd.DataFrame({"x": both.index, "mean": middle, **ends}), markers=True)
    if not figure.data:
        return []
    figure.add_hline(y=batch_size, line={"dash": "dot", "width": 1, "color": GRAY})
    figure.add_annotation(
        x=1, xref="paper", xanchor="right", y=math.log10(batch_size), yshift=9, text="batch size", showarrow=False
    )
    figure.update_layout(showlegend=False, meta={"kind": "plain", "clocks": clocks(arms)})
    return [figure]


def slices(arms: list[Arm], problems: list[str]) -> list[go.Figure]:
    """Draw loss slices and lines between runs: one-dimensional slices together, each two-dimensional slice alone."""
    along = figure_of("Training loss along a random direction", "in norms of the filters", "loss")
    between = figure_of("Training loss on the line to another run", "0: this run, 1: the other", "loss")
    planes = []
    for arm in arms:
        for number, run in enumerate(arm.runs):
            name = f"{arm.name}, seed {config_of(run).seed}"
            for file, figure in ((run.folder / "landscape.csv", along), (run.folder / "line.csv", between)):
                if not os.path.lexists(file):
                    continue
                try:
                    frame = pd.read_csv(io.StringIO(read_text(file, run.folder))).astype(float)
                    if "y" in frame:
                        planes.append(_plane(frame, name))
                    else:
                        dash = DASHES[number % len(DASHES)]
                        line(figure, name, frame["x"], frame["loss"], arm.color, dash, markers=True)
                except (OSError, ValueError, KeyError) as error:
                    problems.append(f"{file} cannot be read: {reason(error)}.")
    return [*(figure for figure in (along, between) if figure.data), *planes]


def _plane(frame: pd.DataFrame, name: str) -> go.Figure:
    if len(frame) != frame["x"].nunique() * frame["y"].nunique():
        raise ValueError("its points are not a grid")
    grid = frame.pivot(index="y", columns="x", values="loss")
    logs = grid.where(grid > 0).apply(np.log10)
    figure = figure_of(f"{name}: training loss over two directions", "", "")
    figure.add_contour(
        x=numbers(grid.columns),
        y=numbers(grid.index),
        z=[numbers(row) for row in logs.to_numpy()],
        colorscale="Cividis",
        colorbar={"title": "log10 loss", "thickness": 12},
    )
    figure.update_layout(hovermode="closest")
    return figure


def _drawn(arms: list[Arm], curves: tuple[Curve, ...]) -> list[go.Figure]:
    return [figure for curve in curves if (figure := curve.draw(arms)) is not None]
