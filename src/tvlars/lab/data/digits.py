"""Handwritten digits that ship with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tvlars.lab.data.image_data import ImageData


def load_digits(data_dir: Path | None) -> ImageData:
    """Load 1,797 digits of 8x8 pixels; a fifth of each class is the test set. ``data_dir`` is ignored."""
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    raw = sklearn_digits()
    images = torch.from_numpy(np.rint(raw.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(raw.target.astype(np.int64))
    parts = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=raw.target)
    train, test = map(torch.from_numpy, parts)
    said, names = "scikit-learn, split 4:1 by class with seed 0", tuple(map(str, range(10)))
    splits = images[train], labels[train], images[test], labels[test]
    return ImageData("digits", said, *splits, classes=10, flip=False, class_names=names)
