"""Arithmetic on tensors, and on options that are numbers or tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tvlars.optim._numerics.norms import Tensors

Count = int | Tensor
"""Steps taken: a number, or an int64 tensor on the device."""


def readable(x: Tensor) -> Tensor:
    """Return ``x`` for use in a formula before it is overwritten: a copy if autograd will need it later.

    Autograd is on in a step only where the optimizer is differentiable.
    """
    return x.clone() if torch.is_grad_enabled() else x


def is_off(factor: Any) -> bool:
    """Return True if a factor is the number 0, whose term is left out. A tensor keeps its term, for the derivative."""
    return not isinstance(factor, Tensor) and factor == 0


def plus(x: Tensor, y: Tensor, factor: Any) -> Tensor:
    """x + factor · y."""
    return x + readable(y) * factor if isinstance(factor, Tensor) else x.add(y, alpha=factor)


def accumulate(m: Tensor, factor: Any, x: Tensor) -> None:
    """m ← factor · m + x."""
    if isinstance(factor, Tensor):
        m.copy_(readable(m) * factor + x)
    else:
        m.mul_(factor).add_(x)


def descend(w: Tensor, direction: Tensor, lr: float | Tensor) -> None:
    """w ← w − lr · direction."""
    if isinstance(lr, Tensor):
        w.sub_(direction * lr)
    else:
        w.add_(direction, alpha=-lr)


def foreach_descend(params: Tensors, directions: Tensors, lr: float | Tensor) -> None:
    """w ← w − lr · direction for every parameter."""
    if isinstance(lr, Tensor):
        torch._foreach_sub_(params, torch._foreach_mul(directions, lr))
    else:
        torch._foreach_add_(params, directions, alpha=-lr)


def scalar(value: float | Tensor, keep_tensor: bool) -> float | Tensor:
    """Return ``value`` as a number, or as a 0-d tensor if it has to stay on the device."""
    if not isinstance(value, Tensor):
        return value
    if keep_tensor or value.device.type != "cpu" or torch.compiler.is_compiling():
        return value.reshape(())
    return value.item()


def on(count: Count, device: torch.device) -> Tensor:
    """Return a step count as an int64 tensor on ``device``, without a wait; the same tensor if it is one already."""
    if not isinstance(count, Tensor):
        return torch.full((), count, dtype=torch.int64, device=device)
    return count if count.device == device else to_device(count, device)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return ``x`` on ``device``, without a wait for the device."""
    if x.device.type == "cpu" and device.type == "cuda" and not torch.compiler.is_compiling():
        x = x.pin_memory()
    return x.to(device, non_blocking=True)
