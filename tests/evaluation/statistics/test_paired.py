"""evaluation.statistics.paired where the answer is known: by hand, from a paper, or from a slow formula."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from evaluation.statistics import paired as statistics
from evaluation.statistics.paired import (
    holm,
    mcnemar,
    over_seeds,
    overfitting,
    paired,
    rank_biserial,
    single,
    tango,
    wilson,
)


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return np.array(a, bool), np.array(b, bool)


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
    assert result.smallest_detectable == pytest.approx(2.8 * result.standard_error)
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


# Accuracies


def test_mcnemar_equals_the_binomial_computed_by_hand():
    result = mcnemar(*table(50, 9, 2, 10))
    by_hand = 2 * sum(comb(11, k) for k in range(3)) / 2**11
    assert result.p_value == pytest.approx(by_hand)
    assert (result.n, result.correct_a, result.correct_b, result.only_a, result.only_b) == (71, 59, 52, 9, 2)
    assert result.difference == pytest.approx(7 / 71)


def test_mcnemar_without_disagreement_is_one_with_an_honest_interval():
    result = mcnemar(*table(90, 0, 0, 10))
    assert (result.p_value, result.difference) == (1.0, 0.0)
    assert result.high == pytest.approx(1.96**2 / (100 + 1.96**2), abs=1e-4)
    assert result.low == pytest.approx(-result.high)


def test_mcnemar_wants_right_or_wrong():
    with pytest.raises(ValueError, match="True or False"):
        mcnemar([0.4, 1.0], [1, 0])
    with pytest.raises(ValueError, match="at least one image"):
        mcnemar([], [])


def test_tango_gives_the_published_interval():
    """Airway hyper-responsiveness in Fagerland, Lydersen and Laake 2014 (Statistics in Medicine 33): 1, 7 of 21."""
    assert tango(1, 7, 21) == (pytest.approx(-0.517, abs=5e-4), pytest.approx(-0.026, abs=5e-4))


@pytest.mark.parametrize("only_a, only_b, n", [(3, 12, 100), (0, 4, 10), (5, 5, 5 + 5), (0, 30, 500)])
def test_tango_mirrors_and_its_bounds_meet_the_likelihood_found_by_search(only_a, only_b, n):
    low, high = tango(only_a, only_b, n)
    assert tango(only_b, only_a, n) == (pytest.approx(-high), pytest.approx(-low))
    for bound in (low, high):
        # The restricted maximum likelihood by brute force, then the score statistic from its definition.
        q = np.linspace(max(0, -bound), min(1, (1 - bound) / 2), 400_001)[1:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = [(only_a, q + bound), (only_b, q), (n - only_a - only_b, 1 - 2 * q - bound)]
            likelihood = sum(count * np.log(p) for count, p in terms if count)
        best = q[np.nanargmax(likelihood)]
        statistic = (only_a - only_b - n * bound) / np.sqrt(n * (2 * best + bound - bound**2))
        assert abs(statistic) == pytest.approx(1.96, abs=2e-3)


@pytest.mark.parametrize(
    "correct, n, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_examples(correct, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3."""
    assert wilson(correct, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_refuses_impossible_counts():
    for correct, n in ((1, 0), (5, 4), (-1, 4)):
        with pytest.raises(ValueError, match="wilson"):
            wilson(correct, n)


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


# Overfitting


def right(*counts_of_ones: int, of: int = 100) -> list[np.ndarray]:
    return [np.arange(of) < count for count in counts_of_ones]


def test_overfitting_is_training_minus_validation_accuracy():
    train_a, train_b, val_a, val_b = right(90, 99, 80, 70)
    found = overfitting(train_a, train_b, val_a, val_b)
    assert (found.gap_a, found.gap_b, found.difference) == pytest.approx((0.10, 0.29, -0.19))
    assert found.low < found.difference < found.high


def test_the_overfitting_interval_and_test_are_the_textbooks_for_large_samples():
    """Two independent paired differences: the variance of the difference is the sum of theirs over n."""
    generator = np.random.default_rng(0)
    sizes = ((4000, 0.9), (4000, 0.91), (2000, 0.8), (2000, 0.78))
    train_a, train_b, val_a, val_b = (generator.random(n) < p for n, p in sizes)
    found = overfitting(train_a, train_b, val_a, val_b)
    variance = sum(np.var(a.astype(float) - b) / len(a) for a, b in ((train_a, train_b), (val_a, val_b)))
    assert found.standard_error == pytest.approx(np.sqrt(variance), rel=1e-3)
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.05)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(found.difference) / np.sqrt(variance)), rel=0.02)


def test_pairing_removes_what_both_runs_share():
    generator = np.random.default_rng(1)
    shared, alone = generator.random(200) < 0.6, generator.random(200) < 0.6
    same, unpaired = (overfitting(*right(200, 200, of=200), shared, other) for other in (shared, alone))
    assert same.low == same.high == 0 and unpaired.high - unpaired.low > 0.1
    assert np.isnan(same.p_value)


def test_overfitting_takes_shares_of_seeds():
    """Two seeds, each right on other images: the gap is that of the mean of both seeds' accuracies."""
    train_a, train_b, val_a, val_b = right(90, 90, 80, 80)
    found = overfitting(np.mean([train_a, train_a[::-1]], 0), train_b, np.mean([val_a, ~val_a], 0), val_b)
    assert (found.gap_a, found.gap_b) == pytest.approx((0.9 - 0.5, 0.1))
    with pytest.raises(ValueError, match="share from 0 to 1"):
        overfitting([1.5], [1], [1], [1])


def test_overfitting_without_images_has_no_figure():
    assert np.isnan(overfitting([], [], [True], [False]).difference)


def test_overfitting_wants_the_same_images():
    with pytest.raises(ValueError, match="3 and 2"):
        overfitting([1, 1, 1], [1, 1], [1], [1])


def test_the_same_seed_gives_the_same_interval():
    runs = [np.random.default_rng(2).random(80) < p for p in (0.9, 0.8, 0.7, 0.6)]
    assert overfitting(*runs) == overfitting(*runs) and overfitting(*runs) != overfitting(*runs, seed=1)


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
