"""Contestants measured in turn, and results: medians, quartiles and ratios, as JSON and as a table."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby

import numpy as np
import torch

from tvlars._machine import Machine
from tvlars._notebook import page, pre
from tvlars.lab.files.marked import mark

Turn = Callable[[], float]  # does an agreed amount of work, and returns the seconds that it took
Times = dict[str, list[float]]  # seconds of each contestant in each round


def interleave(turns: Mapping[str, Turn], rounds: int = 15, warm_up: int = 1, until: float = math.inf) -> Times:
    """Measure all contestants in each of at most ``rounds`` rounds, in changing order: A B C, C B A, A B C.

    So a change of the machine's speed affects all contestants. The first ``warm_up`` rounds are not measured. A round
    that would end after ``until``, a time of ``time.perf_counter()``, is left out, but at least one round is measured.
    """
    measured: list[dict[str, float]] = []
    longest = 0.0
    for number in range(warm_up + rounds):
        start = time.perf_counter()
        late = start + longest > until
        if late and measured:
            break
        seconds = {name: turns[name]() for name in list(turns)[:: -1 if number % 2 else 1]}
        if late or number >= warm_up:
            measured.append(seconds)
            longest = max(longest, time.perf_counter() - start)
    return {name: [seconds[name] for seconds in measured] for name in turns}


def timed(work: Callable[[], object], times: int = 1) -> float:
    """Return the mean seconds of ``work`` over ``times`` calls, until the device has finished the work."""
    wait: Callable[[], object] = torch.accelerator.synchronize if torch.accelerator.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait()
    return (time.perf_counter() - start) / times


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one number per round."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of ``values``, which must not be empty."""
        return cls(*np.quantile(values, (0.5, 0.25, 0.75)).tolist())

    def text(self, form: str = ".2f") -> str:
        """Return text such as ``1.90 (1.80 to 1.97)``; ``form`` formats each of the three numbers."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"


def ratio(some: Sequence[float], base: Sequence[float]) -> Spread:
    """Return the spread of the ratios of ``some`` to ``base`` in the same rounds."""
    return Spread.of([a / b for a, b in zip(some, base, strict=True)])


@dataclass(frozen=True)
class Row:
    """One contestant compared with another: its own ``value``, and its ``ratio`` to the other's in the same round."""

    part: str
    what: str
    beside: str
    unit: str
    value: Spread
    ratio: Spread
    rounds: int

    def __str__(self) -> str:
        form, words = (",.2f", "as long") if self.unit == "ms" else (",.0f", "as fast")
        value = f"{self.value.median:{form}} {self.unit}"
        return f"{self.what:32} {value:>16}   {self.ratio.text()} x {words} as {self.beside}"


def row_of(part: str, what: str, beside: str, times: Times, images: int = 0) -> Row:
    """Return a row in milliseconds per step or, if each time is for a number of ``images``, in images per second."""
    own, other = times[what], times[beside]
    if images:
        return Row(part, what, beside, "images/s", Spread.of([images / s for s in own]), ratio(other, own), len(own))
    return Row(part, what, beside, "ms", Spread.of([1e3 * s for s in own]), ratio(own, other), len(own))


@dataclass
class BenchResult:
    """All rows, and notes on what could not be measured."""

    machine: Machine
    version: str
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return the result as text in JSON."""
        return json.dumps({"made_by": mark("bench"), **asdict(self)}, indent=1) + "\n"

    def __str__(self) -> str:
        head = f"{self.machine}\ntvlars {self.version}: medians (quartiles); random images of 32 x 32"
        parts = ["\n  ".join([f"\n{part}", *map(str, rows)]) for part, rows in groupby(self.rows, lambda row: row.part)]
        return "\n".join([head, *parts, "", *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        return page(pre(self))
