"""Steps to a target, and the fit of the critical batch size, on tables with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from tvlars.lab.experiments.scaling.target import Reached, fit_critical, steps_to_target

HORIZONS = [10, 20, 40, 80]


@pytest.mark.parametrize(
    ("accuracies", "steps", "at_most", "horizon"),
    [
        ([0.5, 0.7, 0.9, 0.95], 20 * 2**0.5, False, 2),
        ([0.5, 0.8, 0.9, 0.95], 20.0, False, 1),
        ([0.8, 0.7, 0.9, 0.95], 10.0, True, 0),
        ([0.5, 0.7, 0.78, 0.79], math.inf, False, None),
        ([0.5, 0.9, 0.6, 0.9], 10 * 2**0.75, False, 1),  # the shortest, whatever longer ones do
        ([math.nan, 0.9, 0.9, 0.9], 20.0, True, 1),  # nothing is known of a shorter one
        ([0.5, math.nan, 0.9, 0.9], 40.0, True, 2),
        ([math.nan] * 4, math.inf, False, None),
    ],
)
def test_the_shortest_run_that_reaches_the_target(
    accuracies: list[float], steps: float, at_most: bool, horizon: int | None
) -> None:
    found = steps_to_target(HORIZONS, accuracies, 0.8)
    assert found == Reached(pytest.approx(steps), at_most, horizon)


shares = st.floats(0, 1, allow_nan=False)


@given(st.lists(shares, min_size=1, max_size=6), shares, shares)
def test_a_higher_target_takes_no_fewer_steps(values: list[float], one: float, other: float) -> None:
    horizons = [3 * 2**i for i in range(len(values))]
    low, high = (steps_to_target(horizons, values, target) for target in sorted((one, other)))
    assert low.steps <= high.steps * (1 + 1e-9)
    if low.horizon is not None:
        before = horizons[max(low.horizon - 1, 0)]
        assert before <= low.steps * (1 + 1e-9)
        assert low.steps <= horizons[low.horizon] * (1 + 1e-9)


@given(st.floats(1, 1e6), st.floats(0.01, 100), st.integers(3, 8))
def test_exact_tables_have_their_own_critical_batch_size(least: float, ratio: float, count: int) -> None:
    sizes = [64 * 2**i for i in range(count)]
    critical = ratio * sizes[count // 2]
    found = fit_critical(sizes, [least * (1 + critical / size) for size in sizes])
    assert found.critical == pytest.approx(critical, rel=1e-3)
    assert found.least == pytest.approx(least, rel=1e-3)
    assert found.beyond == ""
    assert found.steps(sizes[0]) == pytest.approx(least * (1 + critical / sizes[0]), rel=1e-4)


def test_noisy_tables_have_the_fit_of_least_squares() -> None:
    """As scipy's own solver finds it, for both numbers together."""
    rng = np.random.default_rng(0)
    sizes = np.array([64.0, 128, 256, 512, 1024, 2048])
    for critical in (50.0, 400.0, 3000.0):
        steps = 100 * (1 + critical / sizes) * np.exp(0.1 * rng.standard_normal(len(sizes)))
        found = fit_critical(sizes.tolist(), steps.tolist())

        def logs(size: np.ndarray, a: float, b: float) -> np.ndarray:
            return a + np.log1p(np.exp(b) / size)

        (a, b), _ = curve_fit(logs, sizes, np.log(steps), p0=(math.log(100), math.log(critical)))
        assert found.least == pytest.approx(math.exp(a), rel=1e-3)
        assert found.critical == pytest.approx(math.exp(b), rel=1e-3)


def test_steps_in_proportion_and_steps_that_stay_have_no_critical_batch_size() -> None:
    sizes = [64, 128, 256]
    assert fit_critical(sizes, [400, 200, 100]).beyond == "above"
    assert fit_critical(sizes, [400, 190, 90]).beyond == "above"
    assert fit_critical(sizes, [100, 100, 100]).beyond == "below"
    assert fit_critical(sizes, [100, 110, 120]).beyond == "below"
