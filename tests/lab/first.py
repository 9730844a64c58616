"""Smaller data sets for tests: the first images of a larger one."""

from __future__ import annotations

from dataclasses import replace

from tvlars.lab import ImageData


def first(data: ImageData, train: int, test: int | None = None) -> ImageData:
    """Return the first ``train`` training images and the first ``test`` test images, all of those if it is None."""
    return replace(
        data,
        train_images=data.train_images[:train],
        train_labels=data.train_labels[:train],
        test_images=data.test_images[:test],
        test_labels=data.test_labels[:test],
    )
