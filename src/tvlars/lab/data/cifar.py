"""CIFAR-10 and CIFAR-100 through torchvision's loaders."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from tvlars.lab import memory
from tvlars.lab.data.image_data import DOWNLOAD_DIR, ImageData
from tvlars.lab.errors import UsageError
from tvlars.lab.options import expanded


def load_cifar(data_dir: Path | None, *, classes: int) -> ImageData:
    """60,000 colour images of 32x32, read from ``data_dir`` or downloaded there.

    Raises:
        UsageError: the files are neither there, whole, nor to be downloaded.
    """
    name, folder = f"cifar{classes}", data_dir or expanded("data_dir", DOWNLOAD_DIR)
    train, test = _read(name, classes, folder)
    return ImageData(
        name,
        str(folder),
        _images(train),
        torch.tensor(train.targets, device="cpu"),
        _images(test),
        torch.tensor(test.targets, device="cpu"),
        classes=classes,
        flip=True,
        class_names=tuple(train.classes),
    )


load_cifar10 = partial(load_cifar, classes=10)
load_cifar100 = partial(load_cifar, classes=100)


def _read(name: str, classes: int, folder: Path) -> tuple[Any, Any]:
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = CIFAR10 if classes == 10 else CIFAR100
    try:
        return dataset(str(folder), train=True), dataset(str(folder), train=False)
    except (RuntimeError, OSError) as error:  # torchvision's, of a missing file or another checksum
        if memory.has_ended(error):
            raise
    try:
        return dataset(str(folder), train=True, download=True), dataset(str(folder), train=False)
    except Exception as error:  # a network has many ways to fail
        if memory.has_ended(error):
            raise
        below = folder / dataset.base_folder
        reason = (str(error) or type(error).__name__).splitlines()[0]
        found = f"the files in {below} are not whole" if below.is_dir() else f"{name} is not in {folder}"
        raise UsageError(f"{found}, and it could not be downloaded: {reason}") from error


def _images(split: Any) -> torch.Tensor:
    return torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()
