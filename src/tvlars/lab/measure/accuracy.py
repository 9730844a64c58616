"""Accuracy of a run's final weights, or the measures of its task, on its own data set or another."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tvlars._notebook import page, paragraph
from tvlars._reading import is_inside
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import Data
from tvlars.lab.data.own.rows import RowsData, load_rows, rows_from
from tvlars.lab.errors import UsageError
from tvlars.lab.imported import GIVEN, file_of, is_import_path, said_path
from tvlars.lab.measure.run_data import as_loaded, changed_data, choose_device, data_of_run
from tvlars.lab.options import as_path
from tvlars.lab.run_folder.loaded_run import LoadedRun, RunResult
from tvlars.lab.tasks import Task, load_task, metrics_of, sums_of, values_of


@dataclass(frozen=True)
class Evaluation:
    """Accuracy (a fraction) and mean cross-entropy over ``samples`` test images of ``data``.

    For a user's task, the accuracy is NaN, and the loss is the task's loss.
    """

    accuracy: float
    loss: float
    samples: int
    data: str
    note: str = ""
    """Changes of the run's own data since the run; "" if there are none."""
    account: tuple[str, ...] = ()
    """Lines on skipped files of a folder of images, and other remarks."""
    measures: dict[str, float] = field(default_factory=dict)
    """Measures and metrics of a user's task, by name."""

    def __str__(self) -> str:
        if math.isnan(self.accuracy):
            measures = "".join(f", test {name.replace('_', ' ')} {value:.4g}" for name, value in self.measures.items())
            return f"test loss {self.loss:.4f}{measures} over {self.samples:,} samples"
        return f"test accuracy {self.accuracy:.2%}, test loss {self.loss:.4f} over {self.samples:,} images"

    def _repr_html_(self) -> str:
        """Return results, data and notes as HTML for notebooks."""
        return page(*map(paragraph, filter(None, (self, self.data, *self.account, self.note))))


def evaluate(
    run: LoadedRun | RunResult | Path | str,
    *,
    data: str | Data | None = None,
    task: Task | None = None,
    data_dir: Path | str | None = None,
    image_size: int | None = None,
    skip_bad_images: bool = False,
    batch_size: int = 1024,
    device: str = "auto",
) -> Evaluation:
    """Test a run's final weights, or its best weights if the run kept them, in float32.

    Args:
        run: a loaded run, a result of ``train``, or a folder.
        data: data set for the test: a name, or Datasets or ``ImageData`` as for :func:`tvlars.lab.train`. None
            (default): the run's own data. For your own task: samples, or the import path of a function that returns
            samples.
        task: the task given to ``train``; None (default) if the run names an import path, or does not have your own
            task.
        data_dir: folder of the data; None (default): the run's folder, for its own data.
        image_size: pixels to scale images to; None (default): the run's size, for its own data.
        skip_bad_images: for imagefolder:PATH, skip images that cannot be read; True by default if the run did so.
        batch_size: samples per forward pass.
        device: "auto" (default: CUDA if available), "cpu" or any torch device.

    Raises:
        UsageError: the run has no weights, or the data set has no labels or does not fit the model.
    """
    run = as_loaded(run)
    if run.config is not None and run.config.own_task:
        if image_size is not None or skip_bad_images:
            named = "skip_bad_images" if image_size is None else "image_size"
            raise UsageError(f"{named} must not be given for a task of your own, whose samples are used unchanged")
        return _of_task(run, run.config, data, task, as_path("data_dir", data_dir), batch_size, choose_device(device))
    if task is not None:
        raise UsageError(f"task must not be given for {run.folder}, which does not have a task of your own")
    loaded = data_of_run(run, data, data_dir, image_size, skip_bad_images)
    if loaded.classes < 2:
        raise UsageError(
            f"data must have labels of two classes or more for a test, but {loaded.name} has {loaded.classes}"
        )
    device = choose_device(device)
    model = run.model().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss, correct = 0.0, 0
    with torch.no_grad():
        for images, labels in zip(
            torch.split(loaded.test_images, batch_size), torch.split(loaded.test_labels, batch_size), strict=True
        ):
            logits = model(run.normalize(images.to(device)).contiguous(memory_format=torch.channels_last))
            targets = labels.to(device)
            loss += F.cross_entropy(logits, targets, reduction="sum").item()
            correct += int((logits.argmax(1) == targets).sum())
    count = len(loaded.test_labels)
    changed = changed_data(run, loaded, "test") if data is None and image_size is None else ""
    return Evaluation(correct / count, loss / count, count, str(loaded), changed, loaded.account)


@torch.no_grad()
def _of_task(
    run: LoadedRun, config: TrainConfig, data: Any, task: Task | None, data_dir: Path | None, size: int, device: str
) -> Evaluation:
    """Test a run of a user's task."""
    for what, path in (("task", config.task), ("data", config.data)):
        if is_import_path(path) and (file := file_of(path)) is not None and is_inside(file, run.folder):
            raise UsageError(
                f"{what} {said_path(path)} must be outside of {run.folder}: code in a run folder is not run"
            )
    own = load_task(config.task, task)
    if data is None or isinstance(data, str):
        loaded = load_rows(data or config.data, data_dir or (config.data_dir if data is None else None))
    else:
        loaded = data if isinstance(data, RowsData) else rows_from(data, f"{GIVEN}rows")
    model, rows, count = run.model().to(device), loaded.test_images, len(loaded.test_labels)
    metrics = metrics_of(own)
    for metric in metrics.values():
        metric.to(device)
    parts = torch.split(torch.arange(count), size)
    batches = ((len(index), rows[index].to(device).values) for index in parts)
    sums = sums_of(own, model, batches, metrics, torch.device(device))
    means = {name: float(value) / count for name, value in sums.items()}
    loss = means.pop("loss")
    changed = changed_data(run, loaded, "test") if data is None else ""
    measures = means | values_of(metrics)
    return Evaluation(math.nan, loss, count, str(loaded), changed, loaded.account, measures)
