"""Accuracy of a run's final weights, on its own data set or another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from tvlars.lab.data import Data
from tvlars.lab.errors import UsageError
from tvlars.lab.measure.run_data import as_loaded, changed_data, choose_device, data_of_run
from tvlars.lab.run_folder.loaded_run import LoadedRun, RunResult


@dataclass(frozen=True)
class Evaluation:
    """Accuracy (a fraction) and mean cross-entropy over ``samples`` test images of ``data``."""

    accuracy: float
    loss: float
    samples: int
    data: str
    note: str = ""
    """Changes of the run's own data since the run, "" if there are none."""
    account: tuple[str, ...] = ()
    """Lines on skipped files of a folder of images, and other remarks."""


def evaluate(
    run: LoadedRun | RunResult | Path | str,
    *,
    data: str | Data | None = None,
    data_dir: Path | str | None = None,
    image_size: int | None = None,
    skip_bad_images: bool = False,
    batch_size: int = 1024,
    device: str = "auto",
) -> Evaluation:
    """Test a run's final weights, or its best ones if it kept them, in float32.

    Args:
        run: a loaded run, a result of ``train``, or a folder.
        data: data set to test on: a name, or Datasets or ``ImageData`` as :func:`tvlars.lab.train` takes them. None
            (default) is the run's own.
        data_dir: folder of the data; None (default): the run's, for its own data.
        image_size: pixels that images are scaled to; None (default): the run's, for its own data.
        skip_bad_images: for imagefolder:PATH, skip images that cannot be read; this is the default if the run did so.
        batch_size: samples per forward pass.
        device: "auto" (default: CUDA if available), "cpu" or any torch device.

    Raises:
        UsageError: the run has no weights, or the data set has no labels or does not fit the model.
    """
    run = as_loaded(run)
    loaded = data_of_run(run, data, data_dir, image_size, skip_bad_images)
    if loaded.classes < 2:
        raise UsageError(
            f"data must have labels of two classes or more to test on, but {loaded.name} has {loaded.classes}"
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
