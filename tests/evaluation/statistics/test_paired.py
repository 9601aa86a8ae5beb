"""Paired comparisons where the answer is known: by hand or from a slow formula."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from evaluation.statistics import paired as statistics
from evaluation.statistics.paired import detectable_standard_errors, holm, over_seeds, paired, rank_biserial, single


def slow_rank_biserial(differences: list[float]) -> float:
    """Kerby 2014: the rank sum in favour minus the rank sum against, over both; ties share their mean rank."""
    moved = [d for d in differences if d != 0]
    favour = against = 0.0
    for d in moved:
        smaller = sum(abs(e) < abs(d) for e in moved)
        equal = sum(abs(e) == abs(d) for e in moved)
        rank = smaller + (equal + 1) / 2
        favour += rank * (d > 0)
        against += rank * (d < 0)
    return (favour - against) / (favour + against) if moved else 0.0


# Paired differences


def test_paired_reports_means_and_sizes():
    a, b = np.array([3.0, 5.0, 4.0, 8.0]), np.array([1.0, 4.0, 5.0, 4.0])
    result = paired(a, b)
    assert (result.n, result.mean_a, result.mean_b, result.difference) == (4, 5.0, 3.5, 1.5)
    assert result.standard_error == pytest.approx(np.std([2, 1, -1, 4], ddof=1) / 2)
    assert result.low <= result.difference <= result.high


def test_paired_swaps_sign_with_its_arguments():
    random = np.random.default_rng(3)
    a, b = random.normal(0.3, 1, 40), random.normal(0, 1, 40)
    one, other = paired(a, b), paired(b, a)
    assert other.difference == -one.difference and other.effect == pytest.approx(-one.effect)
    assert other.p_value == one.p_value
    assert (other.low, other.high) == (pytest.approx(-one.high, abs=0.03), pytest.approx(-one.low, abs=0.03))


def test_the_p_value_of_few_images_is_the_exact_count_of_signs():
    """Six differences of one sign: only 2 of the 2^6 sign patterns are as extreme."""
    assert paired([1.0, 2, 3, 4, 5, 6], np.zeros(6)).p_value == pytest.approx(2 / 2**6)


def test_bca_interval_covers_as_often_as_it_says():
    """Skewed differences, known mean 1: of 200 intervals of 90 % about 180 hold it (fixed seed, within 3 SD)."""
    random = np.random.default_rng(0)
    samples = random.exponential(1.0, (200, 50))
    intervals = [single(sample, seed=i, confidence=0.9, resamples=499) for i, sample in enumerate(samples)]
    assert 167 <= sum(i.low <= 1 <= i.high for i in intervals) <= 193


def test_bca_follows_the_skew_and_agrees_with_t_where_there_is_none():
    skewed = single(np.random.default_rng(1).exponential(1.0, 60))
    assert skewed.high - skewed.mean > skewed.mean - skewed.low
    values = stats.norm.ppf((np.arange(200) + 0.5) / 200)
    half = stats.t.ppf(0.975, 199) * values.std(ddof=1) / np.sqrt(200)
    normal = single(values)
    assert (normal.low, normal.high) == (pytest.approx(-half, rel=0.05), pytest.approx(half, rel=0.05))


def test_same_seed_same_interval_whatever_the_batches(monkeypatch):
    values = np.random.default_rng(5).normal(size=30)
    first = single(values, seed=7)
    assert single(values, seed=7) == first and single(values, seed=8) != first
    monkeypatch.setattr(statistics, "RESAMPLED_NUMBERS_AT_ONCE", 1000)
    assert single(values, seed=7) == first


@pytest.mark.parametrize("shift", [0.0, 0.5, -2.0])
def test_all_differences_equal_is_a_point(shift):
    b = np.array([0.1, 0.2, 0.3, 0.7, 0.9])
    result = paired(b + shift, b)
    assert result.low == result.high == result.difference == pytest.approx(shift)
    assert result.effect == np.sign(shift)
    assert result.p_value == pytest.approx(1.0 if shift == 0 else 2 / 2**5)


def test_nan_and_infinite_pairs_are_dropped_and_counted():
    a = [1.0, np.nan, 3.0, np.inf, 5.0]
    b = [0.0, 1.0, np.nan, 1.0, 1.0]
    result = paired(a, b)
    assert (result.n, result.n_dropped, result.difference) == (2, 3, 2.5)
    assert single(a).n_dropped == 2


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_give_no_interval(count):
    result = paired([1.0] * count, [0.0] * count)
    assert np.isnan([result.low, result.high, result.standard_error]).all()


def test_one_image_that_differs_still_gets_finite_bounds():
    result = paired([1.0] + [0.0] * 9, np.zeros(10))
    assert 0 <= result.low <= result.difference <= result.high <= 1


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=25))
@settings(max_examples=60, deadline=None)
def test_rank_biserial_equals_its_slow_formula(differences):
    assert rank_biserial(differences) == pytest.approx(slow_rank_biserial(differences))


def test_shapes_that_disagree_are_named():
    with pytest.raises(ValueError, match="3 and 2"):
        paired([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        single(np.zeros((2, 2)))


# Correction


@pytest.mark.parametrize("size, expected", [(1, 1.960 + 0.8416), (5, 2.576 + 0.8416), (50, 3.2905 + 0.8416)])
def test_what_is_detectable_depends_on_the_number_of_tests(size, expected):
    """With many images quantiles of the normal distribution at 1 - 0.05 / (2 size) and at 80 %; with few, more."""
    assert detectable_standard_errors(100_000, size) == pytest.approx(expected, abs=1e-3)
    assert detectable_standard_errors(20, size) > expected and np.isnan(detectable_standard_errors(1, size))


def test_holm_by_hand():
    """Sorted 0.01, 0.03, 0.04 of three tests: 3 * 0.01, 2 * 0.03, then max(0.06, 0.04); NaN is no test."""
    assert holm([0.01, 0.04, float("nan"), 0.03]) == pytest.approx([0.03, 0.06, float("nan"), 0.06], nan_ok=True)
    assert holm([]) == []


@settings(max_examples=8)  # each of statsmodels' calls collects garbage
@given(st.lists(st.floats(0, 1, allow_subnormal=False) | st.just(float("nan")), max_size=30))
def test_holm_is_statsmodels_own(p_values):
    tested = [p for p in p_values if p == p]
    expected = iter(multipletests(tested, method="holm")[1] if tested else [])
    assert holm(p_values) == pytest.approx([next(expected) if p == p else p for p in p_values], nan_ok=True)


# Seeds


def test_over_seeds_is_students_t_by_hand():
    """Mean 0.2, standard deviation 0.1, three seeds: t with 2 degrees of freedom is 4.303 at 97.5 %."""
    found = over_seeds([0.1, 0.2, 0.3])
    assert (found.differences, found.n, found.mean) == ((0.1, 0.2, 0.3), 3, pytest.approx(0.2))
    assert (found.low, found.high) == pytest.approx((0.2 - 4.303 * 0.1 / 3**0.5, 0.2 + 4.303 * 0.1 / 3**0.5), abs=1e-4)


def test_over_seeds_of_one_or_none_has_no_interval():
    one, none, partly = over_seeds([0.4]), over_seeds([]), over_seeds([0.1, float("nan"), 0.3])
    assert one.mean == 0.4 and np.isnan([one.low, one.high, none.mean]).all()
    assert (partly.n, len(partly.differences), partly.mean) == (2, 3, pytest.approx(0.2))


def test_seeds_that_agree_exactly_are_a_point():
    found = over_seeds([0.25] * 3)
    assert found.low == found.high == 0.25
