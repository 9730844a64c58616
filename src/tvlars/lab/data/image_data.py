"""What every data set is turned into: uint8 images and labels, for training and for test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tvlars.lab.errors import UsageError

DOWNLOAD_DIR = Path("~/.cache/tvlars/data")
"""Where torchvision downloads to if ``data_dir`` is not given."""


MEASURED = 200_000
"""Training images that mean and standard deviation are taken over at most."""


def pick(images: Tensor, index: Tensor) -> Tensor:
    """``images[index]`` on the device of ``index``, wherever the images are."""
    return images[index.to(images.device)].to(index.device)


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
    """Whether a mirrored image is an image of the same class; digits are not."""
    class_names: tuple[str, ...] = ()
    mapped: bool = False
    """Whether images lie in a mapped file, and are read from the disk when they are used."""

    def __post_init__(self) -> None:
        for part, images, labels in (
            ("training", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if len(images) != len(labels) or not len(images):
                raise UsageError(
                    f"{self.name} must have as many {part} images as labels, and at least one: "
                    f"{self.origin} has {len(images)} and {len(labels)}"
                )
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.classes:
                raise UsageError(
                    f"{self.name} must have labels from 0 to {self.classes - 1}, but the {part} labels in "
                    f"{self.origin} go from {low} to {high}"
                )

    @property
    def image_size(self) -> int:
        return int(self.train_images.shape[-1])

    @property
    def channels(self) -> int:
        return int(self.train_images.shape[1])

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over the training images, on the scale 0 to 255.

        Of more than 200,000 images, over as many that are evenly spaced.
        """
        values = torch.arange(256, dtype=torch.float64)
        counts = torch.zeros(self.channels, 256, dtype=torch.float64)
        every = -(-len(self.train_images) // MEASURED)
        for images in torch.split(self.train_images[::every], 4096):
            for channel, pixels in enumerate(images.unbind(1)):
                counts[channel] += torch.bincount(pixels.flatten(), minlength=256).cpu()
        total = counts.sum(1)
        mean = counts @ values / total
        variance = (counts * (values - mean[:, None]).square()).sum(1) / (total - 1).clamp(min=1)
        return mean.float(), variance.sqrt().float().clamp(min=1.0)

    def to(self, device: torch.device) -> ImageData:
        """The same with all tensors on ``device``."""
        return replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )

    def with_labels_on(self, device: torch.device) -> ImageData:
        """The same with labels on ``device``, and images where they are."""
        return replace(self, train_labels=self.train_labels.to(device), test_labels=self.test_labels.to(device))

    def __str__(self) -> str:
        size = f"{self.channels} x {self.train_images.shape[2]} x {self.train_images.shape[3]}"
        counts = f"{len(self.train_labels):,} training and {len(self.test_labels):,} test images"
        where = ", decoded on disk" if self.mapped else ""
        return f"{self.name}: {counts} of {size}, {self.classes} classes ({self.origin}{where})"
