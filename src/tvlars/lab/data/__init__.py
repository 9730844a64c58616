"""Data sets by name. Each is decoded once into uint8 tensors, from which batches are indexed.

To add a data set, write a function that returns ``ImageData`` in a new file, and enter it in ``DATASETS``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tvlars.lab import memory
from tvlars.lab.data.digits import load_digits
from tvlars.lab.data.image_data import ImageData
from tvlars.lab.data.image_folder import load_image_folder
from tvlars.lab.data.own.datasets import from_datasets
from tvlars.lab.data.own.named import load_imported, load_torchvision
from tvlars.lab.data.place import FOLDER_PREFIX, TORCHVISION_PREFIX, is_imported
from tvlars.lab.data.torchvision_sets import load_cifar10, load_cifar100, load_fashion_mnist
from tvlars.lab.errors import UsageError, unknown
from tvlars.lab.imported import GIVEN, is_theirs, spelled_path
from tvlars.lab.options import as_path, expanded

__all__ = ["DATASETS", "FOLDER_PREFIX", "Data", "ImageData", "check_data_name", "from_datasets", "load_data"]

Data = ImageData | Sequence[Any] | Mapping[str, Any]
"""Data that functions of the laboratory accept: ``ImageData``, or Datasets of users, see :func:`from_datasets`."""
DATASETS: dict[str, Callable[[Path | None], ImageData]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
}


def check_data_name(
    name: str, image_size: int | None = None, skip_bad_images: bool = False, data_dir: Path | None = None
) -> None:
    """Raise ``UsageError`` unless ``name`` is a known name, imagefolder:PATH, torchvision:CLASS, or an import path.

    ``image_size`` is invalid for known names, and ``skip_bad_images`` is valid only for imagefolder:PATH. The error
    suggests folders in ``data_dir``.
    """
    if not isinstance(name, str):
        raise UsageError(f"data must be a name, got {name!r}")
    if skip_bad_images and not name.startswith(FOLDER_PREFIX):
        raise UsageError(f"skip_bad_images must not be given for {name}, which is not a folder of images, got True")
    if name.startswith((TORCHVISION_PREFIX, GIVEN)) and not name.endswith(":"):
        return
    if is_imported(name) and not (_folder_meant(name, data_dir) and find_spec(re.split("[.:]", name)[0]) is None):
        return
    if name.startswith(FOLDER_PREFIX) and name != FOLDER_PREFIX:
        if "\0" in name:
            raise UsageError(f"data must be {FOLDER_PREFIX}PATH, got {name!r}")
        return
    if name not in DATASETS:
        if folder := _folder_meant(name, data_dir):
            raise UsageError(f"unknown data set {name!r}: a folder of images is given as {FOLDER_PREFIX}{folder}")
        more = [f"{FOLDER_PREFIX}PATH", f"{TORCHVISION_PREFIX}CLASS", "./file.py:name"]
        raise unknown("data set", name, [*DATASETS, *more])
    if image_size is not None:
        raise UsageError(f"image_size must not be given for {name}, whose images have a size, got {image_size}")


def _folder_meant(name: str, data_dir: Path | None) -> str | None:
    """Return the existing folder that ``name`` probably means without its prefix or with a wrong one, or None."""
    for text in (name, name.partition(":")[2], name.partition("=")[2]):
        with contextlib.suppress(
            OSError, ValueError, RuntimeError
        ):  # not a path: too long, with a NUL, or of an unknown user
            if text.strip() and ((data_dir or Path()) / Path(text).expanduser()).is_dir():
                return text
    return None


def load_data(
    name: str,
    data_dir: Path | None = None,
    image_size: int | None = None,
    skip_bad_images: bool = False,
    data_workers: int | None = None,
    *,
    encoded: bool = False,
) -> ImageData:
    """Load the data set ``name``.

    Args:
        name: a key of ``DATASETS``, imagefolder:PATH, torchvision:CLASS, or an import path of a function that returns
            Datasets for training and test.
        data_dir: folder of the files, also for downloads; PATH is relative to it. None (default): the usual place of
            each data set.
        image_size: pixels to scale images to; not for keys of ``DATASETS``.
        skip_bad_images: leave out images that cannot be read, and count them in ``account``; only for
            imagefolder:PATH. False (default): raise an error that names them.
        data_workers: number of processes that read Datasets. None (default): one per core if reading takes long.
        encoded: leave the training images of a folder as files if ``image_size`` is given, so that random crops are
            taken from the whole images. False (default): decode them once.

    Raises:
        UsageError: the name is unknown, or the files are missing, damaged, cannot be downloaded, or do not fit into
            memory.
        Exception: errors of the user's code at an import path.
    """
    data_dir = as_path("data_dir", data_dir)
    check_data_name(name, image_size, skip_bad_images, data_dir)
    with memory.needed(f"data {name!r} must fit into memory"):
        try:
            if data_dir is not None and not data_dir.is_dir():
                raise UsageError(f"data_dir must be an existing folder, got {str(data_dir)!r}")
            if name in DATASETS:
                return DATASETS[name](data_dir)
            if name.startswith(TORCHVISION_PREFIX):
                return load_torchvision(name.removeprefix(TORCHVISION_PREFIX), data_dir, image_size, data_workers)
            if name.startswith(GIVEN):
                raise UsageError(
                    f"data must be given again, as in train(config, data=...), since {name.removeprefix(GIVEN)!r} was "
                    "given in Python"
                )
            if is_imported(name):
                return load_imported(spelled_path(name), data_dir, image_size, data_workers)
            folder = expanded("data", Path(name.removeprefix(FOLDER_PREFIX)))
            return load_image_folder((data_dir or Path()) / folder, image_size, skip_bad_images, encoded, data_workers)
        except OSError as error:
            if memory.has_ended(error) or is_theirs(error):
                raise
            raise UsageError(f"data {name!r} cannot be read: {error.strerror or error}") from error
