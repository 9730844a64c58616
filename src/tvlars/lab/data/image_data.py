"""Common form of all data sets: uint8 images and labels, for training and for test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tvlars.lab.data.fingerprint import SPLITS, Fingerprint, fingerprint_split
from tvlars.lab.errors import UsageError

MEASURED = 200_000
"""Most training images that mean and standard deviation are computed from."""


def pick(images: Tensor, index: Tensor) -> Tensor:
    """Return ``images[index]`` on the device of ``index``; the images may be on another one."""
    return images[index.to(images.device)].to(index.device)


def sample(images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ``count`` random samples, the same each time, or all if there are fewer."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0), device="cpu")
    chosen = order[:count].to(labels.device)
    return pick(images, chosen), labels[chosen]


@dataclass(frozen=True)
class ImageData:
    """One data set: images uint8 (N, C, H, W), labels int64 (N,), for training and for test."""

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
    """True if images are in a mapped file, from which they are read when they are used."""
    files: tuple[str, str] = ("", "")
    """Digests of the names and sizes of training and test files; "" if there are none."""
    decoder: str = ""
    """Name and version of the decoder; "" if pixels were not decoded from files."""
    account: tuple[str, ...] = ()
    """Lines on files of a folder that were left out, and other remarks."""

    def __post_init__(self) -> None:
        must, shapes = f"{self.name} must have", []
        parts = ("train", self.train_images, self.train_labels), ("test", self.test_images, self.test_labels)
        for part, images, labels in parts:
            wanted = f"{must} {part}_images uint8 of shape (N, C, H, W) and {part}_labels int64 (N,)"
            for name, value, dtype, dims in (("images", images, torch.uint8, 4), ("labels", labels, torch.int64, 1)):
                if not isinstance(value, Tensor):
                    raise UsageError(f"{wanted}, but {part}_{name} is of type {type(value).__name__}")
                if value.dtype != dtype or value.ndim != dims:
                    raise UsageError(f"{wanted}, but {part}_{name} is {value.dtype} of shape {tuple(value.shape)}")
            shapes.append(tuple(images.shape[1:]))
        there, here = shapes
        if 0 in there or there[1] != there[2]:
            raise UsageError(f"{must} square images (C, H, H) of at least one pixel, got {there}")
        if there != here:
            raise UsageError(f"{must} training and test images of one shape (C, H, W), got {there} and {here}")
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
        """Fingerprint that is kept with a run and compared when the run resumes."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        train = fingerprint_split(self.train_images, self.train_labels, self.classes, self.files[0])
        test = fingerprint_split(self.test_images, self.test_labels, self.classes, self.files[1])
        return Fingerprint(tuple(self.class_names), train, test, self.decoder)

    @property
    def image_size(self) -> int:
        return int(self.train_images.shape[-1])

    @property
    def channels(self) -> int:
        return int(self.train_images.shape[1])

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each channel over the training images, on the scale 0 to 255.

        Of more than 200,000 images, as many evenly spaced ones are used.
        """
        values = torch.arange(256, dtype=torch.float64, device="cpu")
        counts = torch.zeros(self.channels, 256, dtype=torch.float64, device="cpu")
        every = -(-len(self.train_images) // MEASURED)
        for images in torch.split(self.train_images[::every], 4096):
            for channel, pixels in enumerate(images.unbind(1)):
                counts[channel] += torch.bincount(pixels.flatten(), minlength=256).cpu()
        total = counts.sum(1)
        mean = counts @ values / total
        variance = (counts * (values - mean[:, None]).square()).sum(1) / (total - 1).clamp(min=1)
        return mean.float(), variance.sqrt().float().clamp(min=1.0)

    def to(self, device: torch.device) -> ImageData:
        """Return the same with all tensors on ``device``."""
        here = self.with_labels_on(device)
        return replace(here, train_images=self.train_images.to(device), test_images=self.test_images.to(device))

    def with_labels_on(self, device: torch.device) -> ImageData:
        """Return the same with labels on ``device``; images stay where they are."""
        return replace(self, train_labels=self.train_labels.to(device), test_labels=self.test_labels.to(device))

    def __str__(self) -> str:
        size = f"{self.channels} x {self.train_images.shape[2]} x {self.train_images.shape[3]}"
        counts = f"{len(self.train_labels):,} training and {len(self.test_labels):,} test images"
        where = ", decoded on disk" if self.mapped else ""
        return f"{self.name}: {counts} of {size}, {self.classes} classes ({self.origin}{where})"
