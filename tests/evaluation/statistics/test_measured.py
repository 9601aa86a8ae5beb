"""Differences over images and seeds, on data whose answers are known."""

import numpy as np
import pytest
from scipy.stats import wilcoxon

from evaluation.statistics.accuracy import mcnemar
from evaluation.statistics.measured import correct_family, measure, measure_accuracy, measure_overfitting
from evaluation.statistics.paired import detectable_standard_errors, holm, over_seeds, paired
from evaluation.statistics.verdicts import judge


def differing(*shifts: float, count: int = 60, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Two methods' figures (S, N); the first is higher by the seed's shift, image by image with noise."""
    generator = np.random.default_rng(0)
    base = generator.uniform(0.3, 0.6, (len(shifts), count))
    return base + np.array(shifts)[:, None] + generator.normal(0, noise, (len(shifts), count)), base


def test_one_seed_is_the_paired_comparison():
    a, b = differing(0.1)
    found, expected = measure(a, b), paired(a[0], b[0])
    assert (found.difference, found.low, found.high, found.p_value, found.n) == (
        expected.difference,
        expected.low,
        expected.high,
        expected.p_value,
        expected.n,
    )
    assert found.seeds.differences == pytest.approx((expected.difference,))
    assert found.smallest_detectable == pytest.approx(detectable_standard_errors(60) * expected.standard_error)


def test_images_are_the_unit_whatever_the_number_of_seeds():
    """Seeds that repeat one another add nothing: pooled as images they would halve the interval."""
    a, b = differing(0.1)
    one, four = measure(a, b), measure(np.repeat(a, 4, 0), np.repeat(b, 4, 0))
    assert four.n == one.n == 60
    assert (four.low, four.high, four.p_value) == pytest.approx((one.low, one.high, one.p_value))


def test_every_seed_is_shown_and_the_mean_is_theirs():
    found = measure(*differing(0.1, -0.2, 0.3, noise=0))
    assert found.seeds.differences == pytest.approx((0.1, -0.2, 0.3))
    assert found.difference == pytest.approx(found.seeds.mean) == pytest.approx(0.2 / 3)
    assert found.seeds == over_seeds(found.seeds.differences)


def test_an_image_that_one_seed_cannot_measure_is_left_out_of_all():
    a, b = differing(0.1, 0.3, noise=0)
    a[1, 4], b[0, 7], a[0, :2] = np.nan, np.inf, np.nan
    found = measure(a, b)
    assert (found.n, found.n_dropped) == (56, 4) and found.seeds.differences == pytest.approx((0.1, 0.3))


def test_nothing_to_measure_is_no_figure():
    found = measure(np.full((2, 3), np.nan), np.zeros((2, 3)))
    assert found.n == 0 and np.isnan([found.difference, found.low, found.p_value, *found.seeds.differences]).all()


def test_accuracy_of_one_seed_is_mcnemars_and_of_several_the_share_of_seeds():
    a, b = np.arange(100)[None] < 80, np.arange(100)[None] < 70
    one, exact = measure_accuracy(a, b), mcnemar(a[0], b[0])
    assert (one.difference, one.low, one.p_value) == (exact.difference, exact.low, exact.p_value)
    assert one.test == "McNemar exact"
    assert one.standard_error == pytest.approx(np.std([0] * 90 + [1] * 10, ddof=1) / 10)
    several = measure_accuracy(np.repeat(a, 3, 0), np.concatenate([b, b, a]))
    assert several.test == "sign-flip permutation" and (several.mean_a, several.difference) == pytest.approx(
        (0.8, 0.2 / 3)
    )
    assert several.seeds.differences == pytest.approx((0.1, 0.1, 0.0))


def test_overfitting_seed_by_seed():
    train, val = np.arange(50)[None] < 50, np.arange(40)[None] < 30
    worse = np.arange(40)[None] < 20
    found = measure_overfitting(
        np.repeat(train, 2, 0), np.repeat(train, 2, 0), np.repeat(val, 2, 0), np.concatenate([worse, val])
    )
    assert found.seeds.differences == pytest.approx((-0.25, 0.0)) and found.difference == pytest.approx(-0.125)
    assert found.n == 40 and found.low < -0.125 < found.high < 0 < found.p_value < 0.05


@pytest.mark.parametrize(
    "a, b, message",
    [
        (np.zeros((2, 5)), np.zeros((3, 5)), r"\(2, 5\) and \(3, 5\)"),
        (np.zeros(5), np.zeros(5), r"\(n_seeds, n_images\)"),
        (np.zeros((0, 5)), np.zeros((0, 5)), r"\(n_seeds, n_images\)"),
    ],
)
def test_other_shapes_are_refused(a, b, message):
    for measured in (measure, measure_accuracy):
        with pytest.raises(ValueError, match=message):
            measured(a, b)


def opposed(typical: int, others: int, by: float) -> tuple[np.ndarray, np.ndarray]:
    """Many images near +0.01, some far on the other side, over three seeds."""
    generator = np.random.default_rng(0)
    shifts = np.concatenate([generator.normal(0.01, 0.002, typical), generator.normal(-by, 0.02, others)])
    base = generator.uniform(0.3, 0.6, (3, len(shifts)))
    return base + shifts + generator.normal(0, 0.001, base.shape), base


def test_the_test_is_about_the_mean_as_the_interval_is_and_says_where_ranks_point_the_other_way():
    """400 images near +0.01 and 100 near -0.2: the mean is negative, the typical image positive."""
    found = measure(*opposed(400, 100, 0.2))
    assert found.high < 0 and found.p_value < 1e-6
    assert "rank-biserial +0.28, n = 500; ranks point the other way than the mean" in found.detail
    assert "other way" not in measure(*differing(0.1)).detail


def test_certain_ranks_on_one_side_do_not_support_a_mean_on_the_other():
    """Wilcoxon's p is below 1e-20, for the other side; corrected for five claims the mean is undecided."""
    a, b = opposed(480, 20, 0.45)
    found = measure(a, b)
    assert found.high < 0 and wilcoxon((a - b).mean(0)).pvalue < 1e-20 and 0.01 < found.p_value < 0.05
    assert judge(found, -1, holm([found.p_value] * 5)[0]).word == "undecided"


def test_the_family_is_all_tests_that_gave_a_p_value():
    measured = [measure(*differing(0.1)), measure(*differing(0.0)), measure(np.full((1, 3), np.nan), np.zeros((1, 3)))]
    corrected = correct_family(measured)
    assert [p for _, p in corrected] == pytest.approx(holm([one.p_value for one in measured]), nan_ok=True)
    assert [one.family_size for one, _ in corrected] == [2, 2, 2]
    assert corrected[0][0].smallest_detectable > measured[0].smallest_detectable
