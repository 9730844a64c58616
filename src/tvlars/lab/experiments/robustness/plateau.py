"""Plateau of an accuracy over the learning rate: rates that are within some points of the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Plateau:
    """Rates from ``low`` to ``high`` at which the accuracy is within a margin of the best.

    ``open_low`` and ``open_high`` are True where it ends with the grid and may go on beyond it.
    """

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    @property
    def octaves(self) -> float:
        """Width, log2(high / low)."""
        return math.log2(self.high / self.low)


def plateau(rates: Sequence[float], accuracies: Sequence[float], within: float) -> Plateau | None:
    """Return the widest contiguous range of rates around the best accuracy that is within ``within`` of it.

    Between two rates the accuracy is linear in log2 of the rate. Of several rates that share the best accuracy, the
    range is the widest one.

    Args:
        rates: in ascending order.
        accuracies: at the rates; NaN counts as outside.
        within: margin >= 0, in the units of ``accuracies``.

    Returns:
        The plateau; None if no accuracy is known.
    """
    known = [-math.inf if math.isnan(one) else one for one in accuracies]
    best = max(known, default=-math.inf)
    if best == -math.inf:
        return None
    bound = best - within - 1e-12  # accuracies that are equal but for rounding
    found = []
    for i, value in enumerate(known):
        if value == best:
            low, open_low = _edge(rates, known, bound, i, -1)
            high, open_high = _edge(rates, known, bound, i, 1)
            found.append(Plateau(low, high, open_low, open_high))
    return max(found, key=lambda one: one.octaves)


def _edge(rates: Sequence[float], known: Sequence[float], bound: float, start: int, way: int) -> tuple[float, bool]:
    """Return the rate at which the accuracy falls below ``bound``, and True if it does not within the grid."""
    i = start
    while 0 <= i + way < len(rates) and known[i + way] >= bound:
        i += way
    if not 0 <= i + way < len(rates):
        return rates[i], True
    inside, outside = known[i], known[i + way]
    share = 0.0 if outside == -math.inf else (inside - bound) / (inside - outside)
    return rates[i] * (rates[i + way] / rates[i]) ** share, False
