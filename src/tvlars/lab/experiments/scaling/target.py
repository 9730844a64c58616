"""Steps to a target, and the critical batch size computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FEWEST_SIZES = 3
"""Fewest batch sizes for the fit of two numbers."""
BEYOND = 10
"""Octaves below the smallest and above the largest batch size in which the critical batch size is searched."""


@dataclass(frozen=True)
class Reached:
    """Optimizer steps at which the target is reached; infinite if it is not reached.

    ``at_most`` is True if the shortest horizon reaches the target, so that fewer steps may suffice. ``horizon`` is the
    index of the shortest horizon that reaches the target, None if none does.
    """

    steps: float
    at_most: bool = False
    horizon: int | None = None


def steps_to_target(horizons: Sequence[float], accuracies: Sequence[float], target: float) -> Reached:
    """Return the steps of the shortest run that reaches ``target``.

    The shortest horizon with an accuracy of at least ``target`` is refined by interpolation, linear in log(steps),
    between this horizon and the next shorter one. Each horizon is a separate run with its own schedule.

    Args:
        horizons: steps of the runs, in ascending order.
        accuracies: accuracies at the end of the runs; NaN counts as not reached.
        target: accuracy to reach.
    """
    for i, value in enumerate(accuracies):
        if not value >= target:
            continue
        before = accuracies[i - 1] if i else math.nan
        if not math.isfinite(before):
            return Reached(float(horizons[i]), True, i)
        share = (target - before) / (value - before)
        return Reached(horizons[i - 1] * (horizons[i] / horizons[i - 1]) ** share, False, i)
    return Reached(math.inf)


@dataclass(frozen=True)
class Fit:
    """Fit of steps(B) = ``least`` (1 + ``critical`` / B): fewest steps S_min, and the critical batch size B_crit.

    ``beyond`` is "below" or "above" if the best fit is at that end of the searched range of B_crit: the steps do not
    fall with the batch size at all, or fall in proportion to it; else "".
    """

    least: float
    critical: float
    beyond: str = ""

    def steps(self, batch_size: float) -> float:
        """Return the steps at a batch size."""
        return self.least * (1 + self.critical / batch_size)


def fit_critical(batch_sizes: Sequence[float], steps: Sequence[float]) -> Fit:
    """Fit steps(B) = S_min (1 + B_crit / B) by least squares of log(steps) (McCandlish et al. 2018, eq. 2.7).

    Given B_crit, the best log(S_min) is a mean, so that only B_crit is searched: on a grid, then between its points.

    Args:
        batch_sizes: at least two different batch sizes.
        steps: steps to the target at each batch size.
    """
    from scipy.optimize import minimize_scalar

    sizes, logs = np.asarray(batch_sizes, dtype=float), np.log(np.asarray(steps, dtype=float))
    low, high = math.log2(sizes.min()) - BEYOND, math.log2(sizes.max()) + BEYOND

    def rest(octave: Any) -> Any:
        left = logs - np.log1p(np.exp2(np.asarray(octave)[..., None]) / sizes)
        return left.var(-1)

    grid = np.linspace(low, high, 10 * math.ceil(high - low) + 1)
    at = int(rest(grid).argmin())
    ends = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    octave = float(minimize_scalar(rest, bounds=ends, method="bounded", options={"xatol": 1e-9}).x)
    beyond = "below" if at == 0 else "above" if at == len(grid) - 1 else ""
    critical = 2.0**octave
    return Fit(float(np.exp((logs - np.log1p(critical / sizes)).mean())), critical, beyond)
