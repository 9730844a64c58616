"""Data of users' tasks: samples of any structure of tensors, stacked in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import default_collate

from tvlars.lab.data.fingerprint import Fingerprint, SplitFingerprint
from tvlars.lab.data.image_data import ImageData
from tvlars.lab.data.own.datasets import by_split
from tvlars.lab.data.own.named import imported_data
from tvlars.lab.errors import UsageError
from tvlars.lab.imported import GIVEN, is_import_path, refused


class Rows:
    """Samples of a split: ``values`` is a structure of tensors (N, ...), indexed along their first dimension."""

    def __init__(self, values: Any) -> None:
        self.values = values
        leaves = tree_leaves(values)
        self.first = leaves[0]
        self.shape, self.ndim = self.first.shape, self.first.ndim
        self.dtype, self.device = self.first.dtype, self.first.device
        self.nbytes = sum(leaf.nbytes for leaf in leaves)

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, which: Any) -> Rows:
        return Rows(tree_map(lambda leaf: leaf[which], self.values))

    def to(self, device: Any, non_blocking: bool = False) -> Rows:
        """Return the samples on ``device``."""
        return Rows(tree_map(lambda leaf: leaf.to(device, non_blocking=non_blocking), self.values))

    def pin_memory(self) -> Rows:
        """Return the samples in pinned memory."""
        return Rows(tree_map(lambda leaf: leaf.pin_memory(), self.values))

    def digest(self) -> str:
        """Return a digest of shapes, types and contents."""
        found = hashlib.sha256()
        for leaf in tree_leaves(self.values):
            found.update(f"{tuple(leaf.shape)} {leaf.dtype}".encode())
            found.update(leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return found.hexdigest()[:32]


@dataclass(frozen=True)
class RowsData(ImageData):
    """Data of a user's task. Images are :class:`Rows`; labels are not used, and are 0."""

    def __post_init__(self) -> None:
        """Check nothing, since :func:`rows_from` has checked the data."""

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        def one(split: str) -> SplitFingerprint:
            rows: Any
            rows, labels = self.part(split)
            return SplitFingerprint((len(labels),), "", "", rows.digest())

        return Fingerprint((), one("train"), one("test"), "", one("validation") if self.validated else None)

    @property
    def image_size(self) -> int:
        """Size of the last dimension of the first tensor."""
        return int(self.train_images.shape[-1]) if self.train_images.ndim > 1 else 1

    @property
    def channels(self) -> int:
        """Size of the first dimension of a sample of the first tensor."""
        return int(self.train_images.shape[1]) if self.train_images.ndim > 1 else 1

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Return 0 and 1: samples are used as they are."""
        return torch.zeros(self.channels, device="cpu"), torch.ones(self.channels, device="cpu")

    def __str__(self) -> str:
        held = f", {len(self.validation_labels):,} validation" if self.validation_labels is not None else ""
        shapes = ", ".join("x".join(map(str, leaf.shape[1:])) or "1" for leaf in tree_leaves(self.train_images.values))
        counts = f"{len(self.train_labels):,} training{held} and {len(self.test_labels):,} test samples"
        return f"{self.name}: {counts} of {shapes} ({self.origin})"


def rows_from(data: Any, name: str) -> RowsData:
    """Return data of a user's task.

    Args:
        data: (train, test), (train, validation, test) or a dictionary of them. Each is a map-style Dataset, or a tuple
            or dictionary of tensors or arrays with one row per sample.
        name: name of the data.

    Raises:
        UsageError: a split is none of these, or its samples differ in shape.
        Exception: errors of the user's Dataset.
    """
    named = by_split(data, "data", "Datasets, or tuples or dictionaries of tensors")
    splits: dict[str, Any] = {split: Rows(_stacked(one, split)) for split, one in named.items()}
    labels = {split: torch.zeros(len(rows), dtype=torch.int64, device="cpu") for split, rows in splits.items()}
    train, test = ((splits[split], labels[split]) for split in ("train", "test"))
    made = RowsData(name, "as they are", *train, *test, classes=1, flip=False)
    if "validation" in splits:
        made = replace(made, validation_images=splits["validation"], validation_labels=labels["validation"])
    return made


def _stacked(one: Any, split: str) -> Any:
    """Return the samples of a split as a structure of tensors (N, ...)."""
    if isinstance(one, tuple | list | Mapping):
        values = tree_map(_as_tensor, one)
        counts = {len(leaf) if leaf.ndim else -1 for leaf in tree_leaves(values)}
        if len(counts) != 1 or counts & {0, -1}:
            raise UsageError(
                f"data must have tensors with the same number of rows, at least one, got {_shapes(values)} for {split}"
            )
        return values
    if isinstance(one, Tensor) or not (hasattr(one, "__getitem__") and hasattr(one, "__len__")) or not len(one):
        raise UsageError(
            f"data must have a Dataset with samples, or a tuple or dictionary of tensors, for {split}, got {_kind(one)}"
        )
    samples = [one[i] for i in range(len(one))]
    with refused(f"data must have {split} samples of one shape, tensors or numbers"):
        return tree_map(_as_tensor, default_collate(samples))


def _as_tensor(value: Any) -> Tensor:
    """Return a tensor; numbers in double precision, such as Python's and NumPy's, get the default precision."""
    made = torch.as_tensor(value, device="cpu")
    return made.to(torch.get_default_dtype()) if made.dtype == torch.float64 else made


def _kind(value: Any) -> str:
    many = f" of {len(value)}" if isinstance(value, tuple | list | Mapping) else ""
    return f"a {type(value).__name__}{many}"


def _shapes(values: Any) -> str:
    return ", ".join(str(tuple(leaf.shape)) for leaf in tree_leaves(values))


def load_rows(path: str, data_dir: Path | None) -> RowsData:
    """Return data of a user's task from the import path of data, or of a function that returns data.

    Raises:
        UsageError: ``path`` is not an import path, there is nothing at the path, or no data.
        Exception: errors of the user's code.
    """
    if path.startswith(GIVEN):
        raise UsageError("data must be given again, as in train(config, data=...), since they were given in Python")
    if not is_import_path(path):
        raise UsageError(
            f"data must be an import path for a task of your own, as ./file.py:load, or given in Python, got {path!r}"
        )
    return rows_from(imported_data(path, data_dir, None)[0], path)
