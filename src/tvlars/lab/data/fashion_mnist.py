"""Fashion-MNIST: from Debian's package, a folder, or torchvision's download."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tvlars.lab import memory
from tvlars.lab.data.image_data import DOWNLOAD_DIR, ImageData
from tvlars.lab.errors import UsageError
from tvlars.lab.options import expanded

SYSTEM_DIR = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def load_fashion_mnist(data_dir: Path | None) -> ImageData:
    """Fashion-MNIST, 70,000 images of 28x28: from ``data_dir``, the system's folder, or torchvision's download."""
    parts = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    candidates = [SYSTEM_DIR] if data_dir is None else [data_dir, data_dir / "FashionMNIST" / "raw"]
    for folder in candidates:
        files = [_idx_file(folder, part) for part in parts]
        if any(file is not None for file in files):
            missing = [part for part, file in zip(parts, files, strict=True) if file is None]
            if missing:
                raise UsageError(f"fashion-mnist in {folder} lacks {', '.join(missing)}")
            tensors = [read_idx(file) for file in files if file is not None]
            origin = str(folder)
            break
    else:
        tensors, origin = _download_fashion_mnist(data_dir or expanded("data_dir", DOWNLOAD_DIR))
    train_images, train_labels, test_images, test_labels = tensors
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if images.ndim != 3 or labels.ndim != 1:
            raise UsageError(
                f"fashion-mnist in {origin} must hold images and labels, "
                f"got shapes {tuple(images.shape)} and {tuple(labels.shape)}"
            )
    return ImageData(
        "fashion-mnist",
        origin,
        train_images.unsqueeze(1),
        train_labels.long(),
        test_images.unsqueeze(1),
        test_labels.long(),
        classes=10,
        flip=True,
        class_names=CLASSES,
    )


def _idx_file(folder: Path, part: str) -> Path | None:
    return next((f for f in (folder / f"{part}.gz", folder / part) if f.is_file()), None)


def read_idx(file: Path) -> Tensor:
    """A tensor from a file in MNIST's idx format (unsigned bytes), gzip-compressed or not.

    Raises:
        UsageError: the file is damaged, cut short or of another format.
    """
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        zeros, kind, ndim = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{ndim}I", raw, 4)
        if zeros != 0 or kind != 8:
            raise ValueError(f"its header says type {kind}, not unsigned bytes")
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UsageError(f"{file} must be an idx file of unsigned bytes, but it cannot be read: {error}") from error
    return torch.from_numpy(values.copy())


def _download_fashion_mnist(folder: Path) -> tuple[list[Tensor], str]:
    from torchvision.datasets import FashionMNIST

    try:
        splits = [FashionMNIST(str(folder), train=train, download=True) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        if memory.has_ended(error):
            raise
        raise UsageError(
            f"fashion-mnist is neither in {SYSTEM_DIR} (Debian package dataset-fashion-mnist) nor "
            f"in {folder}, and could not be downloaded: {str(error).splitlines()[0]}"
        ) from error
    return [tensor for split in splits for tensor in (split.data, split.targets)], str(folder)
