"""Networks and data that the checks train, and comparisons of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tests.conftest import OPTIMIZERS
from tvlars import layer_groups

Batch = tuple[Tensor, Tensor]


def network() -> nn.Sequential:
    """Layers of odd sizes, so that they do not divide evenly, with biases and a norm; the same at every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 1), nn.Tanh(), nn.Linear(1, 5))


def optimizer_for(
    name: str, model: nn.Module, make: Callable[..., torch.optim.Optimizer] | None = None, **arguments: Any
) -> torch.optim.Optimizer:
    """The optimizer ``name`` on the two groups of ``layer_groups``, whose lr differ too; made by ``make`` if given."""
    cls, defaults = OPTIMIZERS[name]
    groups = layer_groups(model, weight_decay=0.02, lr=defaults["lr"], bias_norm_lr_scale=0.25)
    if make is not None:
        return make(groups, optimizer_class=cls, **{**defaults, **arguments})
    return cls(groups, **{**defaults, **arguments})


def batches(steps: int, features: int = 6, targets: int = 5) -> Iterator[Batch]:
    """Eight samples per step."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield torch.randn(8, features, generator=generator), torch.randn(8, targets, generator=generator)


def backward(model: nn.Module, batch: Batch, rows: slice = slice(None)) -> None:
    model.zero_grad()
    nn.functional.mse_loss(model(batch[0][rows]), batch[1][rows]).backward()


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def assert_same_weights(actual: nn.Module, expected: nn.Module, *, tolerance: float = 5e-6) -> None:
    """Elementwise to ``tolerance``, relative and (a tenth of it) absolute."""
    for (name, a), b in zip(expected.named_parameters(), actual.parameters(), strict=True):
        torch.testing.assert_close(
            whole(b.detach()), a.detach(), rtol=tolerance, atol=tolerance / 10, msg=lambda m, name=name: f"{name}: {m}"
        )
