"""Contestants measured in turn, so that a change of the machine's speed meets all of them; medians and quartiles."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Turn = Callable[[], float]
"""One contestant's turn: does an agreed amount of work, and returns the seconds that it took."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of what was measured in each round."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of ``values``, at least one; of a single one all three are the same."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def text(self, form: str = ".2f") -> str:
        """As in ``1.90 (1.80 to 1.97)``; ``form`` formats each of the three numbers."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"


def interleave(
    turns: Mapping[str, Turn],
    rounds: int,
    *,
    warm_up: int = 1,
    until: float = math.inf,
    after_round: Callable[[int], None] | None = None,
) -> dict[str, list[float]]:
    """Let every contestant have its turn in every round, there and back again: A B C, C B A, A B C.

    Args:
        turns: the contestants.
        rounds: that are measured, at most.
        warm_up: rounds before, that are not.
        until: where ``time.perf_counter()`` stands when it should end. A round that would end later is left out; one
            round is measured all the same, without more to warm up.
        after_round: is told how many rounds have been measured.

    Returns:
        Seconds of each contestant in each measured round.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    longest = 0.0
    for number in range(warm_up + rounds):
        start = time.perf_counter()
        late, measured = start + longest > until, len(next(iter(times.values())))
        if late and measured:
            break
        if late and number < warm_up:
            warm_up = number
        for name in list(turns) if number % 2 == 0 else reversed(list(turns)):
            seconds = turns[name]()
            if number >= warm_up:
                times[name].append(seconds)
        longest = max(longest, time.perf_counter() - start) if number >= warm_up else 0.0
        if number >= warm_up and after_round is not None:
            after_round(measured + 1)
    return times


def say_rounds(what: str, rounds: int) -> Callable[[int], None]:
    """For ``after_round``: a line each on standard error."""
    return lambda number: print(f"{what}: round {number} of {rounds}", file=sys.stderr, flush=True)


def ratio(some: Sequence[float], base: Sequence[float]) -> Spread:
    """Of ``some`` to ``base`` in the same round."""
    return Spread.of([a / b for a, b in zip(some, base, strict=True)])


def per_second(count: float, seconds: Sequence[float]) -> Spread:
    """How many of ``count`` a second."""
    return Spread.of([count / s for s in seconds])


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that ``work`` takes, what it left the device to do included."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent p of y ~ x^p: least squares of log y over log x."""
    log_x, log_y = [math.log(v) for v in x], [math.log(v) for v in y]
    return statistics.linear_regression(log_x, log_y).slope
