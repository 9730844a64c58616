"""Data sets of users by name: torchvision:CLASS, and import paths of functions that return Datasets."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tvlars._checks import one_line
from tvlars.lab import memory
from tvlars.lab.data.image_data import ImageData
from tvlars.lab.data.own.datasets import from_datasets
from tvlars.lab.data.place import TORCHVISION_PREFIX
from tvlars.lab.data.torchvision_sets import DOWNLOAD_DIR
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.imported import load_object
from tvlars.lab.options import expanded

NOT_MIRRORED = ("EMNIST", "GTSRB", "KMNIST", "MNIST", "QMNIST", "RenderedSST2", "SVHN", "USPS")
"""Data sets of torchvision whose images change their meaning when mirrored."""
NAMES_OF_SPLITS = {
    **dict.fromkeys(("CLEVRClassification", "DTD", "FGVCAircraft", "Flowers102", "PCAM"), ("train", "val", "test")),
    **dict.fromkeys(("ImageNet", "Imagenette"), ("train", "", "val")),
    "Country211": ("train", "valid", "test"),
    "OxfordIIITPet": ("trainval", "", "test"),
    "Places365": ("train-standard", "", "val"),
    "RenderedSST2": ("train", "val", "test"),
}
"""Names of training, validation and test splits in torchvision's classes, if they are not just train and test."""
WITHOUT = ("EMNIST", "LFWPeople")
"""Data sets of torchvision whose argument ``split`` has another meaning."""


def load_imported(path: str, data_dir: Path | None, image_size: int | None, processes: int | None = None) -> ImageData:
    """Return the data at an import path.

    Args:
        path: import path of Datasets, of ``ImageData``, or of a function that returns them. The function is called
            with ``data_dir`` and ``image_size`` if its signature has them.
        data_dir: folder of the files.
        image_size: pixels to scale images to, unless the function has an argument for it.
        processes: number of processes that read, see :func:`from_datasets`.

    Raises:
        UsageError: there is nothing at the path, or no data.
        Exception: errors of the user's function.
    """
    found, sized = imported_data(path, data_dir, image_size)
    if isinstance(found, ImageData):
        if image_size is not None and not sized:
            raise UsageError(f"image_size must not be given for {path!r}, whose images have a size, got {image_size}")
        return replace(found, name=path)
    try:
        return from_datasets(found, name=path, image_size=image_size, processes=processes)
    except UsageError as error:
        raise UsageError(f"data {path!r}: {error}") from error


def imported_data(path: str, data_dir: Path | None, image_size: int | None) -> tuple[Any, bool]:
    """Return the object at an import path, or the function's result, and True if the function took ``image_size``.

    Raises:
        UsageError: there is nothing at the path, or the function needs other arguments.
        Exception: errors of the user's function.
    """
    found = load_object(path, "data")
    if callable(found) and not hasattr(found, "__getitem__"):
        given = {"data_dir": data_dir, "image_size": image_size}
        there = list(inspect.signature(found).parameters.values())
        any_name = any(one.kind == one.VAR_KEYWORD for one in there)
        taken = {name: value for name, value in given.items() if any_name or name in {one.name for one in there}}
        needed = [
            one.name
            for one in there
            if one.default is one.empty
            and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
            and one.name not in taken
        ]
        if needed:
            raise UsageError(
                f"data {path!r} must need no arguments other than data_dir and image_size, but needs "
                f"{', '.join(needed)}"
            )
        without = {one.name for one in there if one.default is not one.empty}
        taken = {name: value for name, value in taken.items() if value is not None or name not in without}
        return found(**taken), "image_size" in taken
    return found, False


def load_torchvision(
    name: str, data_dir: Path | None, image_size: int | None, processes: int | None = None
) -> ImageData:
    """Return the data set of torchvision with this class name, for example ``SVHN``.

    The class must have an argument ``train``, or ``split`` with "train" and "test". If there is also a split "val", it
    is used for validation. Files are in ``data_dir``, and are downloaded there if they are missing.

    Raises:
        UsageError: the class does not exist, has no such splits, or its files are missing and cannot be downloaded.
    """
    from torchvision import datasets

    known = [one for one in datasets.__all__ if inspect.isclass(getattr(datasets, one))]
    if name not in known:
        raise unknown("data set of torchvision", name, known)
    kind = getattr(datasets, name)
    folder = data_dir or expanded("data_dir", DOWNLOAD_DIR)
    arguments = inspect.signature(kind.__init__).parameters
    needed = [
        one.name
        for one in list(arguments.values())[1:]
        if one.default is one.empty
        and one.kind == one.POSITIONAL_OR_KEYWORD
        and one.name not in ("root", "split", "train")
    ]
    makes = _splits(kind, name, arguments)
    if needed or makes is None:
        why = f"needs {', '.join(needed)}" if needed else "has no splits for training and test"
        raise UsageError(
            f"data {TORCHVISION_PREFIX}{name} {why}: write a function that returns (train, test), and give it as "
            "./file.py:name"
        )
    sets = {split: _made(make, folder, name, "download" in arguments) for split, make in makes.items()}
    flip = name not in NOT_MIRRORED
    try:
        return from_datasets(
            sets, name=f"{TORCHVISION_PREFIX}{name}", image_size=image_size, flip=flip, processes=processes
        )
    except UsageError as error:
        raise UsageError(f"data {TORCHVISION_PREFIX}{name}: {error}") from error


def _splits(kind: Any, name: str, arguments: Any) -> dict[str, Any] | None:
    """Return functions that make the splits of a class; None if the class has no splits."""
    if "train" in arguments:
        return {"train": partial(kind, train=True), "test": partial(kind, train=False)}
    if "split" not in arguments or name in WITHOUT:
        return None
    train, validation, test = NAMES_OF_SPLITS.get(name, ("train", "", "test"))
    named = {"train": train, "validation": validation, "test": test}
    return {split: partial(kind, split=word) for split, word in named.items() if word}


def _made(make: Any, folder: Path, name: str, downloads: bool) -> Any:
    """Return a split of torchvision; download its files if they are missing."""
    try:
        return make(str(folder))
    except Exception as error:
        if memory.has_ended(error):
            raise
        missing = f"data {TORCHVISION_PREFIX}{name} cannot be read in {folder}: {one_line(error)}"
        if not downloads:
            raise UsageError(missing) from error
    try:
        return make(str(folder), download=True)
    except Exception as error:  # networks fail in many ways
        if memory.has_ended(error):
            raise
        raise UsageError(f"{missing}; and it could not be downloaded: {one_line(error)}") from error
