"""Map-style Datasets of users as ``ImageData``: decoded once if they fit into memory, else read on demand."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tvlars._checks import shown
from tvlars.lab.console import aside, console, is_terminal
from tvlars.lab.data import decoded
from tvlars.lab.data.fingerprint import SPLITS
from tvlars.lab.data.image_data import ImageData
from tvlars.lab.data.own.samples import LABELS, first_key, fixed, image_of, label_of, pair_of
from tvlars.lab.data.streamed import Readers, Source, StreamedImages, default_processes
from tvlars.lab.errors import UsageError
from tvlars.lab.imported import refused

FORMS = "(train, test) or (train, validation, test), or a dictionary of these"
PROBED = 8
"""Samples of each split that are read first, to find the form of the data."""
SOON = 5.0
"""Seconds of reading from which several processes read."""
NO_SQUARES = "images must be squares of one size unless image_size is given"
COUNTED = 2000
"""Number of samples from which a progress bar is shown."""


def from_datasets(
    data: Any, *, name: str = "", image_size: int | None = None, flip: bool = True, processes: int | None = None
) -> ImageData:
    """Convert users' Datasets to ``ImageData``.

    Args:
        data: (train, test) or (train, validation, test), or a dictionary of them. Each has a length, and its samples
            are (image, label), or dictionaries with both, as in Hugging Face's data sets. Images are PIL images, or
            tensors or arrays of uint8; labels are integers.
        name: name of the data; "" (default): the name of the training set's class.
        image_size: pixels; the shorter side is scaled to this size, and the central square is cropped. None (default):
            images are not changed, and must be squares of one size.
        flip: True (default) if a mirrored image belongs to the same class.
        processes: number of processes that read. None (default): one per core if reading takes long.

    Raises:
        UsageError: samples, image sizes or labels are invalid, or a set is empty, has no length, or returns another
            image each time.
        Exception: errors of the user's Dataset.
    """
    sets = {split: _Set(split, one, image_size) for split, one in splits_of(data).items()}
    train = sets["train"]
    name = name or name_of(train.given)
    start = time.perf_counter()
    probed = {split: one.probe() for split, one in sets.items()}
    each = (time.perf_counter() - start) / (2 * sum(map(len, probed.values())))
    shapes = probed["train"]  # some images may be grey although the others have three channels
    channels = 3 if 3 in {shape[0] for shape in shapes} else shapes[0][0]
    shape = (channels, *shapes[0][1:])
    for one in sets.values():
        one.check_shape(shape)
    needed = {split: len(one) * math.prod(shape) for split, one in sets.items()}
    whole = not decoded.must_map(sum(needed.values()))
    count = sum(len(one) for split, one in sets.items() if whole or split != "train")
    if processes is None:
        processes = default_processes() if each * count > SOON or not whole else 0
    images: dict[str, Any] = {}
    for split, one in sets.items():
        readers = Readers(one, processes)
        if whole or (split != "train" and not decoded.must_map(needed[split])):
            images[split] = one.decode(readers)
        else:
            images[split] = StreamedImages(readers, shape, torch.arange(len(one)))
            one.read_labels(readers)
    account = [] if whole else [f"note     {needed['train'] / 2**30:,.1f} GiB of images are read on demand"]
    labels = {split: torch.tensor(one.labels, dtype=torch.int64, device="cpu") for split, one in sets.items()}
    names, said = class_names(train.given, max(int(one.max()) for one in labels.values()))
    classes = len(names) or int(labels["train"].max()) + 1
    for split, there in labels.items():
        if (wrong := (there >= classes).nonzero().flatten()).numel():
            at = int(wrong[0])
            raise UsageError(
                f"labels of {name} must be from 0 to {classes - 1}, like the labels of the training images, but "
                f"{sets[split].at(at)} has {int(there[at])}"
            )
    missing = (torch.bincount(labels["train"], minlength=classes) == 0).nonzero().flatten().tolist()
    if missing:
        some = ", ".join(names[i] if names else str(i) for i in missing[:5]) + ", ..." * (len(missing) > 5)
        account.append(f"note     no training images of {len(missing)} of {classes} classes ({some})")
    held: dict[str, Any] = dict(mapped=not whole, account=(*account, *said))
    if len(sets) > 2:
        held |= dict(validation_images=images["validation"], validation_labels=labels["validation"])
    parts = images["train"], labels["train"], images["test"], labels["test"]
    return ImageData(name, "read from Datasets", *parts, classes=classes, flip=flip, class_names=names, **held)


def splits_of(data: Any) -> dict[str, Any]:
    """Return the Datasets by split, in the order train, validation, test.

    Raises:
        UsageError: there are not two or three Datasets, or one is not a map-style Dataset.
    """
    sets = by_split(data, "data", "Datasets, or ImageData")
    for split, one in sets.items():
        word = f"the {SPLITS[split]} set"
        if isinstance(one, torch.utils.data.DataLoader):
            raise UsageError(f"{word} of data must be a Dataset, got a DataLoader: give DataLoaders as loaders=")
        if not (hasattr(one, "__getitem__") and hasattr(one, "__len__")) or isinstance(one, str | bytes | Mapping):
            raise UsageError(
                f"{word} of data must be a Dataset with __len__ and __getitem__, got {shown(one)}; data without a "
                "length are given as loaders="
            )
        if len(one) == 0:
            raise UsageError(f"{word} of data must have at least one sample, got an empty {type(one).__name__}")
    return sets


def by_split(given: Any, what: str, kind: str) -> dict[str, Any]:
    """Return a pair, a triple or a dictionary by split, in the order train, validation, test.

    Args:
        given: value given by the user.
        what: name of the argument for errors, such as "data".
        kind: kind of object for each split, such as "DataLoaders".

    Raises:
        UsageError: ``given`` is none of these.
    """
    if isinstance(given, Mapping):
        if not {"train", "test"} <= set(given) <= set(SPLITS):
            keys = ", ".join(map(str, given)) or "of an empty one"
            raise UsageError(f"{what} must be {FORMS} under train, validation and test, got the keys {keys}")
        return {split: given[split] for split in SPLITS if split in given}
    if isinstance(given, tuple | list) and len(given) in (2, 3):
        return dict(zip(("train", "test") if len(given) == 2 else SPLITS, given, strict=True))
    got = f"{len(given)} of them" if isinstance(given, tuple | list) else shown(given)
    raise UsageError(f"{what} must be {FORMS}: {kind}; got {got}")


class _Set(Source):
    """Dataset of a user."""

    def __init__(self, split: str, given: Any, image_size: int | None) -> None:
        self.split, self.given, self.image_size = split, given, image_size
        self.channels: int | None = None
        self.shape: tuple[int, ...] = ()
        self.labels: list[int] = []

    def __len__(self) -> int:
        return len(self.given)

    def at(self, index: int) -> str:
        """Return the name of a sample for messages."""
        return f"{SPLITS[self.split]} image {index}"

    def sample(self, index: int) -> tuple[Any, int]:
        """Return an image (PIL, or tensor (C, H, W)) and its label."""
        at = self.at(index)
        with refused(f"{at} cannot be read"):
            found = self.given[index]
        image, label = pair_of(found, at)
        return image_of(image, at), label_of(label, at)

    def original(self, index: int) -> Any:
        image, label = self.sample(index)
        self._check_label(index, label)
        if self.channels != 3:
            return image
        return image.convert("RGB") if not isinstance(image, Tensor) else image.expand(3, -1, -1)

    def fixed(self, index: int) -> Tensor:
        image, label = self.sample(index)
        self._check_label(index, label)
        return self.in_shape(fixed(image, self.image_size, self.channels), index)

    def in_shape(self, pixels: Tensor, index: int) -> Tensor:
        """Return ``pixels``; raise ``UsageError`` if their shape differs from the first image."""
        if tuple(pixels.shape) != self.shape:
            raise self._other_shape(index, tuple(pixels.shape))
        return pixels

    def probe(self) -> list[tuple[int, ...]]:
        """Return the shapes of some images; each is read twice, to check that it stays the same."""
        shapes = []
        for index in _spread(len(self)):
            (image, label), (again, same) = self.sample(index), self.sample(index)
            pixels = fixed(image, self.image_size)
            if label != same or not torch.equal(pixels, fixed(again, self.image_size)):
                raise UsageError(
                    f"{self.at(index)} of data must be the same each time it is read, but is not: leave random "
                    "transforms out of the Dataset, since images are augmented here, or give DataLoaders as loaders="
                )
            shapes.append(tuple(pixels.shape))
        return shapes

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Set the shape of all images, which is the shape of the first training image."""
        if shape[1] != shape[2]:
            raise UsageError(f"{NO_SQUARES}: {self.at(0)} is {shape[2]} x {shape[1]} pixels")
        self.channels, self.shape = shape[0], shape

    def _other_shape(self, index: int, shape: tuple[int, ...]) -> UsageError:
        if shape[0] != self.shape[0]:
            return UsageError(
                f"images must have the same number of channels, but the first training images have {self.shape[0]}, "
                f"and {self.at(index)} has {shape[0]}"
            )
        size, wanted = (f"{width} x {height}" for _, height, width in (shape, self.shape))
        return UsageError(
            f"{NO_SQUARES}: the first training image is {wanted} pixels, and {self.at(index)} is {size} pixels"
        )

    def _check_label(self, index: int, label: int) -> None:
        if self.labels and self.labels[index] != label:
            raise UsageError(
                f"{self.at(index)} must have the same label each time, but it was {self.labels[index]}, and is {label}"
            )

    # -- whole sets ---------------------------------------------------------------------------------------------------

    def decode(self, readers: Readers) -> Tensor:
        """Read all images and labels."""
        images = torch.empty((len(self), *self.shape), dtype=torch.uint8, device="cpu")
        labels: list[int] = []
        for pixels, some in self._all(readers, _labelled, f"decoding {SPLITS[self.split]} images"):
            images[len(labels) : len(labels) + len(some)] = torch.from_numpy(pixels)
            labels += some
        self.labels = labels
        readers.close()
        return images

    def read_labels(self, readers: Readers) -> None:
        """Read all labels: from targets or a column if the Dataset has them, else from all samples."""
        if (labels := labels_beside(self.given)) is not None and len(labels) == len(self):
            probed = {index: self.sample(index)[1] for index in _spread(len(self))}
            if all(labels[index] == label for index, label in probed.items()):
                self.labels = labels
                return
        aside(
            f"all {SPLITS[self.split]} images are read once for their labels, since {type(self.given).__name__} has no "
            "targets beside its samples"
        )
        said = f"reading labels of {SPLITS[self.split]} images"
        self.labels = [label for some in self._all(readers, _labels_of, said) for label in some]

    def _all(self, readers: Readers, work: Any, said: str) -> Iterator[Any]:
        from rich.progress import Progress

        chunks = readers.each(work, range(len(self)))
        quiet = not is_terminal(sys.stderr) or len(self) < COUNTED
        with Progress(console=console(True), transient=True, disable=quiet) as bar:
            task = bar.add_task(said, total=len(self))
            for found in chunks:
                bar.advance(task, len(found[-1]) if isinstance(found, tuple) else len(found))
                yield found


def _labelled(one: _Set, index: list[int]) -> tuple[Any, list[int]]:
    pairs = [one.sample(i) for i in index]
    images = [
        one.in_shape(fixed(image, one.image_size, one.channels), i) for i, (image, _) in zip(index, pairs, strict=True)
    ]
    return torch.stack(images).numpy(), [label for _, label in pairs]


def _labels_of(one: _Set, index: list[int]) -> list[int]:
    return [one.sample(i)[1] for i in index]


# -- data beside the samples -------------------------------------------------------------------------------------------


def _spread(count: int) -> list[int]:
    """Return a few indices below ``count``, including the first and the last."""
    return sorted({int(i) for i in torch.linspace(0, count - 1, PROBED, dtype=torch.float64, device="cpu")})


def labels_beside(given: Any) -> list[int] | None:
    """Return the labels of a Dataset if they can be read without its images; else None."""
    if isinstance(given, torch.utils.data.Subset):
        inner = labels_beside(given.dataset)
        return None if inner is None else [inner[i] for i in given.indices]
    columns = getattr(given, "features", None)  # of Hugging Face
    values = None
    if isinstance(columns, Mapping):
        key = first_key(columns, LABELS)
        values = None if key is None else given[key]
    else:
        values = getattr(given, "targets", getattr(given, "labels", None))
    try:
        return None if values is None else [label_of(value, "") for value in values]
    except (UsageError, TypeError):
        return None


def class_names(given: Any, highest: int) -> tuple[tuple[str, ...], list[str]]:
    """Return the class names of a Dataset, and remarks; the names are () if a label up to ``highest`` has none."""
    while isinstance(given, torch.utils.data.Subset):
        given = given.dataset
    columns = getattr(given, "features", None)
    if isinstance(columns, Mapping):
        names = getattr(columns.get(first_key(columns, LABELS)), "names", None)
    else:
        names = getattr(given, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return (), []
    if highest >= len(names):
        return (), [f"note     class names are left out: there are {len(names)}, and labels go up to {highest}"]
    return tuple(names), []


def name_of(given: Any) -> str:
    while isinstance(given, torch.utils.data.Subset):
        given = given.dataset
    info = getattr(given, "info", None)
    return str(getattr(info, "dataset_name", None) or type(given).__name__)
