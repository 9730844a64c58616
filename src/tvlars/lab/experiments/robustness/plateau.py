"""Plateau of the accuracy over the learning rate: the rates whose accuracy is within a margin of the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Plateau:
    """Learning rates from ``low`` to ``high`` at which the accuracy is within a margin of the best.

    ``open_low`` and ``open_high`` are True if the plateau reaches that end of the grid, and so may be wider.
    """

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    @property
    def octaves(self) -> float:
        """Width in octaves, log2(high / low)."""
        return math.log2(self.high / self.low)


def plateau(rates: Sequence[float], accuracies: Sequence[float], within: float) -> Plateau | None:
    """Return the widest contiguous range of rates around the best accuracy that is within ``within`` of it.

    Between two rates the accuracy is interpolated linearly in log2(rate). If several rates share the best accuracy,
    the widest of their ranges is returned.

    Args:
        rates: learning rates in ascending order.
        accuracies: one accuracy per rate; NaN counts as outside.
        within: margin >= 0, in the units of ``accuracies``.

    Returns:
        The plateau; None if no accuracy is known.
    """
    known = [-math.inf if math.isnan(one) else one for one in accuracies]
    best = max(known, default=-math.inf)
    if best == -math.inf:
        return None
    bound = best - within - 1e-12  # accepts accuracies that are equal up to rounding
    found = []
    for i, value in enumerate(known):
        if value == best:
            low, open_low = _edge(rates, known, bound, i, -1)
            high, open_high = _edge(rates, known, bound, i, 1)
            found.append(Plateau(low, high, open_low, open_high))
    return max(found, key=lambda one: one.octaves)


def _edge(rates: Sequence[float], known: Sequence[float], bound: float, start: int, way: int) -> tuple[float, bool]:
    """Return the rate at which the accuracy falls below ``bound``, and True if the grid ends before that."""
    i = start
    while 0 <= i + way < len(rates) and known[i + way] >= bound:
        i += way
    if not 0 <= i + way < len(rates):
        return rates[i], True
    inside, outside = known[i], known[i + way]
    share = 0.0 if outside == -math.inf else (inside - bound) / (inside - outside)
    return rates[i] * (rates[i + way] / rates[i]) ** share, False
