"""Localisation of maps at known answers: on the mask, beside it, and by chance."""

import numpy as np
import pytest

from evaluation.metrics import localisation as metrics


def draw(*shape):
    return np.random.default_rng(0).random(shape)


def test_coverage_and_mass():
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True
    coverage = metrics.patch_coverage(mask, (2, 2))
    assert coverage.tolist() == [[0.5, 0], [0, 0]]
    assert metrics.mass(np.ones((2, 2)), coverage) == pytest.approx(mask.mean()), "an even map scores chance"
    assert metrics.mass([[1, -5], [0, 0]], coverage) == 0.5
    assert metrics.mass([[3, 1], [0, 0]], np.array([[1, 0], [0, 0]])) == 0.75
    assert metrics.mass(draw(5, 3, 2, 2), np.ones((5, 1, 2, 2))).shape == (5, 3)
    assert np.isnan(metrics.mass(np.zeros((2, 2)), coverage))
    with pytest.raises(ValueError, match="multiples"):
        metrics.patch_coverage(mask, (3, 3))


def test_rank_accuracy():
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    heat = np.arange(16.0)[::-1].reshape(4, 4)
    assert metrics.rank_accuracy(heat, mask) == 1 and metrics.rank_accuracy(-heat, mask) == 0
    assert metrics.rank_accuracy(np.ones((4, 4)), mask) == 0.25, "a constant map scores chance"
    assert metrics.rank_accuracy(heat.T, mask) == 0.25
    assert np.isnan(metrics.rank_accuracy(heat, np.zeros((4, 4), bool)))
    assert metrics.rank_accuracy(draw(3, 2, 4, 4), np.stack([mask] * 3)[:, None]).shape == (3, 2)


def test_localisation_of_a_random_map_is_chance_and_of_the_mask_itself_perfect():
    mask = np.zeros((8, 12), bool)
    mask[2:5, 3:10] = True
    share, maps = mask.mean(), draw(3000, 8, 12)
    coverage = metrics.patch_coverage(mask, (4, 6))
    for found in (
        metrics.rank_accuracy(maps, mask),
        metrics.mass(maps, mask),
        metrics.mass(draw(3000, 4, 6), coverage),
        metrics.mass(draw(3000, 4, 6) ** 9, coverage),
    ):
        assert found.shape == (3000,) and found.mean() == pytest.approx(share, abs=4 * found.std() / 3000**0.5)
    for scale in (1, 1e-200, 7):
        assert metrics.rank_accuracy(scale * mask, mask) == 1 and metrics.mass(scale * mask, mask) == pytest.approx(1)
    assert metrics.rank_accuracy(~mask, mask) == 0 == metrics.mass(~mask, mask), "all beside it"
    fully = coverage == 1
    assert fully.any() and metrics.mass(fully, coverage) == pytest.approx(1)
    assert metrics.mass(coverage, coverage) == pytest.approx((coverage**2).sum() / coverage.sum()), "border patches"


def test_pointing_game():
    mask = np.zeros((4, 4), bool)
    mask[0, :3] = True
    heat = np.arange(16.0)[::-1].reshape(4, 4)
    assert metrics.pointing_game(heat, mask) == 1 and metrics.pointing_game(-heat, mask) == 0
    assert metrics.pointing_game(mask * 2.0, mask) == 1
    assert metrics.pointing_game(np.ones((4, 4)), mask) == 3 / 16, "a constant map scores chance"
    heat[2, 2] = heat.max()
    assert metrics.pointing_game(heat, mask) == 0.5, "one of two maxima"
    assert np.isnan(metrics.pointing_game(heat, np.zeros((4, 4), bool)))
    scores = metrics.pointing_game(draw(2000, 2, 4, 4), np.stack([mask] * 2000)[:, None])
    assert scores.shape == (2000, 2) and scores.mean() == pytest.approx(3 / 16, abs=0.03)
