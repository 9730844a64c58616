"""Data of the studies, for ``--data benchmarks/studies/data.py:NAME``: parts of Fashion-MNIST, most of them at 14 x 14.

Images of 14 x 14 are means of 2 x 2 pixels. 5,000 of the 60,000 training images are held out for validation, the same
ones for all functions; the training images are drawn from the other 55,000, each class alike. All test images are
there. Of labels with noise, exactly a fifth of the training labels have another class; validation and test labels are
untouched. Everything is drawn with fixed seeds, so that a data set is the same each time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tvlars.lab.data import ImageData
from tvlars.lab.data.torchvision_sets import load_fashion_mnist

VALIDATION = 5_000
SEED = 0
NOISE = 0.2


def fashion14_4000(data_dir: Path | None = None) -> ImageData:
    """Return 4,000 training images of 14 x 14."""
    return fashion(4_000, data_dir=data_dir)


def fashion14_10000(data_dir: Path | None = None) -> ImageData:
    """Return 10,000 training images of 14 x 14."""
    return fashion(10_000, data_dir=data_dir)


def fashion14_50000(data_dir: Path | None = None) -> ImageData:
    """Return 50,000 training images of 14 x 14."""
    return fashion(50_000, data_dir=data_dir)


def fashion14_4000_noisy(data_dir: Path | None = None) -> ImageData:
    """Return 4,000 training images of 14 x 14, a fifth of them with a wrong label."""
    return fashion(4_000, NOISE, data_dir=data_dir)


def fashion14_10000_noisy(data_dir: Path | None = None) -> ImageData:
    """Return 10,000 training images of 14 x 14, a fifth of them with a wrong label."""
    return fashion(10_000, NOISE, data_dir=data_dir)


def fashion14_50000_noisy(data_dir: Path | None = None) -> ImageData:
    """Return 50,000 training images of 14 x 14, a fifth of them with a wrong label."""
    return fashion(50_000, NOISE, data_dir=data_dir)


def fashion28_10000(data_dir: Path | None = None) -> ImageData:
    """Return 10,000 training images of 28 x 28, those of :func:`fashion14_10000`."""
    return fashion(10_000, data_dir=data_dir, half=False)


def fashion(count: int, noise: float = 0.0, *, data_dir: Path | None = None, half: bool = True) -> ImageData:
    """Return Fashion-MNIST with ``count`` training images, a share ``noise`` of them with a wrong label.

    Images are 14 x 14; without ``half`` they are as they came, 28 x 28.

    Raises:
        UsageError: the files are missing or damaged, and cannot be downloaded.
    """
    whole = load_fashion_mnist(data_dir).hold_out(VALIDATION, SEED)
    assert whole.validation_images is not None
    chosen = stratified(whole.train_labels, count, SEED)
    labels = whole.train_labels[chosen]
    said = f"{count:,} of {len(whole.train_labels):,} training images" + ", means of 2 x 2 pixels" * half
    sized = halved if half else torch.clone
    changed = f"{noise:.0%} of the training labels are those of another class"
    return replace(
        whole,
        origin=f"{whole.origin}, {said}",
        train_images=sized(whole.train_images[chosen]),
        train_labels=with_noise(labels, noise, whole.classes, SEED) if noise else labels,
        validation_images=sized(whole.validation_images),
        test_images=sized(whole.test_images),
        account=(*whole.account, changed) if noise else whole.account,
    )


def halved(images: Tensor) -> Tensor:
    """Return uint8 images (N, C, H, H) at half of their size: means of 2 x 2 pixels, halves rounded up."""
    count, channels, side, _ = images.shape
    parts = images.to(torch.int16).reshape(count, channels, side // 2, 2, side // 2, 2)
    return ((parts.sum((3, 5)) + 2) // 4).to(torch.uint8)


def stratified(labels: Tensor, count: int, seed: int) -> Tensor:
    """Return the ascending indices of ``count`` samples, with equal shares of each class up to whole samples."""
    from sklearn.model_selection import train_test_split

    every = np.arange(len(labels))
    chosen, _ = train_test_split(every, train_size=count, random_state=seed, stratify=labels.numpy())
    return torch.from_numpy(np.sort(chosen))


def with_noise(labels: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """Return ``labels`` with exactly ``share`` of them, rounded to whole labels, moved to another class at random."""
    draw = torch.Generator().manual_seed(seed)
    moved = torch.randperm(len(labels), generator=draw)[: round(share * len(labels))]
    by = torch.randint(1, classes, (len(moved),), generator=draw)
    found = labels.clone()
    found[moved] = (labels[moved] + by) % classes
    return found
