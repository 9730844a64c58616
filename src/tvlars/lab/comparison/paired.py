"""Tests of paired differences: exact p-values, equivalence, effect size, and the number of seeds that a test needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.05
"""Family-wise error rate of all declared comparisons of a page."""
POWER = 0.8
"""Probability with which :func:`seeds_needed` seeds find a difference."""
MOST_EXACT = 16
"""Largest number of seeds for which all sign patterns are enumerated."""
FEWEST_OF_INTERVAL = 3
"""Fewest values whose mean has an interval; an interval of two values is so wide that it looks like a fault."""
DRAWN = 99_999
"""Number of random sign patterns for more seeds."""


def sign_flip_p(differences: ArrayLike) -> float:
    """Return the two-sided p-value of the paired permutation test that the mean of n differences is 0.

    If two arms are equally good, both signs of each difference are equally likely. p is the share of the 2ⁿ sign
    patterns for which the mean is at least as far from 0 as the observed mean, so at least 2 / 2ⁿ. For more than 16
    differences, 99,999 patterns are drawn with a fixed seed, and the observed pattern is added.

    Source: Fisher, "The Design of Experiments", 1935; ``scipy.stats.permutation_test`` with samples permuted.
    """
    values = np.asarray(differences, dtype=float)
    count, signs = len(values), _signs(len(values))
    tolerance = 1e-9 * float(np.abs(values).sum())  # accepts sums that are equal up to rounding
    reached = int((np.abs(signs @ values) >= abs(float(values.sum())) - tolerance).sum())
    return reached / len(signs) if count <= MOST_EXACT else (reached + 1) / (DRAWN + 1)


@lru_cache(maxsize=2)  # pairs of a page have equally many seeds; 16 MB for 20
def _signs(count: int) -> np.ndarray[Any, np.dtype[np.floating[Any]]]:
    """Return sign patterns (patterns, count): one of each two opposite patterns (equal distance from 0), or random."""
    if count > MOST_EXACT:
        return np.random.default_rng(0).choice([-1.0, 1.0], size=(DRAWN, count))
    half = np.arange(2 ** max(count - 1, 0))
    return 1.0 - 2.0 * ((half[:, None] >> np.arange(count)) & 1)


def student(mean: float, error: float, degrees: int) -> tuple[float, float]:
    """Return half width of the 95 % interval of a mean, and the p-value of a true mean of 0, by Student's t.

    The half width is NaN for fewer than ``FEWEST_OF_INTERVAL`` values.
    """
    from scipy import stats

    p = 1.0 if abs(mean) < 1e-12 else float(2 * stats.t.sf(abs(mean) / error, degrees)) if error > 0 else 0.0
    return (float(stats.t.ppf(0.975, degrees) * error) if degrees > FEWEST_OF_INTERVAL - 2 else math.nan), p


def equivalence_p(mean: float, error: float, degrees: int, margin: float) -> float:
    """Return the p-value of the two one-sided t-tests that a true mean is not within ± ``margin``.

    Args:
        mean, error, degrees: observed mean, its standard error, and the error's degrees of freedom.
        margin: > 0, in the unit of the mean.

    Source: Schuirmann, "A comparison of the two one-sided tests procedure and the power approach", 1987.
    """
    from scipy import stats

    room = margin - abs(mean)
    return float(stats.t.sf(room / error, degrees)) if error > 0 else float(room <= 0)


def effect_size(differences: ArrayLike) -> float:
    """Return Hedges' g_z of n paired differences: mean over standard deviation, corrected for few seeds.

    g_z = J(n - 1) · mean / deviation, with J(m) = Γ(m/2) / (√(m/2) Γ((m - 1)/2)), which makes Cohen's d_z unbiased. NaN
    for fewer than three differences, or if all are equal.

    Source: Hedges, "Distribution theory for Glass's estimator of effect size and related estimators", 1981.
    """
    values = np.asarray(differences, dtype=float)
    degrees = len(values) - 1
    deviation = float(values.std(ddof=1)) if degrees > 1 else 0.0
    if deviation <= 1e-12 * float(np.abs(values).max(initial=0.0)):
        return math.nan
    logarithm = math.lgamma(degrees / 2) - math.lgamma((degrees - 1) / 2) - math.log(degrees / 2) / 2
    return math.exp(logarithm) * float(values.mean()) / deviation


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for the family-wise error rate; NaN counts as a comparison and stays NaN.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    values = np.asarray(p_values, dtype=float)
    ascending = np.argsort(values)  # NaN last
    adjusted = np.empty(len(values))
    adjusted[ascending] = np.maximum.accumulate(np.minimum(values[ascending] * np.arange(len(values), 0, -1), 1.0))
    return [float(p) for p in adjusted]


def fewest_seeds(comparisons: int = 1, level: float = LEVEL) -> int:
    """Return the number of seeds from which the exact test can reach ``level`` in a family of ``comparisons``.

    The least p-value is 2 / 2ⁿ, and Holm's method multiplies the least of a family by its size: 6 seeds for one
    comparison at 5 %, 7 for three.
    """
    return max(1 + math.ceil(math.log2(max(comparisons, 1) / level) - 1e-9), 2)


def seeds_needed(
    difference: float, deviation: float, *, comparisons: int = 1, level: float = LEVEL, power: float = POWER
) -> int:
    """Return the number of seeds at which the paired test finds a true ``difference`` with probability ``power``.

    The power is of the paired t-test, by the noncentral t distribution, at the level that the exact test attains:
    the largest multiple of 2 / 2ⁿ up to ``level / comparisons``, Holm's level for the smallest p-value. If
    that is 2 / 2ⁿ itself, the power is the probability that all differences have one sign. The number is at least
    :func:`fewest_seeds`. It ignores the error by test images.

    Args:
        difference: true difference between two arms, not 0.
        deviation: standard deviation of the paired differences over seeds, in the same unit.
        comparisons: number of comparisons in the family.
        level: family-wise error rate.
        power: probability that the difference is found.

    Raises:
        ValueError: an argument is out of its range.
    """
    from scipy import stats

    if not (difference and math.isfinite(difference)):
        raise ValueError(f"difference must be a finite number other than 0, got {difference}")
    if not (deviation >= 0 and math.isfinite(deviation)):
        raise ValueError(f"deviation must be a finite number >= 0, got {deviation}")
    if comparisons < 1:
        raise ValueError(f"comparisons must be >= 1, got {comparisons}")
    for name, value in (("level", level), ("power", power)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be in (0, 1), got {value}")
    fewest, effect = fewest_seeds(comparisons, level), abs(difference) / deviation if deviation else math.inf
    if effect > 10:  # the fewest seeds suffice; for larger effects the noncentral t fails
        return fewest
    normal = (stats.norm.isf(level / comparisons / 2) + stats.norm.ppf(power)) / effect  # √n of a known deviation
    start = max(fewest, math.floor(max(normal, 0.0) ** 2))
    seeds = np.arange(start, start + 100)  # Student's t needs a few more seeds
    steps = np.exp2(np.minimum(seeds - 1.0, 50.0))
    patterns = np.floor(level / comparisons * steps)
    beyond, shift = stats.t.isf(patterns / steps / 2, seeds - 1), effect * np.sqrt(seeds)
    found = stats.norm.cdf(shift - beyond) if start > 1000 else stats.nct.sf(beyond, seeds - 1, shift)
    found = np.where(patterns == 1, stats.norm.cdf(effect) ** seeds, found)  # all seeds have one sign
    return int(seeds[int(np.argmax(found >= power))])
