"""Images in folders: a folder a class, with or without a split, or Tiny ImageNet's own layout.

PATH/train/CLASS/*.png, PATH/val/CLASS/*.png    split by its folders (or test for val)
PATH/CLASS/*.png                                split 4:1 by class
PATH/*.png                                      no labels: one class, split 4:1
PATH/train/CLASS/images/*.JPEG, PATH/val/images/*.JPEG, PATH/val/val_annotations.txt    Tiny ImageNet
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tvlars.lab.data.decoded import finish_mapped, mapped_file, must_map, new_mapped, open_mapped
from tvlars.lab.data.fingerprint import digest_files
from tvlars.lab.data.image_data import ImageData
from tvlars.lab.errors import UsageError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
ANNOTATIONS = "val_annotations.txt"

UNLABELLED = "unlabelled"
"""The class of images that lie in no folder of a class."""
Labelled = list[tuple[Path, str]]


def load_image_folder(folder: Path, image_size: int | None = None) -> ImageData:
    """Read all images below ``folder`` as RGB.

    Args:
        folder: laid out as the module's docstring says.
        image_size: pixels; the shorter side is scaled to it and the middle square taken. None (default) leaves
            images as they are, and wants all of them squares of one size.

    Raises:
        UsageError: the folder is missing, empty or laid out otherwise, a file is damaged, or sizes differ.
    """
    if not folder.is_dir():
        raise UsageError(f"imagefolder must be an existing folder, got {str(folder)!r}")
    train, test, origin = _find(folder)
    names = sorted({label for _, label in train})
    number = {name: i for i, name in enumerate(names)}
    for file, label in test:
        if label not in number:
            raise UsageError(f"{file} is of class {label!r}, which has no training images in {folder}")
    images, mapped = _decode(folder.resolve().name, [file for file, _ in [*train, *test]], image_size)
    labels = torch.tensor([number[label] for _, label in [*train, *test]])
    return ImageData(
        f"imagefolder:{folder}",
        origin,
        images[: len(train)],
        labels[: len(train)],
        images[len(train) :],
        labels[len(train) :],
        classes=len(names),
        flip=True,
        class_names=tuple(names),
        mapped=mapped,
        files=(_digest(folder, train), _digest(folder, test)),
        decoder=f"Pillow {metadata.version('pillow')}",
    )


def _digest(folder: Path, files: Labelled) -> str:
    return digest_files([(os.fsencode(file.relative_to(folder)), file.stat().st_size) for file, _ in files])


def _find(folder: Path) -> tuple[Labelled, Labelled, str]:
    """Training files and test files with their labels, and how they were told apart."""
    train_folder = folder / "train"
    test_folder = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), None)
    if train_folder.is_dir() and test_folder is not None:
        train = _by_class(train_folder)
        annotations = test_folder / ANNOTATIONS
        if annotations.is_file():
            return train, _annotated(annotations), f"train and val with {ANNOTATIONS}"
        test = _by_class(test_folder)
        if not test:
            raise UsageError(f"{test_folder} must have a folder of images for each class, or {ANNOTATIONS}")
        return train, test, f"train and {test_folder.name}"
    if train_folder.is_dir() or test_folder is not None:
        missing = "val (or test)" if train_folder.is_dir() else "train"
        raise UsageError(f"{folder} must have the folders train and val (or test), or a folder a class; no {missing}")
    everything = _by_class(folder) or _unlabelled(folder)
    if not everything:
        raise UsageError(f"{folder} must have a folder of images for each class, got none")
    return *_split(folder, everything), "split 4:1 by class with seed 0"


def _split(folder: Path, everything: Labelled) -> tuple[Labelled, Labelled]:
    """A fifth of each class, at least one image, for test."""
    rng = np.random.default_rng(0)
    train: Labelled = []
    test: Labelled = []
    for name in dict.fromkeys(label for _, label in everything):
        images = [image for image in everything if image[1] == name]
        if len(images) < 2:
            raise UsageError(f"{folder / name} must hold at least two images to be split, got one")
        chosen = set(rng.permutation(len(images))[: max(len(images) // 5, 1)].tolist())
        for i, image in enumerate(images):
            (test if i in chosen else train).append(image)
    return train, test


def _by_class(folder: Path) -> Labelled:
    return [
        (file, below.name)
        for below in sorted(folder.iterdir())
        if below.is_dir() and not _hidden(below)
        for file in sorted(below.rglob("*"))
        if file.suffix.lower() in SUFFIXES and not _hidden(file)
    ]


def _unlabelled(folder: Path) -> Labelled:
    """Images that lie in the folder itself, as one class: enough for self-supervised learning."""
    return [(file, UNLABELLED) for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES]


def _hidden(path: Path) -> bool:
    """Whether it is what notebooks and archives leave behind, and no part of the data set."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def _annotated(annotations: Path) -> Labelled:
    """Tiny ImageNet's val: file name and class in the first two columns, images beside in a folder ``images``."""
    found = []
    for number, line in enumerate(annotations.read_text("utf-8", "surrogateescape").splitlines(), 1):
        columns = line.split("\t")
        if len(columns) < 2:
            raise UsageError(f"{annotations} must have a file name and a class in each line, line {number} has not")
        found.append((annotations.parent / "images" / columns[0], columns[1]))
    if not found:
        raise UsageError(f"{annotations} must name at least one image, got none")
    return found


def _decode(name: str, files: Sequence[Path], image_size: int | None) -> tuple[Tensor, bool]:
    """All files as one uint8 tensor (N, 3, H, W), and whether it lies in a mapped file, since it is large."""
    first = _decode_one(files[0], image_size)
    shape = (len(files), *first.shape)
    if not must_map(len(files) * first.nbytes):
        images = torch.empty(shape, dtype=torch.uint8)
        _decode_into(images, files, first, image_size)
        _check_square(first)
        return images, False
    _check_square(first)
    file = mapped_file(name, files, shape, image_size)
    if not file.is_file():
        _decode_into(new_mapped(file, shape), files, first, image_size)
        finish_mapped(file)
    return open_mapped(file, shape), True


def _decode_into(images: Tensor, files: Sequence[Path], first: Tensor, image_size: int | None) -> None:
    """Decode on all cores."""
    from rich.console import Console
    from rich.progress import track

    def put(i: int) -> None:
        image = _decode_one(files[i], image_size)
        if image.shape != first.shape:
            raise UsageError(
                f"images must be of one size, or image_size be given: {files[0]} is {_size(first)}, "
                f"{files[i]} is {_size(image)}"
            )
        images[i] = image

    with ThreadPoolExecutor() as pool:
        done = pool.map(put, range(len(files)))
        console = Console(stderr=True)
        quiet = not sys.stderr.isatty() or len(files) < 2000
        for _ in track(done, "decoding images", len(files), console=console, transient=True, disable=quiet):
            pass


def _check_square(first: Tensor) -> None:
    if first.shape[1] != first.shape[2]:
        raise UsageError(f"images must be squares, or image_size be given: they are {_size(first)}")


def _size(image: Tensor) -> str:
    return f"{image.shape[2]} x {image.shape[1]} pixels"


def _decode_one(file: Path, image_size: int | None) -> Tensor:
    from PIL import Image

    try:
        with Image.open(file) as opened:
            if opened.mode[0] in "IF":  # PIL would clip it to 8 bits
                raise ValueError(f"it has more than 8 bits a channel (mode {opened.mode})")
            if image_size is not None:  # a JPEG is decoded at a half, a quarter or an eighth where that is enough
                opened.draft("RGB", (2 * image_size, 2 * image_size))
            image = opened.convert("RGB")
    except FileNotFoundError as error:
        raise UsageError(f"{file} is missing") from error
    except Exception as error:  # PIL's decoders have many types for a damaged file
        raise UsageError(f"{file} must be an image, but it cannot be read: {error}") from error
    if image_size is not None:
        width, height = image.size
        scale = image_size / min(width, height)
        scaled = (max(round(width * scale), image_size), max(round(height * scale), image_size))
        left, top = (scaled[0] - image_size) // 2, (scaled[1] - image_size) // 2
        image = image.resize(scaled, Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + image_size, top + image_size))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
