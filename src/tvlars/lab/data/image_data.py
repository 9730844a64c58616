"""Common form of all data sets: uint8 images and labels for training, validation and test."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvlars.lab.data.fingerprint import SPLITS, Fingerprint, fingerprint_split
from tvlars.lab.data.streamed import LazyImages, is_streamed
from tvlars.lab.errors import UsageError

MEASURED, STREAMED = 200_000, 2048
"""Most training images for mean and standard deviation: of images in memory, and of images read on demand."""


def pick(images: Tensor, index: Tensor) -> Tensor:
    """Return ``images[index]`` on the device of ``index``; ``images`` may be on another device."""
    return images[index.to(images.device)].to(index.device)


def check_amount(amount: float | None) -> None:
    """Raise ``UsageError`` unless ``amount`` is a number of validation images, a share of the training images, or None.

    The value 1 means one image.
    """
    number = isinstance(amount, int | float) and not isinstance(amount, bool) and 0 <= amount < math.inf
    if amount is not None and not (number and (amount < 1 or float(amount).is_integer())):
        raise UsageError(
            f"validation must be a number of images, as 5000, or a share of the training images below 1, as 0.1, "
            f"got {amount!r}"
        )


def sample(images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ``count`` random samples, or all if there are fewer; equal calls return equal samples."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0), device="cpu")
    chosen = order[:count].to(labels.device)
    return pick(images, chosen), labels[chosen]


class Chosen(LazyImages):
    """Some images of a larger tensor in a mapped file."""

    def __init__(self, images: Tensor, index: Tensor) -> None:
        super().__init__(tuple(images.shape[1:]), index)
        self.images = images

    def at(self, index: Tensor) -> Chosen:
        return Chosen(self.images, self.index[index.cpu()])

    def read(self, index: Tensor) -> Tensor:
        return self.images[index]


@dataclass(frozen=True)
class ImageData:
    """One data set: images uint8 (N, C, H, W), labels int64 (N,), for training, validation and test."""

    name: str
    origin: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int
    flip: bool
    """True if a mirrored image belongs to the same class; a mirrored digit does not."""
    class_names: tuple[str, ...] = ()
    mapped: bool = False
    """True if images are in a mapped file or in separate files, from which they are read on demand."""
    files: tuple[str, str] = ("", "")
    """Digests of the names and sizes of training and test files; "" if there are none."""
    decoder: str = ""
    """Name and version of the decoder; "" if pixels were not decoded from files."""
    account: tuple[str, ...] = ()
    """Lines on left-out files of a folder, and other remarks."""
    validation_images: Tensor | None = None
    """Images held out from training to choose options and models; None if there are none."""
    validation_labels: Tensor | None = None
    validation_files: str = ""
    """Digest of the names and sizes of separate validation files; "" if there are none."""
    held_out: tuple[float, int] | None = None
    """Amount and seed of :meth:`hold_out`, if it took the validation images from the training images."""

    def __post_init__(self) -> None:
        must, shapes = f"{self.name} must have", []
        parts: list[tuple[str, Any, Any]] = [("train", self.train_images, self.train_labels)]
        if self.validation_images is not None or self.validation_labels is not None:
            parts.append(("validation", self.validation_images, self.validation_labels))
        parts.append(("test", self.test_images, self.test_labels))
        for part, images, labels in parts:
            wanted = f"{must} {part}_images uint8 of shape (N, C, H, W) and {part}_labels int64 (N,)"
            for name, value, dtype, dims in (("images", images, torch.uint8, 4), ("labels", labels, torch.int64, 1)):
                if not isinstance(value, Tensor | LazyImages):
                    raise UsageError(f"{wanted}, but {part}_{name} is of type {type(value).__name__}")
                if value.dtype != dtype or value.ndim != dims:
                    raise UsageError(f"{wanted}, but {part}_{name} is {value.dtype} of shape {tuple(value.shape)}")
            shapes.append(tuple(images.shape[1:]))
        there = shapes[0]
        if 0 in there or there[1] != there[2]:
            raise UsageError(f"{must} square images (C, H, H) of at least one pixel, got {there}")
        for (part, *_), here in zip(parts, shapes, strict=True):
            if there != here:
                word = f"training and {SPLITS[part]} images"
                raise UsageError(f"{must} {word} of one shape (C, H, W), got {there} and {here}")
        for part, images, labels in parts:
            word = SPLITS[part]
            if len(images) != len(labels) or not len(images):
                found = f"{self.origin} has {len(images)} and {len(labels)}"
                raise UsageError(f"{must} as many {word} images as labels, and at least one: {found}")
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.classes:
                found = f"the {word} labels in {self.origin} go from {low} to {high}"
                raise UsageError(f"{must} labels from 0 to {self.classes - 1}, but {found}")

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint that is stored with a run, and compared when the run resumes."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        train = fingerprint_split(self.train_images, self.train_labels, self.classes, self.files[0])
        test = fingerprint_split(self.test_images, self.test_labels, self.classes, self.files[1])
        validation = None
        if self.validation_images is not None and self.validation_labels is not None:
            held = self.validation_images, self.validation_labels
            validation = fingerprint_split(*held, self.classes, self.validation_files)
        return Fingerprint(tuple(self.class_names), train, test, self.decoder, validation)

    @property
    def image_size(self) -> int:
        return int(self.train_images.shape[-1])

    @property
    def channels(self) -> int:
        return int(self.train_images.shape[1])

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each channel over the training images, on the scale 0 to 255.

        At most 200,000 images, evenly spaced, are used; if images are read on demand, at most 2,048.
        """
        values = torch.arange(256, dtype=torch.float64, device="cpu")
        counts = torch.zeros(self.channels, 256, dtype=torch.float64, device="cpu")
        most = STREAMED if is_streamed(self.train_images) else MEASURED
        every = -(-len(self.train_images) // most)
        for images in torch.split(self.train_images[::every], 4096):
            for channel, pixels in enumerate(images.unbind(1)):
                counts[channel] += torch.bincount(pixels.flatten(), minlength=256).cpu()
        total = counts.sum(1)
        mean = counts @ values / total
        variance = (counts * (values - mean[:, None]).square()).sum(1) / (total - 1).clamp(min=1)
        return mean.float(), variance.sqrt().float().clamp(min=1.0)

    def part(self, split: str) -> tuple[Tensor, Tensor]:
        """Return images and labels of a split: "train", "validation" or "test"."""
        return getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")

    def with_validation_as_test(self) -> ImageData:
        """Return the data with the validation images in place of the test images, and without a validation part."""
        assert self.validation_images is not None
        assert self.validation_labels is not None
        held = {"validation_images": None, "validation_labels": None, "validation_files": "", "held_out": None}
        tested = {"test_images": self.validation_images, "test_labels": self.validation_labels}
        return replace(self, **tested, **held, files=(self.files[0], self.validation_files))  # type: ignore[arg-type]

    @property
    def validated(self) -> bool:
        """True if there are validation images."""
        return self.validation_labels is not None

    def hold_out(self, amount: float | None, seed: int = 0) -> ImageData:
        """Return the data with training images held out for validation: the same images for equal data and ``seed``.

        The choice is stratified by class (``train_test_split`` of scikit-learn).

        Args:
            amount: number of images (1 or more), or share of the training images (below 1). 0: no validation images,
                even if the data came with some. None: no change.
            seed: seed of the choice.

        Raises:
            UsageError: the data already have validation images, there are too few images for ``amount``, or a class
                would be left without images.
        """
        check_amount(amount)
        if amount is None and seed and self.held_out is None:
            raise UsageError(f"validation must be given with validation_seed, got only validation_seed {seed}")
        if amount is None or (amount, seed) == self.held_out:
            return self
        if self.held_out is not None:
            raise UsageError(
                f"validation must be {self.held_out[0]:g}, which has been held out of these data, got {amount:g}"
            )
        if amount == 0:
            return replace(self, validation_images=None, validation_labels=None, validation_files="")
        if self.validated:
            raise UsageError(
                f"validation must not be given for {self.name}, which has its own validation images, got {amount:g}"
            )
        kept, chosen = self._chosen(amount, seed)
        here = self.train_labels.device
        more = () if (without := self._classes_without(chosen)) == "" else (f"no validation images of {without}",)
        return replace(
            self,
            origin=f"{self.origin}, validation split off by class with seed {seed}",
            train_images=self._images_at(kept),
            train_labels=self.train_labels[kept.to(here)],
            validation_images=self._images_at(chosen),
            validation_labels=self.train_labels[chosen.to(here)],
            held_out=(amount, seed),
            account=self.account + more,
        )

    def _chosen(self, amount: float, seed: int) -> tuple[Tensor, Tensor]:
        """Return the indices of the kept training images, and of the images held out, each in ascending order."""
        from sklearn.model_selection import train_test_split

        labels = self.train_labels.cpu().numpy()
        given = f"got {amount:g}" if amount < 1 else f"got {int(amount):,}"
        images, counts = len(labels), torch.bincount(self.train_labels.cpu(), minlength=self.classes)
        count = int(amount) if amount >= 1 else math.ceil(amount * images)
        present = int((counts > 0).sum())
        if count >= images:
            raise UsageError(f"validation must be less than the {images:,} training images of {self.name}, {given}")
        if count < present or images - count < present:
            where = "validation" if count < present else "training"
            raise UsageError(
                f"validation must leave {self.name} an image of each of its {present} classes for {where}, but leaves "
                f"{min(count, images - count):,} of {images:,}, {given}"
            )
        if int(counts[counts > 0].min()) < 2:
            name = self._name_of(int(((counts == 1) * 1).argmax()))
            raise UsageError(
                f"validation must not be given for {self.name}, whose class {name} has one training image, {given}"
            )
        parts = train_test_split(np.arange(images), test_size=count, random_state=seed, stratify=labels)
        kept, chosen = (torch.from_numpy(np.sort(part)) for part in parts)
        left = torch.bincount(self.train_labels.cpu()[kept], minlength=self.classes)
        if int(left[counts > 0].min()) == 0:
            name = self._name_of(int(((counts > 0) & (left == 0)).int().argmax()))
            raise UsageError(f"validation must leave a training image of class {name} of {self.name}, {given}")
        return kept, chosen

    def _images_at(self, index: Tensor) -> Any:
        """Return the training images with these indices; images of a mapped file are read on demand."""
        images: Any = self.train_images
        if isinstance(images, LazyImages):
            return images.at(index)
        return Chosen(images, index.to(images.device)) if self.mapped else images[index.to(images.device)]

    def _classes_without(self, chosen: Tensor) -> str:
        """Return in words the classes without an image among the ``chosen``; "" if there are none."""
        labels = self.train_labels.cpu()
        every, held = (torch.bincount(one, minlength=self.classes) for one in (labels, labels[chosen]))
        names = [self._name_of(int(i)) for i in ((every > 0) & (held == 0)).nonzero().flatten()]
        more = ", ..." if len(names) > 5 else ""
        return f"{len(names)} class{'es' * (len(names) > 1)} ({', '.join(names[:5])}{more})" if names else ""

    def _name_of(self, label: int) -> str:
        return f"{self.class_names[label]!a}" if self.class_names else str(label)

    def to(self, device: torch.device) -> ImageData:
        """Return the data with all tensors on ``device``."""
        here = self.with_labels_on(device)
        held = None if self.validation_images is None else self.validation_images.to(device)
        train, test = self.train_images.to(device), self.test_images.to(device)
        return replace(here, train_images=train, validation_images=held, test_images=test)

    def with_labels_on(self, device: torch.device) -> ImageData:
        """Return the data with labels on ``device``; images stay where they are."""
        held = None if self.validation_labels is None else self.validation_labels.to(device)
        train, test = self.train_labels.to(device), self.test_labels.to(device)
        return replace(self, train_labels=train, validation_labels=held, test_labels=test)

    def __repr__(self) -> str:
        return f"ImageData({self})"

    def __str__(self) -> str:
        size = f"{self.channels} x {self.train_images.shape[2]} x {self.train_images.shape[3]}"
        train, test = f"{len(self.train_labels):,} training", f"{len(self.test_labels):,} test images"
        held = self.validation_labels
        counts = f"{train} and {test}" if held is None else f"{train}, {len(held):,} validation and {test}"
        streamed = is_streamed(self.train_images)
        where = ", read on demand" if streamed else ", decoded on disk" if self.mapped else ""
        return f"{self.name}: {counts} of {size}, {self.classes} classes ({self.origin}{where})"
