"""CIFAR-10, CIFAR-100 and Fashion-MNIST in torchvision's files, downloaded if they are missing.

Fashion-MNIST is also read from Debian's package, and from a folder of its files, gzip-compressed or not.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvlars.lab import memory
from tvlars.lab.data.image_data import ImageData
from tvlars.lab.errors import UsageError
from tvlars.lab.options import expanded

DOWNLOAD_DIR = Path("~/.cache/tvlars/data")
"""Folder of torchvision's downloads if ``data_dir`` is not given."""
SYSTEM_DIR = Path("/usr/share/datasets/fashion-mnist")
IDX_FILES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def load_cifar(data_dir: Path | None, *, classes: int) -> ImageData:
    """Load 60,000 colour images of 32x32 from ``data_dir``, and download them there if they are missing.

    Raises:
        UsageError: the files are missing or damaged, and cannot be downloaded.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    name, dataset = f"cifar{classes}", CIFAR10 if classes == 10 else CIFAR100
    folder = data_dir or expanded("data_dir", DOWNLOAD_DIR)
    below = folder / dataset.base_folder
    missing = f"the files in {below} are incomplete" if below.is_dir() else f"{name} is not in {folder}"
    splits = _through_torchvision(dataset, folder, missing)
    tensors = [
        tensor
        for split in splits
        for tensor in (
            torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(split.targets, device="cpu"),
        )
    ]
    return _image_data(name, folder, tensors, splits[0].classes)


load_cifar10 = partial(load_cifar, classes=10)
load_cifar100 = partial(load_cifar, classes=100)


def load_fashion_mnist(data_dir: Path | None) -> ImageData:
    """Load 70,000 images of 28x28: from ``data_dir``, the system's folder, or torchvision's download.

    Raises:
        UsageError: files are missing or damaged, and cannot be downloaded.
    """
    candidates = [SYSTEM_DIR] if data_dir is None else [data_dir, data_dir / "FashionMNIST" / "raw"]
    origin = next((folder for folder in candidates if any(_idx_file(folder, part) for part in IDX_FILES)), None)
    if origin is not None:
        files = {part: _idx_file(origin, part) for part in IDX_FILES}
        if missing := [part for part, file in files.items() if file is None]:
            raise UsageError(f"fashion-mnist in {origin} lacks {', '.join(missing)}")
        tensors = [read_idx(file) for file in files.values() if file is not None]
    else:
        from torchvision.datasets import FashionMNIST  # the import takes seconds: only if torchvision is needed

        origin = data_dir or expanded("data_dir", DOWNLOAD_DIR)
        nowhere = f"fashion-mnist is neither in {SYSTEM_DIR} (Debian package dataset-fashion-mnist) nor in {origin}"
        splits = _through_torchvision(FashionMNIST, origin, nowhere)
        tensors = [tensor for split in splits for tensor in (split.data, split.targets)]
    for images, labels in (tensors[:2], tensors[2:]):
        if images.ndim != 3 or labels.ndim != 1:
            raise UsageError(
                f"fashion-mnist in {origin} must hold images and labels, "
                f"got shapes {tuple(images.shape)} and {tuple(labels.shape)}"
            )
    tensors = [tensor.unsqueeze(1) if tensor.ndim == 3 else tensor.long() for tensor in tensors]
    return _image_data("fashion-mnist", origin, tensors, CLOTHES)


def _image_data(name: str, origin: Path, tensors: list[Tensor], classes: Sequence[str]) -> ImageData:
    train_images, train_labels, test_images, test_labels = tensors
    facts: dict[str, Any] = dict(classes=len(classes), flip=True, class_names=tuple(classes))
    return ImageData(name, str(origin), train_images, train_labels, test_images, test_labels, **facts)


def _through_torchvision(dataset: Any, folder: Path, missing: str) -> tuple[Any, Any]:
    """Return both splits of a ``dataset`` of torchvision; ``missing`` begins the message if the download fails."""
    try:
        return dataset(str(folder), train=True), dataset(str(folder), train=False)
    except (RuntimeError, OSError) as error:  # torchvision raises these for a missing file or another checksum
        if memory.has_ended(error):
            raise
    try:
        return dataset(str(folder), train=True, download=True), dataset(str(folder), train=False)
    except Exception as error:  # networks fail in many ways
        if memory.has_ended(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{missing}, and it could not be downloaded: {reason}") from error


def _idx_file(folder: Path, part: str) -> Path | None:
    return next((file for file in (folder / f"{part}.gz", folder / part) if file.is_file()), None)


def read_idx(file: Path) -> Tensor:
    """Read a tensor from a file in MNIST's idx format (unsigned bytes), gzip-compressed or not.

    Raises:
        UsageError: the file is damaged, cut short or of another format.
    """
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        zeros, kind, ndim = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{ndim}I", raw, 4)
        if zeros != 0 or kind != 8:
            raise ValueError(f"its header says type {kind}, not unsigned bytes")
        return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape).copy())
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UsageError(f"{file} must be an idx file of unsigned bytes, but cannot be read: {error}") from error
