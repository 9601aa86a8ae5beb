"""The sign-flip test against all patterns by loops, Student's t, the binomial, and how often it is wrong."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics import permutation
from evaluation.statistics.permutation import sign_flip_p


def slow_p(differences) -> float:
    """The share of all sign patterns whose sum is at least as far from zero."""
    observed = abs(sum(differences))
    sums = [abs(sum(s * d for s, d in zip(signs, differences))) for signs in product((1, -1), repeat=len(differences))]
    return float(np.mean([one >= observed - 1e-12 for one in sums]))


@pytest.mark.parametrize("differences", [[3.0], [1.0, 1, 1, -1, 0.5], [0.2, -0.1, 0.4, 0.3, 0.3, -0.2, 0.7], [0.0] * 4])
def test_few_images_are_enumerated(differences):
    assert sign_flip_p(differences) == pytest.approx(slow_p(differences))


def test_many_images_agree_with_students_t():
    normal = np.random.default_rng(0).normal(0.05, 1, (200, 60))
    expected = stats.ttest_1samp(normal, 0).pvalue
    assert np.abs(sign_flip_p(normal) - expected).max() < 0.02
    assert np.array_equal(sign_flip_p(-normal), sign_flip_p(normal))


def test_smallest_p_values_are_bounds_near_students_t():
    """Beyond what 9,999 flips can count: at least t's, and not many times larger."""
    for shift in (0.3, 0.4):
        values = np.random.default_rng(1).normal(shift, 1, 400)
        p, expected = float(sign_flip_p(values)), stats.ttest_1samp(values, 0).pvalue
        assert expected < p < 1e-4
        z = values.sum() / np.sqrt((values**2).sum())
        assert p == pytest.approx(3.178 * 2 * stats.norm.sf(z), rel=1e-3)


@pytest.mark.parametrize("right", [25, 30, 34, 37, 40])
def test_signs_alone_are_the_binomial_test(right):
    """40 differences of one size: near the exact p-value where flips can count it, above it where a bound stands."""
    exact = stats.binomtest(right, 40).pvalue
    found = float(sign_flip_p([0.1] * right + [-0.1] * (40 - right)))
    if exact > 1e-3:
        assert found == pytest.approx(exact, rel=0.3)
    else:
        assert exact < found < 2e-4


def test_correction_for_hundreds_of_tests_leaves_what_is_certain():
    """A p-value of 1 / (1 + flips) alone would be 0.09 after correction for 864 tests of 9,999 flips."""
    values = np.random.default_rng(2).normal(0, 1, (150, 864))
    values[:, 5] += 0.5
    p_values = sign_flip_p(values)
    assert 864 * p_values[5] < 0.05 and np.sum(864 * p_values < 0.05) == 1


def test_skewed_differences_without_a_mean_are_seldom_called_different():
    """The null hypothesis is symmetry; 100 images are enough for a mean of zero alone: 5 % of 2000, within 4 SD."""
    values = np.random.default_rng(3).exponential(1, (100, 2000)) - 1
    assert 0.03 < np.mean(sign_flip_p(values, flips=999) < 0.05) < 0.07


def test_a_value_that_is_not_finite_is_left_out():
    values = np.random.default_rng(4).normal(0.1, 1, (50, 2))
    spoilt = values.copy()
    spoilt[40:, 1] = np.nan
    spoilt[45, 1] = np.inf
    assert sign_flip_p(spoilt)[0] == sign_flip_p(values)[0]
    assert sign_flip_p(spoilt)[1] == pytest.approx(sign_flip_p(values[:40, 1]), abs=0.02)
    assert np.isnan(sign_flip_p(np.full(5, np.nan))) and np.isnan(sign_flip_p([]))
    assert sign_flip_p(np.zeros(30)) == 1


def test_unit_and_memory_do_not_matter(monkeypatch):
    values = np.random.default_rng(5).normal(0.2, 1, 64)
    found = sign_flip_p(values)
    assert sign_flip_p(1e-200 * values) == found == sign_flip_p(1e200 * values)
    monkeypatch.setattr(permutation, "SIGNS_AT_ONCE", 6400)
    assert sign_flip_p(values) == pytest.approx(found, abs=0.01)
