"""Augmentation of single samples, and mixing of samples in a batch, with the transforms of torchvision.

The random numbers of a sample are keyed by seed, epoch and index. Each sample is mixed with the sample before it in
the whole batch, so that mixing does not depend on micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

PADDED, RANDOM_RESIZED = CROPS = ("padded", "random-resized")
POLICIES = ("randaugment", "trivialaugment")


@dataclass(frozen=True)
class Recipe:
    """Augmentation of a sample: a crop, a mirroring, and a policy. It can be pickled.

    Args:
        image_size: side of the result in pixels.
        crop: "padded" or "random-resized".
        scale: smallest share of the image's area in a random resized crop.
        padding: pixels added on every side for a padded crop.
        flip: whether half of the samples are mirrored.
        policy: "randaugment", "trivialaugment", or None.
    """

    image_size: int
    crop: str
    scale: float
    padding: int
    flip: bool
    policy: str | None

    @property
    def whole(self) -> bool:
        """True if crops are taken from images of the original size, False if images are scaled before."""
        return self.crop == RANDOM_RESIZED

    def __call__(self, image: Any, key: int) -> Tensor:
        """Return an image of a ``Source``, augmented with torch's CPU generator seeded by ``key``: uint8 (C, S, S)."""
        from torchvision.transforms.v2 import functional as F

        torch.default_generator.manual_seed(key)
        crop, *others = _transforms(self)
        if callable(image):  # only the part is read, at the scale that it needs
            pixels: Tensor = F.resize(image(self._choose), [self.image_size] * 2, antialias=True)
        else:
            pixels = crop(image if isinstance(image, Tensor) else F.pil_to_tensor(image))
        for transform in others:
            pixels = transform(pixels)
        return pixels

    def _choose(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, left, height and width of the crop, drawn as ``v2.RandomResizedCrop`` does."""
        frame, ratios = torch.empty(1, device="cpu").expand(1, height, width), [3 / 4, 4 / 3]
        top, left, rows, columns = _transforms(self)[0].get_params(frame, [self.scale, 1.0], ratios)
        return top, left, rows, columns


@cache
def _transforms(recipe: Recipe) -> list[Any]:
    from torchvision.transforms import v2

    size = recipe.image_size
    resized = v2.RandomResizedCrop(size, (recipe.scale, 1.0), antialias=True)
    parts: list[Any] = [resized if recipe.whole else v2.RandomCrop(size, padding=recipe.padding)]
    parts += [v2.RandomHorizontalFlip()] * recipe.flip
    if recipe.policy is not None:
        parts.append(v2.RandAugment() if recipe.policy == "randaugment" else v2.TrivialAugmentWide())
    return parts


class Mix:
    """Mixup and cutmix; if both are given, one of them is chosen at random for each batch.

    Args:
        mixup: parameter alpha of mixup's Beta distribution; 0: no mixup.
        cutmix: parameter alpha of cutmix's Beta distribution; 0: no cutmix.
        classes: number of classes.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int) -> None:
        from torchvision.transforms import v2

        parts: list[Any] = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
        parts += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else []
        self.transform = v2.RandomChoice(parts)

    def __call__(self, images: Tensor, labels: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Return all samples but the first, each mixed with the sample before it, with random numbers from ``key``.

        Args:
            images: (1 + n, C, H, W); the first image is the one before this part of the batch.
            labels: (1 + n,), int64.
            key: the same for all parts of a batch.

        Returns:
            Images (n, C, H, W), and probabilities of classes (n, classes).
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key)
            mixed, targets = self.transform(images, labels)
        return mixed[1:], targets[1:]
