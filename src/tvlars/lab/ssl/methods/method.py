"""Base class of all methods: a backbone, a projector, and a loss of the embeddings of both views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tvlars.lab.errors import UsageError

MAX_WIDTH = 65_536


class Method(nn.Module):
    """A method of self-supervised learning.

    A subclass defines its ``OPTIONS``, and either ``make_criterion`` or ``loss``. ``forward`` returns the input of the
    loss, (n, D) for n images. It must process images independently (except in batch norm), so that a batch can be
    encoded in parts.

    Args:
        backbone: maps images to (n, features).
        features: width of the backbone's output.
        widths: widths of the projector's layers.
        options: values for ``OPTIONS`` that differ from the defaults.
    """

    OPTIONS: ClassVar[dict[str, float]] = {}
    """Names and defaults of the options."""
    RANGES: ClassVar[dict[str, tuple[float, float]]] = {}
    """Smallest and largest values of options; options without an entry must be >= 0."""
    HEADS: ClassVar[tuple[str, ...]] = ("projector",)
    """Child modules that are trained with the backbone, and dropped afterwards."""

    def __init__(self, backbone: nn.Module, features: int, widths: Sequence[int], **options: float) -> None:
        super().__init__()
        self.options = {**self.OPTIONS, **options}
        self.features = features
        self.backbone = backbone
        self.projector = projector(features, widths)
        self.criterion = self.make_criterion()

    def make_criterion(self) -> Any:
        """Return a function or module that computes the loss of both views' embeddings, unless ``loss`` is defined."""

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x)

    def embed(self, x: Tensor) -> Tensor:
        """Return the embedding (n, widths[-1]), whose collapse is measured."""
        z: Tensor = self.projector(self.backbone(x))
        return z

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss, given the outputs of ``forward`` for the first and the second views of a whole batch."""
        value: Tensor = self.criterion(first, second)
        return value

    def after_step(self, progress: float) -> None:
        """Update state after an optimizer step; ``progress`` is the fraction of all steps taken so far."""


def projector(features: int, widths: Sequence[int]) -> nn.Module:
    """Return linear layers, each but the last with batch norm and ReLU (Zbontar et al. 2021, section 2.2)."""
    from lightly.models.modules.heads import ProjectionHead

    inputs = [features, *widths[:-1]]
    blocks = [(i, o, nn.BatchNorm1d(o), nn.ReLU()) for i, o in zip(inputs[:-1], widths[:-1], strict=True)]
    head: nn.Module = ProjectionHead([*blocks, (inputs[-1], widths[-1], None, None)])
    return head


def parse_widths(text: str) -> tuple[int, ...]:
    """Return the layer widths in text such as "4096-4096-4096"; raise ``UsageError`` for other text."""
    parts = text.split("-") if isinstance(text, str) else [""]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part[:9]) <= MAX_WIDTH for part in parts):
        raise UsageError(f"projector must be layer widths from 1 to {MAX_WIDTH} as in 4096-4096-4096, got {text!r}")
    return tuple(map(int, parts))
