"""Observers: functions that are called with the norms and trust ratios of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Observer = Callable[[Sequence[Tensor], Sequence[Any] | Tensor, Sequence[Any] | Tensor], None]
"""Called with what a step has computed for adapted layers anyway: parameters, ‖w‖ and q of each.

The values are numbers, 0-d tensors, or one vector on the device. ``LayerwiseOptimizer.observers`` holds them.
"""
Observe = Callable[[Sequence[int], Sequence[Any] | Tensor, Sequence[Any] | Tensor], None]
"""The same for a form of the update rule, which identifies layers by their places."""


def by_place(observers: tuple[Observer, ...], params: list[Tensor], indices: list[int]) -> Observe | None:
    """Return ``observers`` for a form that updates the layers of ``params`` at ``indices``; None if there are none."""
    if not observers:
        return None
    layers = [params[i] for i in indices]

    def tell(places: Sequence[int], w_norms: Any, q: Any) -> None:
        for observer in observers:
            observer([layers[i] for i in places], w_norms, q)

    return tell
