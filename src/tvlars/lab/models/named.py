"""Models by name. To add one, write a builder and enter it in ``MODELS``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from tvlars.lab.models.torchvision_models import build_torchvision

SMALL_IMAGE = 64
"""Size in pixels per side below which images are small: a stem for 224 pixels would reduce them too much."""


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network of three stages with one block each, small enough to train on a CPU."""

    def __init__(self, channels: int, classes: int, stem_stride: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, stem_stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2))
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(F.relu(self.bn(self.stem(x))))
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits


def _small_resnet(channels: int, image_size: int, classes: int) -> tuple[nn.Module, str]:
    stride = 1 if image_size < 16 else 2
    model = SmallResNet(channels, classes, stride)
    return model, f"three stages of 16, 32 and 64 channels, 3x3 stem with stride {stride}"


def _for_small_images(
    name: str, channels: int, image_size: int, classes: int, stem: str | None = None, pretrained: bool = False
) -> tuple[nn.Module, str]:
    """Build a model of torchvision, with a small stem for small images unless ``stem`` is given."""
    stem = stem or ("small" if image_size < SMALL_IMAGE and not pretrained else "standard")
    return build_torchvision(name, channels, image_size, classes, stem, pretrained)


MODELS: dict[str, Callable[..., tuple[nn.Module, str]]] = {
    "small_resnet": _small_resnet,
    **{name: partial(_for_small_images, name) for name in ("resnet18", "resnet34", "resnet50", "efficientnet_b0")},
}
"""Builders by name: each maps (channels, image size, classes) to a model and its description, and may also have the
arguments ``stem`` and ``pretrained``."""
