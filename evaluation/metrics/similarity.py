"""Similarity of two relevance maps: Spearman correlation, cosine, SSIM.

Maps are arrays or tensors (..., gh, gw) of gh x gw patches; leading dimensions broadcast. Computed in NumPy float64.
"""

import numpy as np
from scipy import stats
from scipy.ndimage import gaussian_filter

from evaluation.metrics.arrays import aligned, aligned_flat, stretch


def spearman(a, b) -> np.ndarray:
    """Compute the rank correlation of two maps, ties by mean ranks.

    a, b: maps (..., gh, gw).
    Returns (...) from -1 to 1: 1 for the same order of patches, 0 by chance, NaN where a map is constant. Between the
        maps of two classes, lower is more class-specific.
    Raises ValueError where the last two axes differ.
    Source: Spearman 1904; between maps, Adebayo et al., NeurIPS 2018.
    """
    a, b = (stats.rankdata(one, axis=-1) for one in aligned_flat(a, b))
    return _cosine(a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True))


def cosine(a, b) -> np.ndarray:
    """Compute the cosine of two maps.

    a, b: maps (..., gh, gw).
    Returns (...) from -1 to 1, from 0 to 1 for maps without negative parts: 1 for the same map up to a positive factor.
        Between the maps of two classes, lower is more class-specific. There is no fixed chance level: two unrelated
        maps of uniform numbers in [0, 1) reach about 0.75. NaN where a map is constant, as it prefers no patch.
    Raises ValueError where the last two axes differ.
    """
    a, b = aligned_flat(a, b)
    similarity = _cosine(a, b)
    constant = (np.ptp(a, axis=-1) == 0) | (np.ptp(b, axis=-1) == 0)
    return np.where(constant, np.nan, similarity)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the cosine over the last axis."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (one / np.abs(one).max(-1, keepdims=True) for one in (a, b))  # squares of tiny maps would underflow
        return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def ssim(a, b) -> np.ndarray:
    """Compute the structural similarity of two maps, each rescaled from its own range to [0, 1].

    Windows are Gaussian (sigma 1.5, 11 x 11 patches), constants 0.01 and 0.03 of the range 1. Borders are mirrored:
    cropping them, as is usual, would leave 4 x 4 of 14 x 14 patches.

    a, b: maps (..., gh, gw).
    Returns (...) from -1 to 1: 1 for the same map up to a positive factor and an added constant, about 0 by chance (two
        maps of uniform numbers reach 0.005 at 14 x 14). Between the maps of two classes, lower is more class-specific.
        NaN where a map is constant.
    Raises ValueError where the last two axes differ.
    Source: Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004; between maps, Adebayo et al., NeurIPS 2018.
    """
    a, b = (stretch(one) for one in aligned(a, b))
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variances = _window_mean(a * a) - mean_a**2 + _window_mean(b * b) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    low, contrast = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + low) / (mean_a**2 + mean_b**2 + low)
    return (luminance * (2 * covariance + contrast) / (variances + contrast)).mean((-2, -1))


def _window_mean(maps: np.ndarray) -> np.ndarray:
    return gaussian_filter(maps, sigma=1.5, radius=5, axes=(-2, -1))
