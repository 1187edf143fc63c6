"""Intervals and paired tests against scipy's exact binomial test, closed forms, and enumeration."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial

from robustbench_lite.results.statistics import (
    claimed_minus_actual,
    clopper_pearson,
    holm,
    mcnemar,
    mcnemar_exact,
    share_at_least,
    share_at_most,
    wilson,
)

COUNTS = [(0, 1), (1, 1), (0, 100), (1, 100), (34, 100), (99, 100), (100, 100), (441, 450), (5_000, 10_000)]


@pytest.mark.parametrize("k, n", COUNTS)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_clopper_pearson_and_wilson_are_those_of_scipy(k, n, confidence):
    test = binomtest(k, n)
    exact, score = test.proportion_ci(confidence, "exact"), test.proportion_ci(confidence, "wilson")
    assert clopper_pearson(k, n, confidence) == pytest.approx((exact.low, exact.high), rel=1e-9, abs=1e-12)
    assert wilson(k, n, confidence) == pytest.approx((score.low, score.high), rel=1e-9, abs=1e-12)


def test_the_ends_have_their_closed_form():
    assert clopper_pearson(0, 100) == pytest.approx((0, 1 - 0.025 ** (1 / 100)))  # 3.62 %
    assert clopper_pearson(100, 100) == pytest.approx((0.025 ** (1 / 100), 1))
    assert share_at_least(10, 10) == pytest.approx(0.05 ** (1 / 10))
    assert share_at_most(0, 10) == pytest.approx(1 - 0.05 ** (1 / 10))


def test_without_images_nothing_is_known():
    assert clopper_pearson(0, 0) == wilson(0, 0) == (0, 1)


@pytest.mark.parametrize("k, n, confidence", [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 0), (1, 5, 1)])
def test_what_is_no_share_is_refused(k, n, confidence):
    for interval in (clopper_pearson, wilson, share_at_least, share_at_most):
        with pytest.raises(ValueError, match=r"share|confidence"):
            interval(k, n, confidence)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_contains_its_estimate(share):
    k, n = share
    for low, high in (clopper_pearson(k, n), wilson(k, n)):
        assert 0 <= low <= k / n + 1e-12
        assert k / n - 1e-12 <= high <= 1


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs(b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_mcnemar_by_hand():
    assert mcnemar_exact(0, 5) == 2 / 2**5
    assert mcnemar_exact(1, 5) == pytest.approx(2 * (1 + 6) / 2**6)
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 2)


def test_mcnemar_counts_pairs_of_arrays():
    pair = mcnemar([1, 1, 1, 0, 0, 1], [1, 0, 0, 1, 0, 0])
    assert (pair.n, pair.only_first, pair.only_second) == (6, 3, 1)
    assert pair.difference == pytest.approx(2 / 6)
    assert pair.p == mcnemar_exact(3, 1)
    with pytest.raises(ValueError, match="one shape"):
        mcnemar([True], [True, False])


def test_claimed_minus_actual_bounds_the_difference_from_below():
    claimed, actual = np.ones(100, bool), np.arange(100) >= 40
    difference, low = claimed_minus_actual(claimed, actual)
    assert difference == pytest.approx(0.4)
    assert low == pytest.approx(share_at_least(40, 100, 0.975) - share_at_most(0, 100, 0.975))
    assert 0 < low < difference
    assert claimed_minus_actual([], [])[1] == -1


@pytest.mark.parametrize("gone, won", [(0.0, 0.0), (0.05, 0.0), (0.3, 0.1), (0.2, 0.2), (0.05, 0.6), (0.9, 0.1)])
def test_the_bound_holds_as_often_as_it_says(gone, won):
    n, confidence = 12, 0.9
    missed = 0.0
    for b, c in product(range(n + 1), repeat=2):
        if b + c <= n:
            kinds = np.array([0] * b + [1] * c + [2] * (n - b - c))
            _, low = claimed_minus_actual(kinds != 1, kinds != 0, confidence)
            if low > gone - won + 1e-12:
                missed += multinomial.pmf([b, c, n - b - c], n, [gone, won, 1 - gone - won])
    assert missed <= 1 - confidence


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


def test_holm_does_not_count_what_was_not_tested():
    adjusted = holm([0.01, math.nan, 0.02])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(0.02)
