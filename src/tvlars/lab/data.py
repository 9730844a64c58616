"""Image data sets, each decoded once into uint8 tensors; a batch of them is an index.

To add one: write a function that returns ``ImageData`` and enter it in ``DATASETS``.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tvlars.lab.errors import UsageError, unknown

FASHION_MNIST_SYSTEM_DIR = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_DIR = Path("~/.cache/tvlars/data")


@dataclass(frozen=True)
class ImageData:
    """One data set: images uint8 (N, C, H, W), labels int64 (N,), for training and for test."""

    name: str
    origin: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int
    flip: bool
    """Whether a mirrored image is an image of the same class; digits are not."""

    @property
    def image_size(self) -> int:
        return int(self.train_images.shape[-1])

    @property
    def channels(self) -> int:
        return int(self.train_images.shape[1])

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over the training images, on the scale 0 to 255."""
        pixels = self.train_images.transpose(0, 1).flatten(1).double()
        return pixels.mean(1).float(), pixels.std(1).float().clamp(min=1.0)

    def to(self, device: torch.device) -> ImageData:
        """The same with all tensors on ``device``."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )

    def __str__(self) -> str:
        size = f"{self.channels} x {self.train_images.shape[2]} x {self.train_images.shape[3]}"
        counts = f"{len(self.train_labels):,} training and {len(self.test_labels):,} test images"
        return f"{self.name}: {counts} of {size}, {self.classes} classes ({self.origin})"


def load_data(name: str, data_dir: Path | None = None) -> ImageData:
    """Load the data set ``name``; ``data_dir`` says where files lie or are downloaded to.

    Raises:
        UsageError: the name is unknown, or its files are missing, damaged or cannot be downloaded.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if data_dir is not None and not data_dir.is_dir():
        raise UsageError(f"data_dir must be an existing folder, got {str(data_dir)!r}")
    return DATASETS[name](data_dir)


def load_digits(data_dir: Path | None) -> ImageData:
    """scikit-learn's 1,797 handwritten digits of 8x8; every fifth of each class is for test. Ships with it."""
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    raw = sklearn_digits()
    images = torch.from_numpy(np.rint(raw.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(raw.target.astype(np.int64))
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=raw.target)
    train, test = torch.from_numpy(train), torch.from_numpy(test)
    return ImageData(
        "digits",
        "scikit-learn, split 4:1 by class with seed 0",
        images[train],
        labels[train],
        images[test],
        labels[test],
        classes=10,
        flip=False,
    )


def load_fashion_mnist(data_dir: Path | None) -> ImageData:
    """Fashion-MNIST, 70,000 images of 28x28: from ``data_dir``, the system's folder, or torchvision's download."""
    parts = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    candidates = [FASHION_MNIST_SYSTEM_DIR] if data_dir is None else [data_dir, data_dir / "FashionMNIST" / "raw"]
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
        tensors, origin = _download_fashion_mnist(data_dir or DOWNLOAD_DIR.expanduser())
    train_images, train_labels, test_images, test_labels = tensors
    for images, labels in ((train_images, train_labels), (test_images, test_labels)):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise UsageError(
                f"fashion-mnist in {origin} must hold as many images as labels, "
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
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise UsageError(f"{file} must be an idx file of unsigned bytes, but it cannot be read: {error}") from error
    return torch.from_numpy(values.copy())


def _download_fashion_mnist(folder: Path) -> tuple[list[Tensor], str]:
    from torchvision.datasets import FashionMNIST

    try:
        splits = [FashionMNIST(str(folder), train=train, download=True) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise UsageError(
            f"fashion-mnist is neither in {FASHION_MNIST_SYSTEM_DIR} (Debian package dataset-fashion-mnist) nor "
            f"in {folder}, and could not be downloaded: {str(error).splitlines()[0]}"
        ) from error
    return [tensor for split in splits for tensor in (split.data, split.targets)], str(folder)


DATASETS: dict[str, Callable[[Path | None], ImageData]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
}
