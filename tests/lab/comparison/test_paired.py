"""Tests of paired differences, against enumerations, SciPy, formulas by hand, and simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tvlars.lab.comparison.paired import effect_size, equivalence_p, fewest_seeds, holm, seeds_needed, sign_flip_p

FEW = st.lists(st.integers(-50, 50).map(lambda n: n / 1000), min_size=1, max_size=9)
"""Differences of accuracies on 1,000 images: many sums tie."""


# -- exact p ----------------------------------------------------------------------------------------------------------


def enumerated(differences: list[float]) -> float:
    """Share of sign patterns with a sum as far from 0, over exact numbers: thousandths."""
    whole = [round(1000 * one) for one in differences]
    sums = [abs(sum(s * one for s, one in zip(signs, whole, strict=True))) for signs in _patterns(len(whole))]
    return sum(one >= abs(sum(whole)) for one in sums) / len(sums)


def _patterns(count: int) -> itertools.product[tuple[int, ...]]:
    return itertools.product((1, -1), repeat=count)


def test_by_hand() -> None:
    """Of the 8 patterns of 1, 2, 3 two have a sum of 6 on either side, and four one of 4 or more."""
    assert sign_flip_p([1, 2, 3]) == 2 / 8
    assert sign_flip_p([-1, 2, 3]) == 4 / 8
    assert sign_flip_p([1, 1, -1, 1]) == 10 / 16
    assert sign_flip_p([0.1, 0.2, -0.3]) == 1.0
    assert sign_flip_p([0.0] * 6) == 1.0
    assert sign_flip_p([0.01] * 6) == 2 / 64


@given(FEW)
def test_all_sign_patterns_are_counted(differences: list[float]) -> None:
    assert sign_flip_p(differences) == enumerated(differences)


@pytest.mark.parametrize("count", [6, 9, 16])
def test_it_is_scipys_permutation_test(count: int) -> None:
    differences = np.random.default_rng(count).normal(0.3, 0.5, count)
    if count == 16:  # SciPy takes half a second for it; pairs of equal values are alike
        assert sign_flip_p(np.repeat(differences[:1], 16)) == 2.0**-15
        return
    theirs = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=2**count)
    assert sign_flip_p(differences) == theirs.pvalue


def test_beyond_sixteen_patterns_are_drawn_with_a_fixed_seed() -> None:
    differences = np.random.default_rng(1).normal(0.25, 0.5, 20)
    p = sign_flip_p(differences)
    assert p == sign_flip_p(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    whole = np.round(differences * 1000).astype(int)
    ways = {0: 1}  # number of patterns by sum
    for one in whole.tolist():
        found: dict[int, int] = {}
        for total, count in ways.items():
            for sign in (one, -one):
                found[total + sign] = found.get(total + sign, 0) + count
        ways = found
    exact = sum(count for total, count in ways.items() if abs(total) >= abs(int(whole.sum()))) / 2**20
    assert sign_flip_p(whole) == pytest.approx(exact, abs=4 * math.sqrt(exact / 1e5))
    assert sign_flip_p([1.0] * 40) == 1 / 100_000


@given(FEW, st.randoms(use_true_random=False), st.sampled_from([1.0, 0.01, 3.7]))
def test_order_sign_and_scale_play_no_part(differences: list[float], random: object, scale: float) -> None:
    shuffled = differences.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sign_flip_p(shuffled) == sign_flip_p([-one for one in differences]) == sign_flip_p(differences)
    assert sign_flip_p([scale * one for one in differences]) == sign_flip_p(differences)


def test_false_alarms_are_as_many_as_allowed() -> None:
    """Whatever the distribution, if it is symmetric: here one with heavy tails."""
    draws = np.random.default_rng(0).standard_t(2, size=(2000, 8))
    alarms = np.mean([sign_flip_p(one) <= 0.05 for one in draws])
    assert 0.03 < alarms < 0.06  # the level attained is 12/256


# -- equivalence, effect size, Holm -----------------------------------------------------------------------------------


def test_equivalence_is_two_one_sided_t_tests() -> None:
    values = np.random.default_rng(0).normal(0.001, 0.002, 9)
    mean, error = float(values.mean()), float(values.std(ddof=1) / 3)
    for margin in (0.0005, 0.003, 0.01):
        below = stats.ttest_1samp(values, margin, alternative="less").pvalue
        above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        assert equivalence_p(mean, error, 8, margin) == pytest.approx(max(below, above), rel=1e-9)
    assert equivalence_p(0.001, 0.0, 8, 0.003) == 0.0
    assert equivalence_p(-0.004, 0.0, 8, 0.003) == 1.0
    assert equivalence_p(0.003, 0.001, 8, 0.003) == pytest.approx(0.5)


def test_a_difference_of_the_margin_is_rarely_called_equivalent() -> None:
    draws = np.random.default_rng(0).normal(0.3, 0.2, size=(2000, 6))
    called = np.mean([equivalence_p(one.mean(), one.std(ddof=1) / math.sqrt(6), 5, 0.3) <= 0.05 for one in draws])
    assert 0.035 < called < 0.065


def test_the_effect_size_is_hedges() -> None:
    values = [0.2, 0.4, 0.9, 0.1]
    exact = math.gamma(1.5) / (math.sqrt(1.5) * math.gamma(1.0))
    assert effect_size(values) == pytest.approx(exact * 0.4 / np.std(values, ddof=1))
    assert exact == pytest.approx(1 - 3 / (4 * 3 - 1), abs=0.005)  # the usual approximation
    many = np.random.default_rng(0).normal(0.5, 1.0, 10_000)
    assert effect_size(many) == pytest.approx(many.mean() / many.std(ddof=1), rel=1e-3)
    assert effect_size([-one for one in values]) == -effect_size(values)
    for none in ([0.1, 0.2], [0.3, 0.3, 0.3], [0.0] * 5, []):
        assert math.isnan(effect_size(none))


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=8))
def test_holm_rejects_what_its_steps_reject(p_values: list[float]) -> None:
    rejected = set()
    for step, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] * (len(p_values) - step) > 0.05:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(p_values)) if p <= 0.05} == rejected


# -- seeds that are needed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deviation", "difference", "seeds"),
    [(0.41, 0.5, 8), (0.41, 0.3, 17), (0.45, 0.5, 9), (0.45, 0.3, 20), (0.41, 5.0, 6), (0.0, 0.3, 6)],
)
def test_seeds_for_a_power_of_80_percent(deviation: float, difference: float, seeds: int) -> None:
    assert seeds_needed(difference, deviation) == seeds
    assert seeds_needed(-difference * 7, deviation * 7) == seeds


def test_the_power_is_that_of_the_exact_test() -> None:
    """Simulated: 400 experiments of so many seeds find the difference in 80 %, and with two seeds fewer in less."""
    generator = np.random.default_rng(0)
    for difference, comparisons in ((0.5, 1), (0.6, 6)):
        needed = seeds_needed(difference, 0.41, comparisons=comparisons)
        found = []
        for seeds in (needed, needed - 2):
            draws = generator.normal(difference, 0.41, size=(400, seeds))
            found.append(np.mean([sign_flip_p(one) <= 0.05 / comparisons for one in draws]))
        assert found[0] > 0.75
        assert found[1] < 0.77


def test_a_power_calculation_by_hand() -> None:
    """For 0.3 at a deviation of 0.41, 16 seeds have less than 80 % by the noncentral t distribution, and 17 more."""
    for seeds, enough in ((16, False), (17, True)):
        beyond = stats.t.isf(0.025, seeds - 1)
        power = stats.nct.sf(beyond, seeds - 1, 0.3 / 0.41 * math.sqrt(seeds))
        assert (power >= 0.8) == enough


@settings(max_examples=30)
@given(st.floats(0.05, 3.0), st.floats(0.05, 3.0), st.integers(1, 40))
def test_more_is_needed_for_less(difference: float, deviation: float, comparisons: int) -> None:
    here = seeds_needed(difference, deviation, comparisons=comparisons)
    assert here >= fewest_seeds(comparisons)
    assert seeds_needed(difference / 2, deviation, comparisons=comparisons) >= here
    assert seeds_needed(difference, deviation, comparisons=comparisons + 3) >= here
    assert seeds_needed(difference, deviation, comparisons=comparisons, power=0.9) >= here


def test_many_seeds() -> None:
    """Far out the number is that of a normal distribution: (1.96 + 0.84)² of the ratio squared."""
    assert seeds_needed(0.001, 1.0) == pytest.approx(7.849e6, rel=1e-3)
    assert seeds_needed(0.03, 1.0) == pytest.approx(8721 + 2, abs=3)
    assert seeds_needed(0.1, 1.0) == pytest.approx(785 + 2, abs=1)


@pytest.mark.parametrize(("comparisons", "seeds"), [(1, 6), (2, 8), (6, 9), (15, 11)])
def test_the_fewest_seeds_find_what_all_of_them_show(comparisons: int, seeds: int) -> None:
    """If 2 / 2ⁿ alone is significant, all differences must have one sign: with a probability of Φ(1.8)ⁿ, which is more
    than 80 % for 6 seeds, and less for 7 or more."""
    assert seeds_needed(1.8, 1.0, comparisons=comparisons) == seeds
    assert stats.norm.cdf(1.8) ** 6 > 0.8 > stats.norm.cdf(1.8) ** 7


def test_the_fewest_seeds() -> None:
    assert [fewest_seeds(count) for count in (1, 2, 3, 6, 12)] == [6, 7, 7, 8, 9]
    for count in range(1, 40):
        fewest = fewest_seeds(count)
        assert count * 2.0 ** (1 - fewest) <= 0.05 < count * 2.0 ** (2 - fewest)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"difference": 0.0}, "difference must be a finite number other than 0"),
        ({"deviation": -1.0}, "deviation must be a finite number >= 0"),
        ({"deviation": math.nan}, "deviation must be"),
        ({"comparisons": 0}, "comparisons must be >= 1"),
        ({"power": 1.0}, r"power must be in \(0, 1\), got 1.0"),
        ({"level": 0.0}, r"level must be in \(0, 1\)"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        seeds_needed(**{"difference": 0.3, "deviation": 0.4, **arguments})  # type: ignore[arg-type]
