"""The test of a run's final weights, on its own data set or another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

from tvlars.lab.data import ImageData, load_data
from tvlars.lab.data.fingerprint import Fingerprint, difference_of_names
from tvlars.lab.data.place import looked_for, same_folder
from tvlars.lab.errors import UsageError
from tvlars.lab.options import as_path
from tvlars.lab.run_folder.identity import FINGERPRINT
from tvlars.lab.run_folder.loaded_run import LoadedRun, RunResult, load_run


@dataclass(frozen=True)
class Evaluation:
    """Accuracy (a fraction) and mean cross-entropy over ``samples`` test images of ``data``."""

    accuracy: float
    loss: float
    samples: int
    data: str
    note: str = ""
    """How the data differ from what the run was tested on, if they are its own."""
    account: tuple[str, ...] = ()
    """Lines on files that were left out of a folder of images, and other remarks on it."""


def evaluate(
    run: LoadedRun | RunResult | Path | str,
    *,
    data: str | None = None,
    data_dir: Path | str | None = None,
    image_size: int | None = None,
    skip_bad_images: bool = False,
    batch_size: int = 1024,
    device: str = "auto",
) -> Evaluation:
    """Test the final weights of a run in float32.

    Args:
        run: a run, what ``train`` returned, or a folder.
        data: data set to test on; None (default) is the run's own.
        data_dir: where it lies; None (default) is where the run looked, for the run's own.
        image_size: for imagefolder:PATH.
        skip_bad_images: for imagefolder:PATH, go on without images that cannot be read; so it does if the run did.
        batch_size: samples per forward pass.
        device: "auto" (default: CUDA where there is one), "cpu" or any torch device.

    Raises:
        UsageError: the run has no weights, or the data set has no labels or does not fit its model.
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


def as_loaded(run: LoadedRun | RunResult | Path | str) -> LoadedRun:
    """A run however it was named."""
    return run if isinstance(run, LoadedRun) else load_run(run.folder if isinstance(run, RunResult) else run)


def choose_device(device: str) -> str:
    """``device``, or for "auto" CUDA where there is one and else the CPU."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def data_of_run(
    run: LoadedRun,
    data: str | None = None,
    data_dir: Path | str | None = None,
    image_size: int | None = None,
    skip_bad_images: bool = False,
) -> ImageData:
    """The data set that a run was trained on, or another that its model fits.

    Raises:
        UsageError: the run does not say which, or the model does not fit.
    """
    facts, data_dir, sized = run.model_facts(), as_path("data_dir", data_dir), image_size is not None
    if data is None:
        if run.config is None or not same_folder(run.config.data, run.config.data_dir, facts["data"]):
            raise UsageError(f"data must be given, since {run.folder} does not say where {facts['data']} lies")
        data, data_dir = looked_for(run.config.data, data_dir), data_dir or run.config.data_dir
        image_size = image_size or run.config.image_size
        skip_bad_images = skip_bad_images or run.config.skip_bad_images
    loaded = load_data(data, data_dir, image_size, skip_bad_images)
    check_facts(run, loaded, sized)
    if facts["channels"] != loaded.channels:
        raise UsageError(
            f"data must have the {facts['channels']} channels of the run's, but {data} has {loaded.channels}"
        )
    if said := difference_of_names(facts["class_names"], loaded.class_names):
        raise UsageError(
            f"data must have the {facts['classes']} classes of {facts['data']}, which the run was trained on, got "
            f"{data!r} with {loaded.classes}: {said}"
        )
    if facts["classes"] != loaded.classes:
        raise UsageError(f"data must have the {facts['classes']} classes of the run's, but {data} has {loaded.classes}")
    return loaded


def check_facts(run: LoadedRun, data: ImageData, sized: bool = False) -> None:
    """Raise ``UsageError`` where model.json of a run says other things of its data than these, its own, are like.

    Data that have changed since are another matter, which :func:`changed_data` tells. Where they were ``sized`` as the
    user said, the size is no sign of anything.
    """
    facts = run.model_facts()
    there = Fingerprint.from_json(facts.get(FINGERPRINT))
    if not same_folder(data.name, None, facts["data"]) and (there is None or there.difference(data.fingerprint)):
        return  # the user has named other data
    wanted = f"{run.folder / 'model.json'} must be that of the run's data, but says that"
    if not sized and facts["image_size"] != data.image_size:
        raise UsageError(f"{wanted} images have {facts['image_size']} pixels a side, and they have {data.image_size}")
    if there is not None and there.difference(data.fingerprint, ("train",)):
        return
    for name, value in zip(("mean", "std"), data.mean_and_std(), strict=True):
        if len(value) != len(facts[name]) or not torch.allclose(
            value, torch.tensor(facts[name], device="cpu"), rtol=1e-2, atol=0.1
        ):
            raise UsageError(f"{wanted} {name} of the training images is {facts[name]}, and it is {value.tolist()}")


def changed_data(run: LoadedRun, data: ImageData, *splits: Literal["train", "test"]) -> str:
    """How ``splits`` of ``data``, which are a run's own, differ from what they were when the run began; "" where they
    do not. A run of an earlier version tells by the names of classes alone."""
    facts = run.model_facts()
    there = Fingerprint.from_json(facts.get(FINGERPRINT))
    if there is None:
        said = difference_of_names(facts["class_names"], data.class_names)
    else:
        said = there.difference(data.fingerprint, splits)
    return f"the data have changed since the run began: {said}" if said else ""
