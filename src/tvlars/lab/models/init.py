"""Initializations of a model's weights, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

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
