"""Models by name. To add one, write a builder and enter it in ``MODELS``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tvlars.lab.errors import unknown

SMALL_IMAGE = 64
"""Images below this many pixels per side are small: a stem for 224 pixels would reduce them too far."""


def build_model(
    name: str, channels: int, image_size: int, classes: int, init: str = "default"
) -> tuple[nn.Module, str]:
    """Return the model ``name`` for images of ``channels`` x ``image_size`` x ``image_size``, and a description.

    ``init`` is a key of ``INITS``.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    model, description = MODELS[name](channels, image_size, classes)
    initialize(model, init)
    count = sum(p.numel() for p in model.parameters())
    how = "" if init == "default" else f", {init} weights"
    return model, f"{name}: {description}, {count:,} parameters{how}"


def head_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the name and the classifier, the last linear layer, of a model that :func:`build_model` made."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def put_head(model: nn.Module, name: str, head: nn.Module) -> None:
    """Replace the classifier that :func:`head_of` found; with ``nn.Identity()`` outputs are features (n, d)."""
    owner, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(owner), own_name, head)


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


def _torchvision(name: str, channels: int, image_size: int, classes: int) -> tuple[nn.Module, str]:
    from torchvision import models

    model: Any = getattr(models, name)(num_classes=classes)
    small, resnet = image_size < SMALL_IMAGE, name.startswith("resnet")
    kernel, stride = 7 if resnet and not small else 3, 1 if small else 2
    if small or channels != 3:
        stem = nn.Conv2d(channels, 64 if resnet else 32, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        if resnet:
            model.conv1 = stem
        else:
            model.features[0][0] = stem
    if small and resnet:
        model.maxpool = nn.Identity()
    pool = (", no max-pool" if small else ", max-pool") if resnet else ""
    kind = "small-image" if small else "standard"
    return model, f"torchvision's, {kind} stem ({kernel}x{kernel}, stride {stride}{pool})"


MODELS: dict[str, Callable[[int, int, int], tuple[nn.Module, str]]] = {
    "small_resnet": _small_resnet,
    **{name: partial(_torchvision, name) for name in ("resnet18", "resnet34", "resnet50", "efficientnet_b0")},
}

INITS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "default": None,
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "kaiming_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
}


def initialize(model: nn.Module, init: str) -> None:
    """Initialize all convolutions and linear layers, with biases of 0; "default" changes nothing."""
    fill = INITS[init]
    if fill is None:
        return
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
