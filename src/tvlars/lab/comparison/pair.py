"""Pair of arms over common seeds: difference, errors by seeds and by test images, and tests of the difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tvlars.lab.comparison.family import MARGIN
from tvlars.lab.comparison.paired import (
    LEVEL,
    POWER,
    effect_size,
    equivalence_p,
    fewest_seeds,
    seeds_needed,
    sign_flip_p,
    student,
)


def said_margin(margin: float, of_task: bool) -> str:
    """Return a margin of differences in words, as in "0.3 points"; for a user's task without a unit."""
    points = f"{100 * margin:g}"
    return f"{margin:g}" if of_task else f"{points} point{'s' * (points != '1')}"


@dataclass(frozen=True)
class Pair:
    """Two arms over the same seeds: paired differences of their values, and the error by test images."""

    differences: np.ndarray[Any, np.dtype[np.float64]]
    of_task: bool
    images: int | None
    """Number of test images, None if it is unknown."""
    error: ErrorOfImages | None
    """None for a user's task, or fewer than two images."""
    margin: float
    """Margin of equivalence in the unit of the differences; NaN for no test of equivalence."""

    @classmethod
    def of(cls, a: pd.DataFrame, b: pd.DataFrame, margin: float | None, of_task: bool) -> Pair:
        """Return two arms' runs over the same seeds as a pair, compared by the column ``value``.

        Args:
            a, b: runs, with the seed as index.
            margin: see :func:`tvlars.lab.comparison.statistics.differences`.
            of_task: True for the measure of a user's task.
        """
        images = None if of_task else test_images_of(pd.concat([a, b]))
        error = ErrorOfImages.of(a, b, images) if images is not None and images > 1 else None
        within = (math.nan if margin is None else margin) if of_task else (margin or MARGIN) / 100
        return cls((a["value"] - b["value"]).to_numpy(), of_task, images, error, within)

    @property
    def known(self) -> bool:
        """True if the error by test images is known, or does not exist."""
        return self.of_task or self.error is not None

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(self.differences.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds, NaN for one seed; 0 if differences are equal up to rounding."""
        found = float(self.differences.std(ddof=1)) if len(self.differences) > 1 else math.nan
        return 0.0 if found < 1e-12 * np.abs(self.differences).max() else found

    def _errors(self) -> list[tuple[float, int]]:
        """Return the standard error of the mean difference by seeds and by test images, with degrees of freedom."""
        count = len(self.differences)
        found = [(self.deviation / math.sqrt(count), count - 1)]
        return found if self.error is None or self.images is None else [*found, (self.error.now, self.images - 1)]

    def measured(self) -> dict[str, Any]:
        """Return the columns that are not results of tests."""
        return {
            "difference": abs(self.mean),
            "interval": float(np.max([student(self.mean, *error)[0] for error in self._errors()])),  # NaN if one is
            "seeds": len(self.differences),
            "deviation": self.deviation,
            "effect_size": abs(effect_size(self.differences)),
            "margin": self.margin,
        }

    def difference_p(self) -> float:
        """Return the larger p-value of no difference, by seeds and by test images; NaN if there is none."""
        if len(self.differences) < fewest_seeds() or not self.known:
            return math.nan
        return max([sign_flip_p(self.differences), *(student(self.mean, *error)[1] for error in self._errors()[1:])])

    def equivalence_p(self) -> float:
        """Return the larger p-value of no equivalence, by seeds and by test images; NaN if there is none."""
        if len(self.differences) < fewest_seeds() or not self.known or math.isnan(self.margin):
            return math.nan
        return max(equivalence_p(self.mean, *error, self.margin) for error in self._errors())

    def seeds_needed(self, comparisons: int) -> float:
        """Return the number of seeds that find a difference as large as the margin, by seeds and by test images."""
        if len(self.differences) < 3 or not self.known or math.isnan(self.margin):
            return math.nan
        needed = seeds_needed(self.margin, self.deviation, comparisons=comparisons)
        return needed if self.error is None else max(needed, self.error.seeds_needed(self.margin, comparisons))


def test_images_of(runs: pd.DataFrame) -> int | None:
    """Return the number of test images of all runs; None if it is unknown, or differs."""
    numbers = set(runs["test_images"].astype(float)) if "test_images" in runs else set()
    if len(numbers) != 1 or not math.isfinite(number := numbers.pop()) or number < 1:
        return None
    return int(number)


@dataclass(frozen=True)
class ErrorOfImages:
    """Standard error of two arms' difference in mean accuracy that the choice of test images causes.

    If predictions are known, its square falls with the seeds n as (lasting + noise / n) / images²: seeds differ in the
    images that they classify correctly, and the mean over seeds varies less.
    """

    now: float
    """Standard error over the seeds of the runs."""
    images: int
    lasting: float
    noise: float = 0.0

    @classmethod
    def of(cls, a: pd.DataFrame, b: pd.DataFrame, images: int) -> ErrorOfImages:
        right_a, right_b = _predictions(a, images), _predictions(b, images)
        if right_a is not None and right_b is not None:
            # If arms are equally good, each image's difference is as likely to have one sign as the other (McNemar).
            by_seed = right_a - right_b
            by_image = by_seed.mean(axis=0)
            noise = float(by_seed.var(axis=0, ddof=1).sum()) if len(by_seed) > 1 else 0.0
            now = math.sqrt(max(float(np.square(by_image).sum()), 1.0)) / images  # one image at least
            # the mean is ignored, since a difference as small as a margin adds little to it
            lasting = images * float(by_image.var()) - noise / len(by_seed)
            return cls(now, images, max(lasting, 0.0), noise)
        variance = 0.0  # assumes that all seeds fail on the same images
        for arm in (a, b):
            rate = (float(arm["value"].mean()) * images + 1) / (images + 2)  # + 1 keeps the variance above 0
            variance += rate * (1 - rate) / (images + 2)
        return cls(math.sqrt(variance), images, variance * images**2)

    def seeds_needed(self, difference: float, comparisons: int) -> float:
        """Return the number of seeds from which the t-test over images finds a difference with ``POWER``."""
        from scipy import stats

        largest = difference * self.images / (stats.norm.isf(LEVEL / comparisons / 2) + stats.norm.ppf(POWER))
        room = float(largest) ** 2 - self.lasting
        if largest < 1 or room <= 0:
            return math.inf
        return math.ceil(self.noise / room)


def _predictions(arm: pd.DataFrame, images: int) -> Any:
    """Return an array (runs, images), True where a run of an arm is right; None if a run lacks predictions."""
    kept = [one for one in arm.get("correct", []) if isinstance(one, np.ndarray) and one.shape == (images,)]
    return np.asarray(kept, dtype=float) if kept and len(kept) == len(arm) else None
