"""Data set for measurements of a run: its own data, loaded again, or other data that fit its model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from tvlars.lab.data import Data, ImageData, from_datasets, load_data
from tvlars.lab.data.augment.recipe import RANDOM_RESIZED
from tvlars.lab.data.fingerprint import difference_of_names
from tvlars.lab.data.place import looked_for, same_folder
from tvlars.lab.errors import UsageError
from tvlars.lab.imported import GIVEN
from tvlars.lab.options import as_path
from tvlars.lab.run_folder.loaded_run import LoadedRun, RunResult, load_run


def as_loaded(run: LoadedRun | RunResult | Path | str) -> LoadedRun:
    """Return a run, loaded from its folder if it is not loaded yet."""
    return run if isinstance(run, LoadedRun) else load_run(run.folder if isinstance(run, RunResult) else run)


def choose_device(device: str) -> str:
    """Return ``device``; "auto" becomes CUDA if there is a GPU, else the CPU."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def data_of_run(
    run: LoadedRun,
    data: str | Data | None = None,
    data_dir: Path | str | None = None,
    image_size: int | None = None,
    skip_bad_images: bool = False,
    *,
    same_classes: bool = True,
) -> ImageData:
    """Load the data set of a run, or another one that fits its model (without ``same_classes``: only its features).

    Raises:
        UsageError: the run does not name its data set, or the data set does not fit.
    """
    if run.config is not None and run.config.own_task:
        raise UsageError(f"run must be one on images with labels, but {run.folder} has a task of your own")
    facts, data_dir, sized = run.model_facts(), as_path("data_dir", data_dir), image_size is not None
    if own := data is None:
        if run.config is None or not same_folder(run.config.data, run.config.data_dir, facts["data"]):
            raise UsageError(f"data must be given, since {run.folder} does not say where {facts['data']} lies")
        data, data_dir = looked_for(run.config.data, data_dir), data_dir or run.config.data_dir
        image_size = image_size or run.config.image_size
        skip_bad_images = skip_bad_images or run.config.skip_bad_images
    if isinstance(data, ImageData):
        loaded = data
    elif isinstance(data, str):
        encoded = own and run.config is not None and run.config.crop == RANDOM_RESIZED
        loaded = load_data(data, data_dir, image_size, skip_bad_images, encoded=encoded)
    else:
        size = None if run.config is None else run.config.image_size
        loaded = from_datasets(data, name=facts["data"].removeprefix(GIVEN), image_size=image_size or size)
    if own and run.config is not None:
        loaded = _held_out(run, loaded)
    _check_facts(run, loaded, sized)
    if facts["channels"] != loaded.channels:
        raise UsageError(
            f"data must have as many channels as the run's data, {facts['channels']}, but {loaded.name} "
            f"has {loaded.channels}"
        )
    if not same_classes:
        return loaded
    if said := difference_of_names(facts["class_names"], loaded.class_names):
        raise UsageError(
            f"data must have the {facts['classes']} classes of {facts['data']}, which the run was trained on, got "
            f"{loaded.name!r} with {loaded.classes}: {said}"
        )
    if facts["classes"] != loaded.classes:
        raise UsageError(
            f"data must have as many classes as the run's data, {facts['classes']}, but {loaded.name} "
            f"has {loaded.classes}"
        )
    return loaded


def _held_out(run: LoadedRun, data: ImageData) -> ImageData:
    """Return a run's own data, with the same validation images held out as in the run."""
    there, config = run.fingerprint(), run.config
    assert config is not None
    without = config.validation is None and there is not None and there.validation is None
    return data.hold_out(0.0) if without else data.hold_out(config.validation, config.validation_seed)


def _check_facts(run: LoadedRun, data: ImageData, sized: bool) -> None:
    """Raise ``UsageError`` if ``data`` are the run's own, unchanged data, but model.json contradicts them.

    If the user chose the image size (``sized``), it is not compared.
    """
    facts, there = run.model_facts(), run.fingerprint()
    if not same_folder(data.name, None, facts["data"]) and (there is None or there.difference(data.fingerprint)):
        return  # other data, named by the user
    wanted = f"{run.folder / 'model.json'} must fit the run's data, but says that"
    if not sized and facts["image_size"] != data.image_size:
        raise UsageError(f"{wanted} images have {facts['image_size']} pixels per side, not {data.image_size}")
    if there is not None and there.difference(data.fingerprint, ("train",)):
        return
    for name, value in zip(("mean", "std"), data.mean_and_std(), strict=True):
        if len(value) != len(facts[name]) or not torch.allclose(
            value, torch.tensor(facts[name], device="cpu"), rtol=1e-2, atol=0.1
        ):
            raise UsageError(f"{wanted} {name} of the training images is {facts[name]}, while it is {value.tolist()}")


def changed_data(run: LoadedRun, data: ImageData, *splits: Literal["train", "validation", "test"]) -> str:
    """Return a sentence if ``splits`` of a run's own ``data`` have changed since the run started, else "".

    A run of an earlier version has no fingerprint: then only the names of classes are compared.
    """
    facts, there = run.model_facts(), run.fingerprint()
    if there is None:
        said = difference_of_names(facts["class_names"], data.class_names)
    else:
        said = there.difference(data.fingerprint, splits)
    return f"the data have changed since the run started: {said}" if said else ""
