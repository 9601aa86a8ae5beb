"""Complexity of maps at known answers and of random maps."""

import numpy as np
import pytest

from evaluation.metrics import complexity as metrics


def draw(*shape):
    return np.random.default_rng(0).random(shape)


def test_entropy_from_one_patch_to_all():
    one = np.zeros((4, 4))
    one[1, 2] = 3
    half = np.repeat([[1.0], [0.0]], 2, axis=0) * np.ones((4, 4))
    assert metrics.entropy(one) == 0 and metrics.entropy(np.ones((4, 4))) == pytest.approx(1)
    assert metrics.entropy(half) == pytest.approx(np.log(8) / np.log(16))
    assert metrics.entropy(half - (half == 0)) == metrics.entropy(half), "negative parts are left out"
    assert np.isnan(metrics.entropy(np.zeros((2, 4, 4)))).all()
    assert metrics.entropy(draw(3, 2, 5, 5)).shape == (3, 2)


def test_histogram_entropy():
    values = np.array([[0, 0, 0, 4], [0, 1, 2, 4]])
    assert metrics.histogram_entropy(np.ones((3, 3))) == 0
    assert metrics.histogram_entropy(values, bins=4) == pytest.approx(  # bins of 1 and the last of [3, 4]
        -sum(p * np.log(p) for p in (4 / 8, 1 / 8, 1 / 8, 2 / 8))
    )
    assert metrics.histogram_entropy(np.arange(64.0).reshape(8, 8)) == pytest.approx(np.log(64)), "all different"
    assert metrics.histogram_entropy(np.arange(64.0).reshape(8, 8), bins=16) == pytest.approx(np.log(16))
    assert metrics.histogram_entropy(5 - 3 * draw(4, 5, 5)) == pytest.approx(metrics.histogram_entropy(draw(4, 5, 5)))
    assert metrics.histogram_entropy(draw(3, 2, 5, 5)).shape == (3, 2)
    assert np.isnan(metrics.histogram_entropy([[[np.nan, 1]], [[np.inf, 1]], [[np.inf, np.inf]]])).all()
    two = np.log(2)  # however near, small or large two values are
    for values in ([1, np.nextafter(1, 2)], [0, 5e-324], [1e308, -1e308], [0, 1]):
        assert metrics.histogram_entropy([values]) == pytest.approx(two)
    assert metrics.histogram_entropy(np.stack([np.zeros((2, 2)), np.eye(2)])) == pytest.approx([0, two])


def test_gini():
    one = np.zeros((4, 4))
    one[1, 2] = 3
    assert metrics.gini(one) == pytest.approx(1 - 1 / 16) and metrics.gini(-one) == pytest.approx(1 - 1 / 16)
    assert metrics.gini(np.ones((4, 4))) == pytest.approx(0)
    values = [1, 2, 3, 6]  # Hurley and Rickard: 1 - 2 sum c_k / |c| (N - k + 1/2) / N
    by_hand = 1 - 2 * sum(c / 12 * (4 - k + 0.5) / 4 for k, c in enumerate(values, start=1))
    assert metrics.gini([[6, 1], [-3, 2]]) == pytest.approx(by_hand)
    assert metrics.gini(1e-300 * draw(4, 4)) == pytest.approx(metrics.gini(draw(4, 4)))
    assert metrics.gini(draw(500, 14, 14)).mean() == pytest.approx(1 / 3, abs=0.005)
    assert np.isnan(metrics.gini(np.zeros((2, 3, 3)))).all() and metrics.gini(draw(3, 2, 5, 5)).shape == (3, 2)


def test_total_variation():
    shuffled = np.random.default_rng(0).permuted(np.tile([0, 0, 0, 0, 0, 0, 1, 2, 2, 5, 9, 30], (4000, 1)), axis=1)
    assert metrics.total_variation(shuffled.reshape(-1, 3, 4)).mean() == pytest.approx(1, abs=0.01), "chance"
    assert metrics.total_variation([[0, 1], [0, 1]]) == pytest.approx((2 / 4) / (4 / 6)), "neighbours, pairs"
    assert metrics.total_variation([[3, 1, 2]]) == pytest.approx(((2 + 1) / 2) / ((2 + 1 + 1) / 3))
    chequers, ramp = np.indices((14, 14)).sum(0) % 2, np.indices((14, 14)).sum(0)
    assert metrics.total_variation(chequers) == pytest.approx(1 / (2 * 98 * 98 / (196 * 195)))
    assert metrics.total_variation(ramp) < 0.2
    signed = draw(3, 2, 5, 6) - 0.5
    assert metrics.total_variation(1e-200 * signed) == pytest.approx(metrics.total_variation(signed))
    assert metrics.total_variation(7 - 3 * signed) == pytest.approx(metrics.total_variation(signed))
    assert np.isnan(metrics.total_variation(np.full((2, 4, 4), 0.3))).all() and np.isnan(metrics.total_variation([[1]]))


def test_mass_outside_top():
    values = np.array([[8, 4], [2, 1], [1, -90]])
    assert metrics.mass_outside_top(values, share=1 / 6) == pytest.approx(8 / 16)
    assert metrics.mass_outside_top(values, share=1 / 3) == pytest.approx(4 / 16)
    assert metrics.mass_outside_top(values, share=1 / 4) == pytest.approx(6 / 16), "half of the second patch"
    assert metrics.mass_outside_top(np.ones((14, 14))) == pytest.approx(0.8), "an even map has 1 - share"
    one = np.zeros((14, 14))
    one[3, 5] = 2
    assert metrics.mass_outside_top(one) == 0 and np.isnan(metrics.mass_outside_top(0 * one))
    assert metrics.mass_outside_top(draw(300, 14, 14)).mean() == pytest.approx(0.64, abs=0.01)
    for share in (0, 1, 20):
        with pytest.raises(ValueError, match="between 0 and 1"):
            metrics.mass_outside_top(values, share=share)


def test_chance_levels_that_docstrings_state():
    """Of uniform random maps of 14 x 14 patches."""
    maps = np.random.default_rng(1).random((1000, 14, 14))
    assert metrics.entropy(maps).mean() == pytest.approx(0.96, abs=0.005)
    assert metrics.histogram_entropy(maps).mean() == pytest.approx(4.3, abs=0.05)
    assert metrics.total_variation(maps).mean() == pytest.approx(1, abs=0.005)
