"""Fingerprint of a data set: class names, images per class, and digests of file names and sizes, labels and pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

DIGESTED = 2**28
"""Bytes of the pixels of each split that are digested; of more, so many images that are evenly spaced."""


@dataclass(frozen=True)
class SplitFingerprint:
    """That of the training images, or of the test images."""

    counts: tuple[int, ...]
    """Images of each class."""
    files: str
    """Digest of the files' names and sizes; "" where data were not read from image files."""
    labels: str
    """Digest of the labels, in order."""
    pixels: str
    """Digest of shape and pixels."""


@dataclass(frozen=True)
class Fingerprint:
    """That of a whole data set; equal where runs on the data are the same.

    ``decoder`` is what made pixels of files: another version of it may round in other ways, so that digests of pixels
    are compared under one version alone.
    """

    class_names: tuple[str, ...]
    train: SplitFingerprint
    test: SplitFingerprint
    decoder: str = ""

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON has it; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Any) -> Fingerprint | None:
        """The fingerprint that ``stored`` holds; None where it holds none."""
        try:
            train, test = (_split_from(stored[name]) for name in ("train", "test"))
            names, decoder = stored["class_names"], stored["decoder"]
            if not isinstance(names, list | tuple) or not all(isinstance(text, str) for text in [*names, decoder]):
                return None
            if len(train.counts) != len(test.counts) or len(names) not in (0, len(train.counts)):
                return None
            return cls(tuple(names), train, test, decoder)
        except (TypeError, KeyError, ValueError):
            return None

    def difference(self, here: Fingerprint, splits: Sequence[str] = ("train", "test")) -> str:
        """How the data ``here`` differ from these, in words; "" where they do not.

        Args:
            here: the other fingerprint.
            splits: those that are compared.
        """
        if said := difference_of_names(self.class_names, here.class_names):
            return said
        classes, now = len(self.train.counts), len(here.train.counts)
        if classes != now:
            return f"there were {classes} classes, and are {now} now"
        return ", ".join(
            said
            for split in splits
            if (said := self._of_split("training" if split == "train" else "test", split, here))
        )

    def _of_split(self, word: str, split: str, here: Fingerprint) -> str:
        there, now = getattr(self, split), getattr(here, split)
        if there.counts != now.counts:
            names = self.class_names or tuple(map(str, range(len(there.counts))))
            pairs = [(name, a, b) for name, a, b in zip(names, there.counts, now.counts, strict=False) if a != b]
            more = f", and {len(pairs) - 1} more classes have other counts" if len(pairs) > 1 else ""
            return f"class {pairs[0][0]!a} had {pairs[0][1]:,} {word} images, and has {pairs[0][2]:,} now{more}"
        if there.files != now.files:
            return f"{word} files have other names or sizes"
        if there.labels != now.labels:
            return f"{word} images have other labels, or another order"
        if self.decoder == here.decoder and there.pixels != now.pixels:
            return f"{word} images have other pixels"
        return ""

    def uncompared(self, here: Fingerprint) -> str:
        """Return in words the parts that :meth:`difference` could not compare; "" if it compared all."""
        if self.decoder == here.decoder:
            return ""
        return (
            f"pixels could not be compared: {self.decoder or 'another source'} decoded them there, {here.decoder} here"
        )


def difference_of_names(there: Sequence[str], here: Sequence[str]) -> str:
    """How the class names ``here`` differ, in words; "" where they do not."""
    there, here = list(map(str, there)), list(map(str, here))
    if there == here:
        return ""
    gone, new = [n for n in there if n not in set(here)], [n for n in here if n not in set(there)]
    if not gone and not new:
        return "classes are in another order"
    parts = []
    for names, said in ((gone, "gone"), (new, "new")):
        if names:
            shown = ", ".join(f"{name!a:.60}" for name in names[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(
                f"{'class' if len(names) == 1 else 'classes'} {shown}{more} {'is' if len(names) == 1 else 'are'} {said}"
            )
    return ", ".join(parts)


def fingerprint_split(images: Tensor, labels: Tensor, classes: int, files: str) -> SplitFingerprint:
    """The fingerprint of one split; ``files`` is the digest of its files, see :func:`digest_files`."""
    labels = labels.detach().cpu().long()
    counts = torch.bincount(labels, minlength=classes).tolist()
    every = max(-(-images.nbytes // DIGESTED), 1)
    pixels = hashlib.sha256(f"{tuple(images.shape)} {images.dtype}".encode())
    for some in torch.split(images.detach()[::every], 4096):
        pixels.update(some.cpu().flatten().numpy().data)
    of_labels = hashlib.sha256(labels.contiguous().numpy().data).hexdigest()
    return SplitFingerprint(tuple(counts), files, of_labels[:32], pixels.hexdigest()[:32])


def digest_files(names_and_sizes: Sequence[tuple[bytes, int]]) -> str:
    """The digest of files by name (relative to their data set) and size, in order."""
    digest = hashlib.sha256()
    for name, size in names_and_sizes:
        digest.update(b"%d %d " % (len(name), size) + name)
    return digest.hexdigest()[:32]


def _split_from(stored: Any) -> SplitFingerprint:
    values = {f.name: stored[f.name] for f in fields(SplitFingerprint)}
    counts = values.pop("counts")
    if not all(type(count) is int for count in counts) or not all(type(text) is str for text in values.values()):
        raise ValueError("values of another kind")
    return SplitFingerprint(tuple(counts), **values)
