"""Data of the studies, for ``--data benchmarks/studies/data.py:NAME``: parts of Fashion-MNIST, most of them at 14 x 14.

Images of 14 x 14 are means of 2 x 2 pixels, those of 7 x 7 of 4 x 4. 5,000 of the 60,000 training images are held out
for validation, the same ones for all functions; the training images are drawn from the other 55,000, each class alike.
All test images are there. Of labels with noise, exactly a fifth of the training labels have another class; validation
and test labels are untouched. Everything is drawn with fixed seeds, so that a data set is the same each time.
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


def fashion7_10000(data_dir: Path | None = None) -> ImageData:
    """Return 10,000 training images of 7 x 7, for the development of the plan alone."""
    return fashion(10_000, data_dir=data_dir, side=7)


def fashion7_10000_noisy(data_dir: Path | None = None) -> ImageData:
    """Return 10,000 training images of 7 x 7, a fifth of them with a wrong label, for the same."""
    return fashion(10_000, NOISE, data_dir=data_dir, side=7)


def fashion14_10000_color(data_dir: Path | None = None) -> ImageData:
    """Return 10,000 training images of 3 x 14 x 14, each in a colour of its own that says nothing of its class."""
    plain = fashion(10_000, data_dir=data_dir)
    assert plain.validation_images is not None
    draw = torch.Generator().manual_seed(SEED)
    parts = (plain.train_images, plain.validation_images, plain.test_images)
    train, validation, test = (colored(images, draw) for images in parts)
    return replace(
        plain,
        origin=f"{plain.origin}, in colours drawn at random",
        train_images=train,
        validation_images=validation,
        test_images=test,
    )


def fashion28_10000(data_dir: Path | None = None) -> ImageData:
    """Return 10,000 training images of 28 x 28, those of :func:`fashion14_10000`."""
    return fashion(10_000, data_dir=data_dir, side=28)


def fashion(count: int, noise: float = 0.0, *, data_dir: Path | None = None, side: int = 14) -> ImageData:
    """Return Fashion-MNIST with ``count`` training images, a share ``noise`` of them with a wrong label.

    Images are ``side`` x ``side`` pixels, a divisor of 28.

    Raises:
        UsageError: the files are missing or damaged, and cannot be downloaded.
    """
    whole = load_fashion_mnist(data_dir).hold_out(VALIDATION, SEED)
    assert whole.validation_images is not None
    chosen = stratified(whole.train_labels, count, SEED)
    labels = whole.train_labels[chosen]
    said = f"{count:,} of {len(whole.train_labels):,} training images"
    by = 28 // side
    said += f", means of {by} x {by} pixels" * (by > 1)
    changed = f"{noise:.0%} of the training labels are those of another class"
    return replace(
        whole,
        origin=f"{whole.origin}, {said}",
        train_images=averaged(whole.train_images[chosen], by),
        train_labels=with_noise(labels, noise, whole.classes, SEED) if noise else labels,
        validation_images=averaged(whole.validation_images, by),
        test_images=averaged(whole.test_images, by),
        account=(*whole.account, changed) if noise else whole.account,
    )


def averaged(images: Tensor, by: int) -> Tensor:
    """Return uint8 images (N, C, H, H) as means of ``by`` x ``by`` pixels, halves rounded up."""
    count, channels, side, _ = images.shape
    parts = images.to(torch.int16).reshape(count, channels, side // by, by, side // by, by)
    return ((parts.sum((3, 5)) + by * by // 2) // by**2).to(torch.uint8)


def colored(images: Tensor, draw: torch.Generator) -> Tensor:
    """Return grey uint8 images (N, 1, H, W) in colours (N, 3, H, W), each channel at 0.3 to 1 of the grey value."""
    shares = 0.3 + 0.7 * torch.rand(len(images), 3, 1, 1, generator=draw)
    return (images * shares).round().to(torch.uint8)


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
