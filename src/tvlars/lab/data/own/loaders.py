"""DataLoaders of users: their batches are used unchanged, as micro-batches of a step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from tvlars._checks import shown
from tvlars.lab.data.fingerprint import SPLITS, Fingerprint, SplitFingerprint
from tvlars.lab.data.image_data import ImageData
from tvlars.lab.data.own.datasets import by_split, class_names, labels_beside, name_of
from tvlars.lab.errors import UsageError


@dataclass(frozen=True)
class LoaderData(ImageData):
    """Data from DataLoaders, with the part of ``ImageData`` that a run needs; :func:`from_loaders` makes it.

    Images are empty tensors (0, C, H, W), since batches come from ``loaders``.
    """

    loaders: Mapping[str, Any] | None = None
    """DataLoaders by split."""
    loader_batch: int = 0
    """Samples of each training batch."""

    def __post_init__(self) -> None:
        pass  # from_loaders has checked the loaders

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of classes and test labels only, since training batches are not known in advance."""
        splits = {}
        for split, labels in (("validation", self.validation_labels), ("test", self.test_labels)):
            if labels is not None:
                here = labels.cpu()
                digest = hashlib.sha256(here.numpy().data).hexdigest()[:32]
                counts = tuple(torch.bincount(here, minlength=self.classes).tolist())
                splits[split] = SplitFingerprint(counts, "", digest, "")
        train = SplitFingerprint((len(self.train_labels), *[0] * (self.classes - 1)), "", "", "")
        return Fingerprint(tuple(self.class_names), train, splits["test"], "", splits.get("validation"))

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Return 0 and 1 for each channel: the user's loaders normalize."""
        return torch.zeros(self.channels, device="cpu"), torch.ones(self.channels, device="cpu")

    def hold_out(self, amount: float | None, seed: int = 0) -> ImageData:
        if amount is not None:
            raise UsageError(f"validation must not be given with loaders: give a loader for it, got {amount:g}")
        return self

    def to(self, device: torch.device) -> ImageData:
        return self.with_labels_on(device)

    def with_labels_on(self, device: torch.device) -> ImageData:
        held = None if self.validation_labels is None else self.validation_labels.to(device)
        return replace(self, test_labels=self.test_labels.to(device), validation_labels=held)

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the checked batches of a split on the host: float inputs (n, C, H, W) and int64 labels (n,)."""
        assert self.loaders is not None
        for batch in self.loaders[split]:
            inputs, labels = pair_of(batch, split)
            check_shape(inputs, tuple(self.train_images.shape[1:]), split)
            check_labels(labels, self.classes, split)
            yield inputs, labels

    def __str__(self) -> str:
        size = " x ".join(map(str, self.train_images.shape[1:]))
        counts = [f"{len(self.train_labels):,} training"]
        counts += [f"{len(self.validation_labels):,} validation"] if self.validation_labels is not None else []
        counts[-1] += f" and {len(self.test_labels):,} test samples"
        return f"{self.name}: {', '.join(counts)} of {size}, {self.classes} classes ({self.origin})"


def from_loaders(loaders: Any) -> LoaderData:
    """Convert users' DataLoaders to the data of a run.

    Validation and test loaders are read once for their labels.

    Args:
        loaders: (train, test), (train, validation, test), or a dictionary of them. Batches are (inputs, labels):
            normalized floats (n, C, H, W) and integers (n,). The training loader must have a length.

    Raises:
        UsageError: batches have another form or size, the training loader has no length, or a test loader shuffles.
        Exception: errors of the user's loaders.
    """
    there = _splits(loaders)
    train = there["train"]
    try:
        count = len(train)
    except TypeError:
        raise UsageError(
            "the training loader must have a length, since the plan needs the number of steps: give it, or its "
            "Dataset, __len__"
        ) from None
    first = next(iter(train), None)
    if first is None or not count:
        raise UsageError("the training loader must have at least one batch, got none")
    inputs, labels = pair_of(first, "train")
    size = len(inputs)
    given = getattr(train, "dataset", None)
    usable = count
    if getattr(train, "batch_size", None) is not None and not getattr(train, "drop_last", False):
        drawn: Any = getattr(train, "sampler", None)  # may draw fewer samples than the Dataset has, or more
        drawn = drawn if hasattr(drawn, "__len__") else given  # an IterableDataset
        usable = len(drawn) // size if hasattr(drawn, "__len__") else count
    shape = tuple(inputs.shape[1:])
    held = {split: _labels_of(there[split], split, shape) for split in there if split != "train"}
    beside = labels_beside(given) or []
    highest = max([int(one.max()) for one in (*held.values(), labels)] + beside)
    names, _ = class_names(given, highest)
    empty = torch.empty((0, *shape), device="cpu")
    left = count - usable
    account = ["note     batches of loaders are used unchanged: augmentation and normalization are the user's"]
    account += ["note     the last batch of each epoch is left out, since it is smaller"] * (left > 0)
    more: dict[str, Any] = dict(classes=len(names) or highest + 1, flip=False, class_names=names)
    more |= dict(account=tuple(account), loaders=there, loader_batch=size)
    if "validation" in held:
        more |= dict(validation_images=empty, validation_labels=held["validation"])
    labels = torch.zeros(usable * size, dtype=torch.int64, device="cpu")
    return LoaderData(name_of(given), "from DataLoaders", empty, labels, empty, held["test"], **more)


def pair_of(batch: Any, split: str) -> tuple[Tensor, Tensor]:
    """Return inputs and labels of a batch.

    Raises:
        UsageError: the batch is not a pair of tensors of the same length, or a type is invalid.
    """
    word = f"batches of the {SPLITS[split]} loader"
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(x, Tensor) for x in batch)):
        what = f"{len(batch)} values" if isinstance(batch, tuple | list) else shown(batch)
        raise UsageError(f"{word} must be pairs of tensors, inputs and labels, got {what}")
    inputs, labels = batch
    if not inputs.is_floating_point() or inputs.ndim != 4:
        raise UsageError(
            f"{word} must have normalized inputs, floats (n, C, H, W), got {inputs.dtype} of shape "
            f"{tuple(inputs.shape)}"
        )
    if labels.is_floating_point() or labels.ndim != 1 or len(labels) != len(inputs) or not len(labels):
        raise UsageError(
            f"{word} must have integer labels (n,), one for each of {len(inputs)} inputs, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    return inputs.to(torch.get_default_dtype()), labels.long()


def check_shape(inputs: Tensor, shape: tuple[int, ...], split: str) -> None:
    """Raise ``UsageError`` unless inputs have the ``shape`` of the first training batch's inputs."""
    if (here := tuple(inputs.shape[1:])) != shape:
        raise UsageError(
            f"inputs of the {SPLITS[split]} loader must have the shape {shape} of the first training batch, got {here}"
        )


def check_labels(labels: Tensor, classes: int, split: str) -> None:
    """Raise ``UsageError`` unless labels are from 0 to ``classes`` - 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UsageError(
            f"labels of the {SPLITS[split]} loader must be from 0 to {classes - 1}, got {low if low < 0 else high}: a "
            "Dataset with an attribute classes, the list of their names, says how many there are"
        )


def _splits(loaders: Any) -> dict[str, Any]:
    there = by_split(loaders, "loaders", "DataLoaders")
    for split, one in there.items():
        if not hasattr(one, "__iter__"):
            raise UsageError(f"the {SPLITS[split]} loader must be a DataLoader, or give batches, got {shown(one)}")
        if split != "train" and isinstance(getattr(one, "sampler", None), RandomSampler):
            raise UsageError(f"the {SPLITS[split]} loader must not shuffle, since runs are compared image by image")
    return there


def _labels_of(loader: Any, split: str, shape: tuple[int, ...]) -> Tensor:
    found = []
    for batch in loader:
        inputs, some = pair_of(batch, split)
        check_shape(inputs, shape, split)
        found.append(some)
    if not found:
        raise UsageError(f"the {SPLITS[split]} loader must have at least one batch, got none")
    labels = torch.cat(found).cpu()
    check_labels(labels, 2**31, split)
    return labels
