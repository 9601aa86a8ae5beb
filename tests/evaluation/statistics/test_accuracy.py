"""Accuracies compared where the answer is known: by hand, from a paper, or from a slow formula."""

from math import comb

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics.accuracy import mcnemar, overfitting, tango, wilson


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return np.array(a, bool), np.array(b, bool)


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
