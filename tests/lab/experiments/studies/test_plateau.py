"""Plateau of an accuracy over the rate, and what counts as a failed run."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvlars.lab.comparison.chance import failure_bound
from tvlars.lab.experiments.robustness.plateau import Plateau, plateau
from tvlars.lab.experiments.studies.runs import accuracies, mean, middle, resampled

RATES = [1.0, 2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize(
    ("accuracies", "low", "high", "open_ends"),
    [
        ([0.80, 0.90, 0.905, 0.90, 0.80], 2**0.95, 2**3.05, (False, False)),  # 0.1 falls in an octave, 0.005 beyond
        ([0.90, 0.90, 0.90, 0.90, 0.90], 1.0, 16.0, (True, True)),
        ([0.90, 0.80, 0.80, 0.80, 0.80], 1.0, 2**0.1, (True, False)),
        ([0.10, 0.10, 0.10, 0.10, 0.50], 2**3.975, 16.0, (False, True)),
        ([0.895, 0.80, 0.90, 0.80, 0.895], 2**1.9, 2**2.1, (False, False)),  # others that are as good lie apart
        ([0.90, 0.80, 0.90, 0.90, 0.80], 2**1.9, 2**3.1, (False, False)),  # the widest of equal bests
        ([math.nan, 0.90, math.nan, 0.90, 0.90], 8.0, 16.0, (False, True)),  # nothing is known beyond
    ],
)
def test_the_range_within_a_point_of_the_best(
    accuracies: list[float], low: float, high: float, open_ends: tuple[bool, bool]
) -> None:
    found = plateau(RATES, accuracies, 0.01)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.open_low, found.open_high) == open_ends
    assert found.octaves == pytest.approx(math.log2(high / low))


def test_a_rate_right_at_the_margin_is_within_it() -> None:
    assert plateau([1.0, 2.0, 4.0], [0.7, 0.8, 0.7], 0.1) == Plateau(1.0, 4.0, True, True)
    assert 0.8 - 0.1 > 0.7  # by rounding


def test_without_a_result_there_is_no_plateau() -> None:
    assert plateau(RATES, [math.nan] * 5, 0.01) is None
    assert plateau([], [], 0.01) is None
    assert plateau([3.0], [0.5], 0.01) == Plateau(3.0, 3.0, True, True)


shares = st.floats(0, 1, allow_nan=False)


@given(
    st.lists(shares, min_size=1, max_size=8),
    st.floats(0, 0.2),
    st.floats(0, 0.2),
    st.floats(0.01, 100),
    st.floats(0, 5),
)
def test_a_plateau_holds_its_best_grows_with_the_margin_and_does_not_depend_on_units(
    values: list[float], small: float, more: float, factor: float, shift: float
) -> None:
    rates = [2.0**i for i in range(len(values))]
    found = plateau(rates, values, small)
    wider = plateau(rates, values, small + more)
    scaled = plateau([factor * rate for rate in rates], [one + shift for one in values], small)
    assert found is not None
    assert wider is not None
    assert scaled is not None
    best = [rate for rate, one in zip(rates, values, strict=True) if one == max(values)]
    assert any(found.low <= rate * (1 + 1e-9) and rate <= found.high * (1 + 1e-9) for rate in best)
    assert rates[0] <= found.low * (1 + 1e-9)
    assert found.high <= rates[-1] * (1 + 1e-9)
    assert wider.octaves >= found.octaves - 1e-9
    mirrored = plateau(rates, values[::-1], small)
    assert mirrored is not None
    assert mirrored.octaves == pytest.approx(found.octaves, abs=1e-9)
    if small > 1e-6:  # rounding of the shift moves ends that are right at the margin
        assert scaled.octaves >= 0


@pytest.mark.parametrize(("classes", "bound"), [(2, 0.55), (10, 0.19), (100, 0.02), (1000, 0.002)])
def test_a_failed_run_is_not_above_twice_guessing_or_a_tenth_of_the_way(classes: int, bound: float) -> None:
    assert failure_bound(classes) == pytest.approx(bound)
    assert 1 / classes < failure_bound(classes) < 1


def test_a_run_that_diverged_counts_as_one_that_guesses() -> None:
    rows = pd.DataFrame(
        {
            "seed": [2, 0, 1],
            "status": ["failed", "finished", "diverged"],
            "accuracy": [math.nan, 0.8, math.nan],
        }
    )
    found = accuracies(rows, 0.1, (0, 1, 2, 3))
    assert found[:2].tolist() == [0.8, 0.1]
    assert np.isnan(found[2:]).all()
    assert mean(found) == pytest.approx(0.45)
    assert np.isnan(mean(np.array([math.nan, math.nan])))


def test_seeds_are_drawn_for_all_entries_alike() -> None:
    values = np.array([[0.1, 0.2, 0.9], [1.1, 1.2, 1.9]])
    drawn = resampled(values, 500)
    assert drawn.shape == (2, 500)
    assert np.allclose(drawn[1] - drawn[0], 1.0)  # paired
    assert drawn[0].mean() == pytest.approx(0.4, abs=0.03)
    assert drawn[0].std() == pytest.approx(np.std([0.1, 0.2, 0.9]) / math.sqrt(3), rel=0.1)
    assert np.array_equal(drawn, resampled(values, 500))


def test_the_middle_of_values_may_be_infinite() -> None:
    assert middle([*range(1000)]) == (25, 974)
    assert middle([1.0, math.nan, math.inf, 2.0]) == (1.0, math.inf)
    assert all(map(math.isnan, middle([math.nan])))
