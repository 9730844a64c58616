"""Augmentation of samples one by one, and of whole batches by mixing, with the transforms of torchvision.

A sample's random numbers are keyed by seed, epoch and index. A batch is mixed as a whole, whatever parts it is split
into: each sample is mixed with the one before it in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

PADDED, RANDOM_RESIZED = CROPS = ("padded", "random-resized")
POLICIES = ("randaugment", "trivialaugment")


@dataclass(frozen=True)
class Recipe:
    """Augmentation of a sample: a crop, mirroring, and a policy. It can be pickled.

    Args:
        image_size: pixels of the result.
        crop: "padded", or "random-resized".
        scale: least share of the area of a random resized crop.
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
        """True if parts of whole images are scaled, False if images have the size of the result before."""
        return self.crop == RANDOM_RESIZED

    def __call__(self, image: Any, key: int) -> Tensor:
        """Return an image (PIL, or uint8 (C, H, W)) augmented by random numbers of ``key``: uint8 (C, S, S).

        It sets torch's generator of the CPU.
        """
        from torchvision.transforms.v2 import functional as F

        torch.default_generator.manual_seed(key)
        pixels = image if isinstance(image, Tensor) else F.pil_to_tensor(image)
        augmented: Tensor = _transforms(self)(pixels)
        return augmented


@cache
def _transforms(recipe: Recipe) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2

    size = recipe.image_size
    if recipe.crop == RANDOM_RESIZED:
        parts: list[Any] = [v2.RandomResizedCrop(size, (recipe.scale, 1.0), antialias=True)]
    else:
        parts = [v2.RandomCrop(size, padding=recipe.padding)]
    if recipe.flip:
        parts.append(v2.RandomHorizontalFlip())
    if recipe.policy is not None:
        parts.append(v2.RandAugment() if recipe.policy == "randaugment" else v2.TrivialAugmentWide())
    composed: Callable[[Tensor], Tensor] = v2.Compose(parts)
    return composed


class Mix:
    """Mixup and cutmix, one of them at random for each batch if both are given.

    Args:
        mixup: parameter alpha of mixup's Beta distribution; 0: no mixup.
        cutmix: that of cutmix.
        classes: number of classes.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int) -> None:
        from torchvision.transforms import v2

        parts: list[Any] = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
        parts += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else []
        self.transform = v2.RandomChoice(parts)

    def __call__(self, images: Tensor, labels: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Return samples mixed with those before them by random numbers of ``key``, all but the first.

        Args:
            images: (1 + n, C, H, W), the first of which is the one before this part of its batch.
            labels: (1 + n,), int64.
            key: the same for all parts of a batch.

        Returns:
            Images (n, C, H, W), and probabilities of classes (n, classes).
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key)
            mixed, targets = self.transform(images, labels)
        return mixed[1:], targets[1:]
