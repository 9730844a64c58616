"""Sharpness of the training loss: during a run, and of a finished run's final weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvlars import sharpness
from tvlars.lab import memory
from tvlars.lab.config import STATISTICS, STATISTICS_SAMPLES
from tvlars.lab.data.image_data import sample
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.files.disk import write_whole
from tvlars.lab.measure.run_data import as_loaded, changed_data, choose_device, data_of_run
from tvlars.lab.run_folder.loaded_run import LoadedRun, RunResult
from tvlars.lab.run_folder.record import initial_norms
from tvlars.lab.run_folder.rows import RUNNING, SharpnessRow
from tvlars.sharpness._surface import LossSurface
from tvlars.sharpness.hessian import _needed

RHO, RHO_AVERAGE = 0.5, 0.1
"""Radii of the adaptive sharpness, relative to the weights."""
BATCH = 512
TRIAL = 64
"""Number of images to find scale-invariant weights."""
SAME_LOSS = 0.01
"""Largest change of the loss, in units of 1 + loss, after scale-invariant weights get their initial norms."""


def run_sharpness(
    run: LoadedRun | RunResult | Path | str,
    *,
    samples: int = 1024,
    statistics: str = STATISTICS[0],
    statistics_samples: int = STATISTICS_SAMPLES,
    data_dir: Path | str | None = None,
    device: str = "auto",
) -> SharpnessRow:
    """Measure the sharpness of a run's final weights, and add it to the run's sharpness.csv.

    Args:
        run: a loaded run, a result of ``train``, or a folder.
        samples: number of training images, the same ones that ``--sharpness`` uses.
        statistics: statistics of batch norm: "fresh" (default), estimated anew on training images, or "running", the
            run's own.
        statistics_samples: number of training images for fresh statistics, always the same images. Default 4096.
        data_dir: folder of the data set; None (default): the run's folder.
        device: "auto" (default: CUDA if available), "cpu" or any torch device.

    Raises:
        UsageError: the run has no weights or no epoch, its data set is missing or has changed, the extra is not
            installed, or an argument is out of range.
    """
    if statistics not in STATISTICS:
        raise UsageError(unknown("statistics", statistics, STATISTICS))
    if type(statistics_samples) is not int or statistics_samples < 2:
        raise UsageError(f"statistics_samples must be an integer >= 2, got {statistics_samples!r}")
    run = as_loaded(run)
    step = run.summary.get("steps")
    if not isinstance(step, int) or step < 1:
        raise UsageError(f"{run.folder} has no number of steps (summary.json): the run is {run.status}")
    if damaged := [problem for problem in run.problems if problem.startswith("sharpness.csv")]:
        raise UsageError(f"{run.folder}: {damaged[0]}; move the file away, so that its content is not lost")
    batches = training_batches(run, samples, data_dir, choose_device(device))
    fresh = None
    if statistics != RUNNING:
        fresh = training_batches(run, statistics_samples, data_dir, choose_device(device))
    there = run.sharpness[run.sharpness["step"] == step]
    at = str(there["at"].iloc[0]) if len(there) else f"epoch {len(run.epochs)}"
    model = run.model(best=False).to(choose_device(device))
    try:
        with memory.needed(f"samples must be fewer than {samples} here"):
            row = measure_sharpness(
                model, batches, epoch=len(run.epochs), step=step, at=at, fresh=fresh, norms=initial_norms(run.folder)
            )
    except RuntimeError as error:
        raise UsageError(f"the sharpness of {run.folder} cannot be measured: {error}") from error
    import pandas as pd  # not needed for measurements during training

    rows = pd.DataFrame([asdict(row)])
    if len(run.sharpness):
        rows = pd.concat([run.sharpness[run.sharpness["step"] != row.step], rows])
    write_whole(run.folder / "sharpness.csv", rows.to_csv(index=False, float_format="%.7g").encode())
    return row


def training_batches(
    run: LoadedRun, samples: int, data_dir: Path | str | None, device: str
) -> list[tuple[Tensor, Tensor]]:
    """Return normalized training images of a run with labels in batches, always the same images.

    Raises:
        UsageError: the data set is missing or has changed.
    """
    data = data_of_run(run, data_dir=data_dir)
    if changed := changed_data(run, data, "train"):
        raise UsageError(f"{run.folder} must be measured on its training images, but {changed}")
    images, labels = sample(data.train_images, data.train_labels, samples)
    pieces = zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)
    return [(run.normalize(x.to(device)), y.to(device)) for x, y in pieces]


def measure_sharpness(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    epoch: int = 0,
    step: int = 0,
    at: str = "",
    fresh: Iterable[tuple[Tensor, Tensor]] | None = None,
    norms: Mapping[str, float] | None = None,
    announce: Callable[[str], None] = lambda part: None,
) -> SharpnessRow:
    """Measure each column of a row for the mean cross-entropy over ``batches`` of normalized images and labels.

    Args:
        model: not changed by a single bit.
        batches: normalized images and labels.
        epoch, step, at: position of the run, and name of the measurement.
        fresh: batches to estimate batch norm's statistics anew; None (default): use the model's own statistics.
        norms: norms of initial weights by name; None (default): unknown.
        announce: called with each part when it starts, such as "2 of 5: trace".

    Raises:
        UsageError: the extra ``sharpness`` is not installed.
    """
    check_sharpness()
    start, data = time.perf_counter(), list(batches)
    if fresh is None:
        row = _measured(model, data, announce)
        return replace(row, epoch=epoch, step=step, at=at, seconds=round(time.perf_counter() - start, 3))
    whole = [batch for batch in fresh if len(batch[1]) > 1]
    # Batches have equal weights in the statistics, so a shorter last batch is left out.
    whole = [batch for batch in whole if len(batch[1]) == len(whole[0][1])]
    with sharpness.fresh_statistics(model, whole):
        row = _measured(model, data, announce)
    row = replace(row, epoch=epoch, step=step, at=at, statistics="fresh")
    if names := scaled_weights(model, whole, norms or {}):
        at_start = {name: (norms or {})[name] for name in names}
        with sharpness.at_norms(model, at_start), sharpness.fresh_statistics(model, whole):
            with LossSurface(model, F.cross_entropy, data) as surface:
                loss = surface.value()
            if abs(loss - row.loss) <= SAME_LOSS * (1 + row.loss):  # else the weights are not scale-invariant
                top = sharpness.hessian_eigenvalues(model, F.cross_entropy, data, tolerance=0.02)
                row = replace(row, hessian_max_at_initial_norm=float(top.values[0]))
    return replace(row, seconds=round(time.perf_counter() - start, 3))


def scaled_weights(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], norms: Mapping[str, float]) -> list[str]:
    """Return the names of scale-invariant weights whose initial ``norms`` are known."""
    if not norms:
        return []
    images = batches[0][0][:TRIAL]
    return [name for name in sharpness.scale_invariant_weights(model, [images]) if name in norms]


def _measured(model: nn.Module, data: list[tuple[Tensor, Tensor]], announce: Callable[[str], None]) -> SharpnessRow:
    arguments = (model, F.cross_entropy, data)
    announce("1 of 5: top eigenvalue")
    top = sharpness.hessian_eigenvalues(*arguments, tolerance=0.02)
    announce("2 of 5: trace")
    trace = sharpness.hessian_trace(*arguments, samples=8)
    announce("3 of 5: average case")
    average = sharpness.average_case_sharpness(*arguments, rho=RHO_AVERAGE, samples=8, adaptive=True)
    with LossSurface(*arguments) as surface:
        loss = surface.value()
    announce("4 of 5: worst case")
    worst = sharpness.worst_case_sharpness(*arguments, rho=RHO, steps=5, adaptive=True)
    announce("5 of 5: worst case of Keskar et al.")
    return SharpnessRow(
        epoch=0,
        step=0,
        samples=sum(len(y) for _, y in data),
        loss=loss,
        hessian_max=float(top.values[0]),
        hessian_trace=trace.value,
        hessian_trace_error=trace.standard_error,
        worst_case=worst,
        average_case=average.value,
        average_case_error=average.standard_error,
        keskar=sharpness.keskar_sharpness(*arguments),
        seconds=0.0,
    )


def check_sharpness() -> None:
    """Raise ``UsageError`` if the extra ``sharpness`` is not installed."""
    try:
        for name in ("curvlinops", "scipy"):
            _needed(name)
    except ImportError as error:
        raise UsageError(f"sharpness cannot be measured: {error}") from error
