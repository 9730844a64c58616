"""Data sets by name, each decoded once into uint8 tensors; a batch of them is an index.

To add one: write a file with a function that returns ``ImageData``, and enter it in ``DATASETS``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tvlars.lab.data.cifar import load_cifar10, load_cifar100
from tvlars.lab.data.digits import load_digits
from tvlars.lab.data.fashion_mnist import load_fashion_mnist
from tvlars.lab.data.image_data import ImageData
from tvlars.lab.data.image_folder import load_image_folder
from tvlars.lab.errors import UsageError, unknown

__all__ = ["DATASETS", "FOLDER_PREFIX", "ImageData", "check_data_name", "load_data"]

DATASETS: dict[str, Callable[[Path | None], ImageData]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
}
FOLDER_PREFIX = "imagefolder:"


def check_data_name(name: str, image_size: int | None = None) -> None:
    """Raise ``UsageError`` unless ``name`` is a data set's, or imagefolder:PATH; ``image_size`` wants the latter."""
    if not isinstance(name, str):
        raise UsageError(f"data must be a name, got {name!r}")
    if name.startswith(FOLDER_PREFIX) and name != FOLDER_PREFIX:
        return
    if name not in DATASETS:
        raise unknown("data set", name, [*DATASETS, f"{FOLDER_PREFIX}PATH"])
    if image_size is not None:
        raise UsageError(f"image_size must not be given for {name}, whose images have one size, got {image_size}")


def load_data(name: str, data_dir: Path | None = None, image_size: int | None = None) -> ImageData:
    """Load the data set ``name``.

    Args:
        name: a key of ``DATASETS``, or imagefolder:PATH.
        data_dir: where files lie or are downloaded to. None (default): where each looks by itself; PATH is
            relative to it.
        image_size: of imagefolder:PATH alone, pixels to scale images to.

    Raises:
        UsageError: the name is unknown, or its files are missing, damaged or cannot be downloaded.
    """
    check_data_name(name, image_size)
    try:
        if data_dir is not None and not data_dir.is_dir():
            raise UsageError(f"data_dir must be an existing folder, got {str(data_dir)!r}")
        if name.startswith(FOLDER_PREFIX):
            folder = Path(name.removeprefix(FOLDER_PREFIX)).expanduser()
            return load_image_folder((data_dir or Path()) / folder, image_size)
        return DATASETS[name](data_dir)
    except OSError as error:
        raise UsageError(f"data {name!r} cannot be read: {error.strerror or error}") from error
