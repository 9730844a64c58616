"""Networks of the study of warm-up, for ``--model benchmarks/studies/models.py:NAME``: no batch norm, many layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def plain20(channels: int, classes: int) -> nn.Module:
    """Return 20 layers of convolutions without normalization or shortcuts."""
    return plain(channels, classes, 20)


def plain40(channels: int, classes: int) -> nn.Module:
    """Return 40 layers of convolutions without normalization or shortcuts."""
    return plain(channels, classes, 40)


def plain(channels: int, classes: int, layers: int, width: int = 16) -> nn.Sequential:
    """Return ``layers`` - 1 convolutions of 3x3 with biases and ReLU, in three stages, and a linear layer.

    Weights are drawn as He et al. (2015) do for ReLU, which keeps the size of activations over any number of layers.
    """
    parts: list[nn.Module] = []
    inputs, convolutions = channels, layers - 1
    for i in range(convolutions):
        stage = 3 * i // convolutions
        first = i > 0 and stage > 3 * (i - 1) // convolutions
        outputs = width * 2**stage
        parts += [nn.Conv2d(inputs, outputs, 3, 2 if first else 1, 1), nn.ReLU()]
        inputs = outputs
    network = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return network


class SmallViT(nn.Module):
    """Vision transformer of patches of 2 x 2 pixels, with layer norm after each sum (Vaswani et al. 2017).

    The order "post" is the one that is known to need warm-up (Xiong et al. 2020); with ``norm_first`` it does not.
    """

    def __init__(self, channels: int, image_size: int, classes: int, norm_first: bool = False) -> None:
        super().__init__()
        width, patch = 48, 2
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (image_size // patch) ** 2, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.encoder(tokens).mean(1))
        return logits


def vit(channels: int, image_size: int, classes: int) -> nn.Module:
    """Return a small vision transformer with layer norm after each sum."""
    return SmallViT(channels, image_size, classes)
