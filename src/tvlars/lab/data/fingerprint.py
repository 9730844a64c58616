"""Fingerprint of a data set: class names, images per class, and digests of file names and sizes, labels and pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tvlars.lab.data.streamed import is_streamed

READ = 64
"""Most images of a split that are digested if images are read on demand."""
SOME = "some-"
"""Prefix of a digest of only some images."""
DIGESTED = 2**28
"""Most bytes of pixels of a split that are digested; for larger splits, evenly spaced images are digested."""


@dataclass(frozen=True)
class SplitFingerprint:
    """Fingerprint of the training, validation or test images."""

    counts: tuple[int, ...]
    """Number of images of each class."""
    files: str
    """Digest of the files' names and sizes; "" if data were not read from image files."""
    labels: str
    """Digest of the labels, in order."""
    pixels: str
    """Digest of shape and pixels."""


@dataclass(frozen=True)
class Fingerprint:
    """Fingerprint of a whole data set; equal fingerprints mean equal data.

    ``decoder`` is the library that decoded the files. Its versions may round differently, so digests of pixels are
    compared only if the version is the same.
    """

    class_names: tuple[str, ...]
    train: SplitFingerprint
    test: SplitFingerprint
    decoder: str = ""
    validation: SplitFingerprint | None = None
    """Fingerprint of the validation images; None if there are none."""

    def as_json(self) -> dict[str, Any]:
        """Return the fingerprint as a JSON object for :meth:`from_json`."""
        found = asdict(self)
        return found if self.validation is not None else {n: value for n, value in found.items() if n != "validation"}

    @classmethod
    def from_json(cls, stored: Any) -> Fingerprint | None:
        """Return the fingerprint in ``stored``; None if there is none."""
        try:
            held_out = [] if stored.get("validation") is None else [stored["validation"]]
            splits = [
                SplitFingerprint(tuple(one["counts"]), one["files"], one["labels"], one["pixels"])
                for one in (stored["train"], stored["test"], *held_out)
            ]
            names, decoder = stored["class_names"], stored["decoder"]
            texts = [*names, decoder, *(text for one in splits for text in (one.files, one.labels, one.pixels))]
        except (TypeError, KeyError, AttributeError):
            return None
        train, test, *more = splits
        whole = (
            isinstance(names, list | tuple)
            and all(isinstance(text, str) for text in texts)
            and all(type(count) is int for one in splits for count in one.counts)
            and all(len(one.counts) == len(train.counts) for one in splits)
            and len(names) in (0, len(train.counts))
        )
        return cls(tuple(names), train, test, decoder, *more) if whole else None

    def difference(self, here: Fingerprint, splits: Sequence[str] = ("train", "validation", "test")) -> str:
        """Return in words how the data ``here`` differ in the given ``splits``; "" if they are equal."""
        if said := difference_of_names(self.class_names, here.class_names):
            return said
        classes, now = len(self.train.counts), len(here.train.counts)
        if classes != now:
            return f"there were {classes} classes, and are {now} now"
        return ", ".join(said for split in splits if (said := self._of_split(split, here)))

    def _of_split(self, split: str, here: Fingerprint) -> str:
        there, now, word = getattr(self, split), getattr(here, split), SPLITS[split]
        if there is None or now is None:
            counts = [0 if one is None else sum(one.counts) for one in (there, now)]
            return "" if there is now else f"there were {counts[0]:,} {word} images, and are {counts[1]:,} now"
        if there.counts != now.counts:
            names = self.class_names or tuple(map(str, range(len(there.counts))))
            pairs = [(name, a, b) for name, a, b in zip(names, there.counts, now.counts, strict=False) if a != b]
            more = f", and {len(pairs) - 1} more classes have other counts" if len(pairs) > 1 else ""
            return f"class {pairs[0][0]!a} had {pairs[0][1]:,} {word} images, and has {pairs[0][2]:,} now{more}"
        if there.files != now.files:
            return f"{word} files have other names or sizes"
        if there.labels != now.labels:
            return f"{word} images have other labels, or another order"
        alike = there.pixels.startswith(SOME) == now.pixels.startswith(SOME)  # else only one of them fitted into memory
        compared = alike and not self.uncompared(here)
        return f"{word} images have other pixels" if compared and there.pixels != now.pixels else ""

    def uncompared(self, here: Fingerprint) -> str:
        """Return in words what :meth:`difference` could not compare; "" if it compared everything."""
        if self.decoder == here.decoder:
            return ""
        return (
            f"pixels could not be compared: {self.decoder or 'another source'} decoded them there, {here.decoder} here"
        )


SPLITS = {"train": "training", "validation": "validation", "test": "test"}
"""Names of the splits, and words for them in messages."""


def difference_of_names(there: Sequence[str], here: Sequence[str]) -> str:
    """Return in words how the class names ``here`` differ; "" if they are equal."""
    there, here = list(map(str, there)), list(map(str, here))
    if there == here:
        return ""
    parts = []
    for names, others, said in ((there, set(here), "gone"), (here, set(there), "new")):
        if names := [name for name in names if name not in others]:
            shown = ", ".join(f"{name!a:.60}" for name in names[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            one, many = ("class", "is"), ("classes", "are")
            noun, verb = one if len(names) == 1 else many
            parts.append(f"{noun} {shown}{more} {verb} {said}")
    return ", ".join(parts) or "classes are in another order"


def fingerprint_split(images: Tensor, labels: Tensor, classes: int, files: str) -> SplitFingerprint:
    """Return the fingerprint of one split; ``files`` is the result of :func:`digest_files`."""
    labels = labels.detach().cpu().long()
    counts = torch.bincount(labels, minlength=classes).tolist()
    every = max(-(-images.nbytes // DIGESTED), 1)
    if is_streamed(images):
        every = -(-len(images) // READ)
    pixels = hashlib.sha256(f"{tuple(images.shape)} {images.dtype}".encode())
    for some in torch.split(images.detach()[::every], 4096):
        pixels.update(some.cpu().flatten().numpy().data)
    of_labels = hashlib.sha256(labels.contiguous().numpy().data).hexdigest()
    begin = SOME if is_streamed(images) else ""
    return SplitFingerprint(tuple(counts), files, of_labels[:32], begin + pixels.hexdigest()[: 32 - len(begin)])


def digest_files(names_and_sizes: Sequence[tuple[bytes, int]]) -> str:
    """Return the digest of file names, relative to the data set, and file sizes, in order."""
    digest = hashlib.sha256()
    for name, size in names_and_sizes:
        digest.update(b"%d %d " % (len(name), size) + name)
    return digest.hexdigest()[:32]
