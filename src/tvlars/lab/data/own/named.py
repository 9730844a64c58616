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
"""Data sets of torchvision whose mirrored images belong to no class."""
NAMES_OF_SPLITS = {
    **dict.fromkeys(("CLEVRClassification", "DTD", "FGVCAircraft", "Flowers102", "PCAM"), ("train", "val", "test")),
    **dict.fromkeys(("ImageNet", "Imagenette"), ("train", "", "val")),
    "Country211": ("train", "valid", "test"),
    "OxfordIIITPet": ("trainval", "", "test"),
    "Places365": ("train-standard", "", "val"),
    "RenderedSST2": ("train", "val", "test"),
}
"""Names that classes of torchvision have for training, validation and test, where they are not train and test."""
WITHOUT = ("EMNIST", "LFWPeople")
"""Data sets of torchvision whose argument ``split`` is something else."""


def load_imported(path: str, data_dir: Path | None, image_size: int | None, processes: int | None = None) -> ImageData:
    """Return the data at an import path.

    Args:
        path: of Datasets, of ``ImageData``, or of a function that returns them. The function is called with
            ``data_dir`` and ``image_size`` if its signature has them.
        data_dir: folder of the files.
        image_size: pixels that images are scaled to, unless the function takes it.
        processes: number of processes that read, see :func:`from_datasets`.

    Raises:
        UsageError: nothing is at the path, or what is there are no data.
        Exception: whatever the user's function raises.
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
    """Return what is at an import path, or what the function there returns, and True if it took ``image_size``.

    Raises:
        UsageError: nothing is at the path, or the function needs other arguments.
        Exception: whatever the user's function raises.
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
                f"data {path!r} must be called without arguments, or with data_dir and image_size alone, but it needs "
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

    Its class must have an argument ``train``, or ``split`` with "train" and "test". Validation images are those of the
    split "val" beside "test". Files are in ``data_dir``, and are downloaded there if they are missing.

    Raises:
        UsageError: there is no such class, it has no such splits, or its files are missing and cannot be downloaded.
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
    """Return functions that make the splits of a class; None if it has none."""
    if "train" in arguments:
        return {"train": partial(kind, train=True), "test": partial(kind, train=False)}
    if "split" not in arguments or name in WITHOUT:
        return None
    train, validation, test = NAMES_OF_SPLITS.get(name, ("train", "", "test"))
    named = {"train": train, "validation": validation, "test": test}
    return {split: partial(kind, split=word) for split, word in named.items() if word}


def _made(make: Any, folder: Path, name: str, downloads: bool) -> Any:
    """Return a split of torchvision; its files are downloaded if they are missing."""
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
