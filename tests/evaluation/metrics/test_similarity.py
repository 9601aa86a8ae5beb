"""Similarity of maps at known answers, and SSIM against its formula written as loops."""

import numpy as np
import pytest
import torch

from evaluation.metrics import similarity as metrics


def draw(*shape):
    return np.random.default_rng(0).random(shape)


def test_similarity_at_known_answers():
    a = draw(2, 3, 4)
    for similarity in (metrics.spearman, metrics.cosine):
        assert similarity(a, a).shape == (2,)
        assert np.allclose(similarity(a, 5 * a), 1) and np.allclose(similarity(a, -a), -1)
        assert np.isnan(similarity(a, np.ones_like(a))).all()
        assert np.allclose(similarity(a * 1e-200, a), 1), "scale does not matter"
        assert np.allclose(similarity(torch.from_numpy(a), a), 1)
        with pytest.raises(ValueError, match="last two axes"):
            similarity(a, a[..., :2])
    assert np.allclose(metrics.spearman(a, np.exp(a)), 1)
    assert metrics.cosine([[1, 0]], [[0, 1]]) == 0
    assert metrics.spearman([[1, 2, 3]], [[1, 3, 2]]) == pytest.approx(0.5)
    assert metrics.spearman([[1, 1, 2]], [[1, 2, 3]]) == pytest.approx(3**0.5 / 2), "ties share ranks"


def test_maps_in_bfloat16_are_measured():
    """NumPy has no such type."""
    a, b = torch.from_numpy(draw(2, 3, 4)).bfloat16()
    assert metrics.spearman(a, b) == pytest.approx(metrics.spearman(a.float(), b.float()))


def slow_ssim(a, b):
    """One pair of maps by loops: Wang et al. 2004, equation 13, windows mirrored at the border."""
    a, b = ((one - one.min()) / (one.max() - one.min()) for one in (a, b))
    distance = np.arange(-5, 6)
    window = np.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    a, b = (np.pad(one, 5, mode="symmetric") for one in (a, b))
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            covariance = (window * (p - mean_p) * (q - mean_q)).sum()
            values.append(
                (2 * mean_p * mean_q + 1e-4)
                * (2 * covariance + 9e-4)
                / ((mean_p**2 + mean_q**2 + 1e-4) * (var_p + var_q + 9e-4))
            )
    return np.mean(values)


def test_ssim():
    a, b = np.random.default_rng(0).random((2, 4, 9, 7))
    assert metrics.ssim(a, b) == pytest.approx([slow_ssim(*pair) for pair in zip(a, b)], abs=1e-12)
    assert metrics.ssim(a, a) == pytest.approx(1) and metrics.ssim(a, 1e-200 * a) == pytest.approx(1)
    assert metrics.ssim(a, 1.5e308 * (2 * a - 1)) == pytest.approx(1)
    assert metrics.ssim(3 * a - 8, b) == pytest.approx(metrics.ssim(a, b)), "each by its own range"
    assert (metrics.ssim(a, -a) < -0.8).all()
    assert metrics.ssim(a[:, None], b).shape == (4, 4)
    both = metrics.ssim([a[0], np.ones((9, 7))], b[:2])
    assert both[0] == pytest.approx(slow_ssim(a[0], b[0])) and np.isnan(both[1]), "a constant map spoils no other"
    noise = np.random.default_rng(1).random((2, 400, 14, 14))
    assert abs(metrics.ssim(*noise).mean()) < 0.03
    with pytest.raises(ValueError, match="last two axes"):
        metrics.ssim(a, b[:, :5])


def test_chance_levels_that_docstrings_state():
    """Of uniform random maps of 14 x 14 patches."""
    a, b = np.random.default_rng(1).random((2, 1000, 14, 14))
    assert metrics.cosine(a, b).mean() == pytest.approx(0.75, abs=0.002)
    assert abs(metrics.spearman(a, b).mean()) < 0.01
    assert metrics.ssim(a[:200], b[:200]).mean() == pytest.approx(0.005, abs=0.01)
