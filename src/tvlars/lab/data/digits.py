"""Handwritten digits that ship with scikit-learn, read without its import, which takes a second. Their order is that of
``train_test_split(range(1797), test_size=0.2, random_state=0, stratify=labels)``, in digits_split.txt."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from tvlars.lab.data.image_data import ImageData


def load_digits(data_dir: Path | None) -> ImageData:
    """Load 1,797 digits of 8x8 pixels; a fifth of each class is the test set. ``data_dir`` is ignored."""
    if (found := find_spec("sklearn")) is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    rows = np.loadtxt(Path(str(found.origin)).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    rows = rows[np.array(Path(__file__).with_name("digits_split.txt").read_text("ascii").split(), dtype=np.int64)]
    images = torch.from_numpy(np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8)).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(rows[:, -1].astype(np.int64))
    said, names = "scikit-learn, split 4:1 by class with seed 0", tuple(map(str, range(10)))
    splits = images[:1437], labels[:1437], images[1437:], labels[1437:]
    return ImageData("digits", said, *splits, classes=10, flip=False, class_names=names)
