"""The figures of a report: of arms at one batch size a figure each, or None where nothing was measured."""

from __future__ import annotations

import io
import math
import os

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tvlars._reading import read_text, reason
from tvlars.lab.report.arms import DASHES, Arm
from tvlars.lab.report.drawing import band, figure_of, numbers, over_training, text
from tvlars.lab.run_folder.loaded_run import LoadedRun

EVALUATION_NAMES = {
    "linear": "linear probe",
    "knn": "nearest neighbours",
    "random": "untrained, linear",
    "random-knn": "untrained, neighbours",
    "finetune": "fine-tuned",
}

# -- training -------------------------------------------------------------------------------------------------


def test_accuracy(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """Accuracy over epochs, a line an arm with the range over its seeds."""
    title = "Test accuracy" if not _self_supervised(arms) else "Online probe: test accuracy"
    return over_training(arms, batch_size, "epochs", "test_accuracy", title, "%", scale=100)


def training_loss(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """Loss of every step."""
    unit = "cross-entropy" if not _self_supervised(arms) else "loss of the method"
    return over_training(arms, batch_size, "steps", "loss", "Training loss", unit, log=True)


def learning_rate(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """What adapted layers took."""
    title = "Learning rate, φ or schedule included"
    return over_training(arms, batch_size, "steps", "lr", title, "", log=True, dashed=True)


def factor(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """φ, or the schedule's factor."""
    return over_training(arms, batch_size, "steps", "phi", "φ, or the schedule's factor", "", dashed=True)


def accuracy_over_batch_size(arms: list[Arm], table: pd.DataFrame) -> go.Figure:
    """Mean test accuracy with its interval over the batch size, a line an arm."""
    figure = figure_of("Test accuracy after the last epoch", "batch size (samples)", "%")
    sizes = sorted(int(size) for size in table["batch_size"].unique())
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{size:,}" for size in sizes], dtick=None)
    for arm in arms:
        rows = table[(table["arm"] == arm.name) & (table["seeds"] > 0)]
        if rows.empty:
            continue
        figure.add_scatter(
            x=rows["batch_size"].tolist(),
            y=numbers(100 * rows["accuracy"]),
            error_y={"type": "data", "array": numbers(100 * rows["interval"]), "thickness": 1},
            name=text(arm.name),
            line={"color": arm.color, "width": 2, "dash": arm.dash},
            text=[f"{row.seeds} of {row.of} runs" for row in rows.itertuples()],
            hovertemplate="%{y:.2f}, mean of %{text}",
        )
    known = table[table["seeds"] > 0]
    reach = known["interval"].fillna(0.0)
    low, high = (100 * known["accuracy"] - 100 * reach).min(), (100 * known["accuracy"] + 100 * reach).max()
    if math.isfinite(low):  # an interval from few seeds may reach where no accuracy can
        low, high = max(low, 0.0), min(high, 100.0)
        pad = 0.05 * max(high - low, 1.0)
        figure.update_yaxes(range=[low - pad, high + pad])
    return figure


def speed(arms: list[Arm], runs: pd.DataFrame) -> go.Figure | None:
    """Images per second of training, each run a point."""
    if runs["images_per_second"].dropna().empty:
        return None
    figure = figure_of("Speed of training, tests not counted", "batch size", "images/s")
    sizes = [f"{size:,}" for size in sorted(runs["batch_size"].unique())]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=sizes)
    for arm in arms:
        rows = runs[runs["arm"] == arm.name].dropna(subset=["images_per_second"])
        figure.add_scatter(
            x=[f"{size:,}" for size in rows["batch_size"]],
            y=numbers(rows["images_per_second"]),
            mode="markers",
            name=text(arm.name),
            marker={"color": arm.color, "size": 9, "opacity": 0.75},
            hovertemplate="%{y:,.0f}",
        )
    figure.update_yaxes(rangemode="tozero")
    return figure


def _self_supervised(arms: list[Arm]) -> bool:
    return any(run.config.task != "classification" for arm in arms for run in arm.runs if run.config)


# -- self-supervised learning ---------------------------------------------------------------------------------


def evaluations(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """What frozen features are worth, each run a point: the untrained network beside what was learned."""
    figure = figure_of("What features are worth, each run a point", "", "test accuracy, %")
    figure.update_xaxes(type="category")
    for arm in arms:
        points = [
            (name, 100 * one.accuracy, run.config.seed if run.config else -1)
            for run in arm.at(batch_size)
            for name, one in run.evaluations.items()
        ]
        if points:
            figure.add_scatter(
                x=[EVALUATION_NAMES.get(name, name) for name, _, _ in points],
                y=[float(f"{accuracy:.5g}") for _, accuracy, _ in points],
                text=[f"seed {seed}" for _, _, seed in points],
                mode="markers",
                name=text(arm.name),
                marker={"color": arm.color, "size": 10, "opacity": 0.75},
                hovertemplate="%{text}: %{y:.2f} %",
            )
    figure.update_layout(hovermode="closest")
    return figure if figure.data else None


def spread(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """Standard deviation of embeddings' directions: 0 is collapse."""
    title = "Spread of embeddings (1: even, 0: collapsed)"
    return over_training(arms, batch_size, "representation", "embedding_std", title, "", markers=True)


def rank(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """Effective rank of the features."""
    title = "Effective rank of features"
    return over_training(arms, batch_size, "representation", "feature_rank", title, "directions", markers=True)


def alignment(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """How far apart the two views of an image lie."""
    title = "Alignment: squared distance of an image's views"
    return over_training(arms, batch_size, "representation", "alignment", title, "", markers=True)


def uniformity(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """How evenly embeddings fill the sphere."""
    title = "Uniformity on the sphere (lower is more even)"
    return over_training(arms, batch_size, "representation", "uniformity", title, "", markers=True)


# -- what happens inside --------------------------------------------------------------------------------------


def top_eigenvalue(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """The Hessian's largest eigenvalue over training."""
    title = "Top eigenvalue of the Hessian"
    return over_training(arms, batch_size, "sharpness", "hessian_max", title, "", log=True, markers=True)


def worst_case(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """Adaptive worst-case sharpness over training."""
    title = "Adaptive worst-case sharpness, ρ = 0.5"
    return over_training(arms, batch_size, "sharpness", "worst_case", title, "rise of the loss", markers=True)


def sharpness_and_accuracy(arms: list[Arm], batch_size: int) -> go.Figure | None:
    """Where runs end: sharpness against test accuracy, each run a point."""
    figure = figure_of(
        "At the end: sharpness and accuracy", "adaptive worst-case sharpness, ρ = 0.5", "test accuracy, %"
    )
    for arm in arms:
        done = [run for run in arm.at(batch_size) if run.complete and _measured_at_its_end(run)]
        if done:
            figure.add_scatter(
                x=numbers(pd.Series([run.sharpness["worst_case"].iloc[-1] for run in done])),
                y=numbers(pd.Series([100 * run.epochs["test_accuracy"].iloc[-1] for run in done])),
                mode="markers",
                name=text(arm.name),
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
    figure = figure_of("Gradient noise scale", "epoch", "samples", log=True)
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
            band(figure, arm, frame, markers=True)
    if not figure.data:
        return None
    figure.add_hline(y=batch_size, line={"dash": "dot", "width": 1, "color": "#808080"})
    figure.add_annotation(
        x=1, xref="paper", xanchor="right", y=math.log10(batch_size), yshift=9, text="batch size", showarrow=False
    )
    return figure


def slices(arms: list[Arm], batch_size: int, problems: list[str]) -> list[go.Figure]:
    """Loss slices and lines between runs: one-dimensional ones together, and each two-dimensional one."""
    along = figure_of("Training loss along a random direction", "in norms of the filters", "loss")
    between = figure_of("Training loss on the line to another run", "0: this run, 1: the other", "loss")
    planes = []
    for arm in arms:
        for number, run in enumerate(arm.at(batch_size)):
            name = f"{arm.name}, seed {run.config.seed}" if run.config else arm.name
            for file, figure in ((run.folder / "landscape.csv", along), (run.folder / "line.csv", between)):
                if not os.path.lexists(file):
                    continue
                try:
                    frame = pd.read_csv(io.StringIO(read_text(file, run.folder))).astype(float)
                    if "y" in frame:
                        planes.append(_plane(frame, name))
                        continue
                    x, loss = numbers(frame["x"]), numbers(frame["loss"])
                except (OSError, ValueError, KeyError) as error:
                    problems.append(f"{file} cannot be read: {reason(error)}.")
                    continue
                dash = DASHES[number % len(DASHES)]
                figure.add_scatter(x=x, y=loss, name=text(name), line={"color": arm.color, "dash": dash})
    return [*(figure for figure in (along, between) if figure.data), *planes]


def _plane(frame: pd.DataFrame, name: str) -> go.Figure:
    if len(frame) != frame["x"].nunique() * frame["y"].nunique():
        raise ValueError("its points are no grid")
    grid = frame.pivot(index="y", columns="x", values="loss")
    logs = grid.where(grid > 0).map(math.log10, na_action="ignore")
    figure = figure_of(f"{text(name)}: training loss over two directions", "", "")
    figure.add_contour(
        x=numbers(pd.Series(grid.columns)),
        y=numbers(pd.Series(grid.index)),
        z=[numbers(row) for _, row in logs.iterrows()],
        colorscale="Cividis",
        colorbar={"title": "log10 loss", "thickness": 12},
    )
    figure.update_layout(hovermode="closest")
    return figure
