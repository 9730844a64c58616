"""Contestants measured in turn, so that a change of the machine's speed meets all of them; medians and quartiles."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Turn = Callable[[], float]
"""One contestant's turn: does an agreed amount of work, and returns the seconds that it took."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one number per round."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of ``values``, at least one."""
        return cls(*np.quantile(values, (0.5, 0.25, 0.75)).tolist())

    def text(self, form: str = ".2f") -> str:
        """Return text as in ``1.90 (1.80 to 1.97)``; ``form`` formats each of the three numbers."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"


def interleave(
    turns: Mapping[str, Turn],
    rounds: int,
    *,
    warm_up: int = 1,
    until: float = math.inf,
    after_round: Callable[[int], object] = lambda number: None,
) -> dict[str, list[float]]:
    """Let every contestant have its turn in every round, there and back again: A B C, C B A, A B C.

    Args:
        turns: the contestants.
        rounds: most rounds that are measured.
        warm_up: rounds before, which are not.
        until: where ``time.perf_counter()`` stands when it should end. A round that would end later is left out; one
            round is measured all the same, without more to warm up.
        after_round: is told how many rounds have been measured.

    Returns:
        Seconds of each contestant in each measured round.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    longest, measured = 0.0, 0
    for number in range(warm_up + rounds):
        start = time.perf_counter()
        late = start + longest > until
        if late and measured:
            break
        seconds = {name: turns[name]() for name in list(turns)[:: -1 if number % 2 else 1]}
        if late or number >= warm_up:
            measured += 1
            longest = max(longest, time.perf_counter() - start)
            for name, value in seconds.items():
                times[name].append(value)
            after_round(measured)
    return times


def ratio(some: Sequence[float], base: Sequence[float]) -> Spread:
    """Return the ratios of ``some`` to ``base`` in the same round."""
    return Spread.of([a / b for a, b in zip(some, base, strict=True)])


def timed(work: Callable[[], object], times: int = 1) -> float:
    """Return the seconds of one ``work``, done so many ``times``, including what it left the device to do."""
    start = _clock()
    for _ in range(times):
        work()
    return (_clock() - start) / times


def _clock() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
