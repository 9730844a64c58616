"""Folders of images for tests: pictures that no other seed has, and what is read of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tvlars.lab import ImageData, load_data
from tvlars.lab.data.pixels import image_suffixes


def write(file: Path, seed: int = 0, size: int = 8) -> np.ndarray:
    """A picture that no other seed has."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *os.fsencode(file.name), *os.fsencode(file.parent.name)])
    pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, **({"format": "PNG"} if file.suffix not in image_suffixes() else {}))
    return pixels


def write_classes(folder: Path, labels: tuple[str, ...] = ("cat", "dog"), count: int = 2, seed: int = 0) -> None:
    for label in labels:
        for i in range(count):
            write(folder / label / f"{i}.png", seed)


def read(folder: Path, **options: Any) -> ImageData:
    return load_data(f"imagefolder:{folder}", **options)


def counts(data: ImageData) -> tuple[list[int], list[int]]:
    train, test = (torch.bincount(x, minlength=data.classes).tolist() for x in (data.train_labels, data.test_labels))
    return train, test


def said(data: ImageData) -> str:
    return "\n".join(data.account)
