"""Loss landscape of a finished run around its final weights, and between two runs."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from tvlars.lab.errors import UsageError
from tvlars.lab.files.disk import write_whole
from tvlars.lab.measure.run_data import as_loaded, choose_device
from tvlars.lab.measure.sharpness import training_batches
from tvlars.lab.run_folder.loaded_run import LoadedRun, RunResult
from tvlars.sharpness import loss_between, loss_slice


def run_landscape(
    run: LoadedRun | RunResult | Path | str,
    to: LoadedRun | RunResult | Path | str | None = None,
    *,
    dimensions: int = 1,
    points: int = 21,
    span: float = 1.0,
    samples: int = 1024,
    seed: int = 0,
    data_dir: Path | str | None = None,
    device: str = "auto",
) -> tuple[pd.DataFrame, Path]:
    """Compute the training loss along random directions from a run's weights, or on the line to another run's weights.

    Args:
        run, samples, data_dir, device: as for :func:`run_sharpness`.
        to: another run of the same model; the loss is then computed on the straight line between both runs.
        dimensions, points, span, seed: as for :func:`tvlars.sharpness.loss_slice`.

    Returns:
        A frame with the columns x and loss (x, y and loss for two dimensions), which is also written to landscape.csv
        (with ``to``: line.csv) in the run folder, and the path of its picture.

    Raises:
        UsageError: as for :func:`run_sharpness`, or the two runs are of different models.
        ValueError: an argument is out of its range.
    """
    run, device = as_loaded(run), choose_device(device)
    model, other = run.model().to(device), None
    if to is not None:
        other = as_loaded(to)
        mine, others = run.model_facts(), other.model_facts()
        for name in ("model", "data", "image_size"):
            if mine[name] != others[name]:
                raise UsageError(f"to must be a run with the same {name}, {mine[name]}, got {others[name]}")
        if dimensions != 1:
            raise UsageError(f"dimensions must be 1 if to is given, for a loss on a line, got {dimensions}")
    arguments = (model, F.cross_entropy, training_batches(run, samples, data_dir, device))
    if other is None:
        found = loss_slice(*arguments, dimensions=dimensions, points=points, span=span, seed=seed)
    else:
        found = loss_between(*arguments, model.state_dict(), other.model().state_dict(), points=points, margin=0.25)
    places, losses = found.positions.numpy(), found.losses.numpy()
    if losses.ndim == 1:
        frame = pd.DataFrame({"x": places, "loss": losses})
    else:
        x, y = torch.meshgrid(found.positions, found.positions, indexing="ij")
        frame = pd.DataFrame({"x": x.flatten().numpy(), "y": y.flatten().numpy(), "loss": losses.ravel()})
    file = run.folder / ("landscape.csv" if to is None else "line.csv")
    write_whole(file, frame.to_csv(index=False, float_format="%.7g").encode())
    return frame, _draw(frame, file.with_suffix(".png"), run.folder.name, to is not None)


def _draw(frame: pd.DataFrame, file: Path, title: str, line: bool) -> Path:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(6, 4 if "y" not in frame else 5), layout="constrained")
    axes = figure.add_subplot()
    if "y" in frame:
        grid = frame.pivot(index="y", columns="x", values="loss")
        drawn = axes.contourf(grid.columns, grid.index, grid.clip(upper=float(frame["loss"].quantile(0.9))), levels=20)
        figure.colorbar(drawn, label="training loss")
        axes.plot(0, 0, "w+")
        axes.set(xlabel="first direction", ylabel="second direction", aspect="equal")
    else:
        axes.plot(frame["x"], frame["loss"])
        axes.set(xlabel="from this run (0) to the other (1)" if line else "direction, in norms of the filters")
        axes.set(ylabel="training loss", ylim=(0, None))
    axes.set_title(title, fontsize=10)
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    plt.close(figure)
    write_whole(file, content.getvalue())
    return file
