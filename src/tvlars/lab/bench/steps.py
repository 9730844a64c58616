"""An optimizer's step by itself, beside that of the torch optimizer with as much state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from tvlars import LAMB, LARS, TVLARS

FUSED_SGD, FUSED_ADAMW = "torch SGD fused", "torch AdamW fused"
BESIDE = {"TVLARS": FUSED_SGD, "LARS": FUSED_SGD, "LAMB": FUSED_ADAMW}
"""The contestant that each is to be read against, in its fastest form."""
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "TVLARS": partial(TVLARS, lr=1e-6, momentum=0.9, weight_decay=1e-4, total_steps=1000),
    "LARS": partial(LARS, lr=1e-6, momentum=0.9, weight_decay=1e-4),
    "LAMB": partial(LAMB, lr=1e-6, weight_decay=1e-2),
    FUSED_SGD: partial(SGD, lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True),
    FUSED_ADAMW: partial(AdamW, lr=1e-6, weight_decay=1e-2, fused=True),
}
"""The learning rate is so small that weights stay where they are."""


def parameters(shapes: Iterable[torch.Size | tuple[int, ...]], device: torch.device) -> list[nn.Parameter]:
    """Return parameters with gradients, small random numbers."""
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(tuple(shape), device=device).mul_(0.02)) for shape in shapes]
    for p in made:
        p.grad = torch.randn_like(p).mul_(1e-3)
    return made
