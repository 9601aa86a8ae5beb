"""Accuracies compared: McNemar's exact test, Tango's and Wilson's intervals, and overfitting.

Everything is paired by image, as in paired.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from evaluation.statistics.values import check_same_shape, mean, standard_error, vector


@dataclass(frozen=True)
class McNemar:
    """Accuracy of a minus accuracy of b on the same images.

    n: number of images.
    correct_a, correct_b: how many each predicts correctly.
    only_a, only_b: how many one alone predicts correctly.
    difference: of the accuracies, a fraction from -1 to 1.
    low, high: ends of Tango's score interval.
    p_value: of McNemar's exact test, two-sided.
    standard_error: of the difference; NaN for one image.
    """

    n: int
    correct_a: int
    correct_b: int
    only_a: int
    only_b: int
    difference: float
    low: float
    high: float
    p_value: float
    standard_error: float


def mcnemar(correct_a, correct_b, confidence: float = 0.95) -> McNemar:
    """Compare two classifiers on the same images by McNemar's exact test.

    The interval is Tango's, which keeps its width where the classifiers agree on all or nearly all images.

    correct_a, correct_b: (n_images,) booleans, which images are predicted correctly.
    confidence: of the interval.
    Raises ValueError when the shapes differ or there is no image.
    Source: McNemar 1947 (Psychometrika 12); Tango 1998 (Statistics in Medicine 17).
    """
    # Imported here: statsmodels imports pandas, seconds that `--help` should not take.
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    a, b = _booleans(correct_a), _booleans(correct_b)
    check_same_shape(a, b)
    if len(a) == 0:
        raise ValueError("mcnemar: expected at least one image, got none")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    table = [[int((a & b).sum()), only_a], [only_b, int((~a & ~b).sum())]]
    low, high = tango(only_a, only_b, len(a), confidence)
    return McNemar(
        n=len(a),
        correct_a=int(a.sum()),
        correct_b=int(b.sum()),
        only_a=only_a,
        only_b=only_b,
        difference=(only_a - only_b) / len(a),
        low=low,
        high=high,
        p_value=float(exact_test(table, exact=True).pvalue),
        standard_error=standard_error(a.astype(float) - b),
    )


@dataclass(frozen=True)
class Overfitting:
    """Accuracy on training images minus accuracy on validation images, of two runs, and the difference a - b.

    gap_a, gap_b: training minus validation accuracy.
    difference: gap_a - gap_b.
    low, high: ends of its percentile bootstrap interval.
    p_value: of Welch's t-test, two-sided.
    standard_error: of the difference.
    """

    gap_a: float
    gap_b: float
    difference: float
    low: float
    high: float
    p_value: float
    standard_error: float


def overfitting(
    train_a, train_b, val_a, val_b, seed: int = 0, confidence: float = 0.95, resamples: int = 9999
) -> Overfitting:
    """Compare how much more accurate two runs are on training than on validation images.

    Runs are paired by image; the two sets of images are resampled independently, by percentile bootstrap: accuracies on
    training images are near 1, where BCa's acceleration is often undefined. Welch's t-test compares the differences of
    training images with those of validation images.

    train_a, train_b: (n_train,), whether each training image is predicted correctly, or by which share of seeds.
    val_a, val_b: (n_val,), the same for validation images.
    seed: fixes the resamples.
    confidence: of the interval.
    resamples: number of them.
    Returns NaN where a set is empty.
    Raises ValueError when shapes differ or a value is not from 0 to 1.
    Source: Welch 1947 (Biometrika 34).
    """
    train_a, train_b, val_a, val_b = map(_shares, (train_a, train_b, val_a, val_b))
    check_same_shape(train_a, train_b)
    check_same_shape(val_a, val_b)
    gap_a, gap_b = (mean(t) - mean(v) for t, v in ((train_a, val_a), (train_b, val_b)))
    if np.isnan(gap_a):
        return Overfitting(gap_a, gap_b, *[np.nan] * 5)
    generator = np.random.default_rng(seed)
    train, val = train_a - train_b, val_a - val_b
    resampled = [_resampled_means(differences, resamples, generator) for differences in (train, val)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled[0] - resampled[1], [tail, 1 - tail])
    error = float(np.hypot(standard_error(train), standard_error(val)))
    return Overfitting(gap_a, gap_b, gap_a - gap_b, float(low), float(high), _welch(train, val), error)


def _welch(a: np.ndarray, b: np.ndarray) -> float:
    """Return the p-value of Welch's t-test; NaN where a set has fewer than two images, or neither set varies."""
    if min(len(a), len(b)) < 2 or max(np.ptp(a), np.ptp(b)) == 0:
        return float("nan")
    return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def _resampled_means(values: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Return the means of bootstrap resamples, (resamples,).

    There are few distinct values (-1, 0, 1 for one training seed): resampling their counts is exact and cheap.
    """
    distinct, counts = np.unique(values, return_counts=True)
    return generator.multinomial(len(values), counts / len(values), resamples) @ distinct / len(values)


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of an accuracy.

    correct: number of images predicted correctly.
    n: number of images.
    confidence: of the interval.
    Raises ValueError unless 0 <= correct <= n and n > 0.
    Source: Wilson 1927 (J. Am. Stat. Assoc. 22).
    """
    if n <= 0 or not 0 <= correct <= n:
        raise ValueError(f"wilson: expected 0 <= correct <= n and n > 0, got correct={correct}, n={n}")
    interval = stats.binomtest(int(correct), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def tango(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Tango's score interval of a difference of paired accuracies: all values that his test does not reject.

    only_a, only_b: numbers of images that one classifier alone predicts correctly.
    n: number of images.
    confidence: of the interval.
    Source: Tango 1998 (Statistics in Medicine 17), equations 4-6.
    """
    z = stats.norm.ppf(0.5 + confidence / 2)
    observed = (only_a - only_b) / n

    def bound(end: float, threshold: float) -> float:
        if observed == end:
            return end
        inside = end * (1 - 1e-9)
        ends = min(inside, observed), max(inside, observed)
        return float(optimize.brentq(lambda d: _tango_statistic(d, only_a, only_b, n) - threshold, *ends, xtol=1e-12))

    return bound(-1.0, z), bound(1.0, -z)


def _tango_statistic(difference: float, only_a: int, only_b: int, n: int) -> float:
    """Return Tango's score statistic, with the probability of "only b" at its restricted maximum."""
    numerator = only_a - only_b - n * difference
    if numerator == 0:
        return 0.0
    linear = -only_a - only_b + (2 * n - only_a + only_b) * difference
    constant = -only_b * difference * (1 - difference)
    probability = (np.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * probability + difference * (1 - difference))
    return numerator / np.sqrt(max(variance, 1e-300))


def _booleans(values) -> np.ndarray:
    values = vector(values)
    if not np.isin(values, (0, 1)).all():
        raise ValueError("expected True or False for each image, got other values")
    return values.astype(bool)


def _shares(values) -> np.ndarray:
    values = vector(values)
    if not ((0 <= values) & (values <= 1)).all():
        raise ValueError("expected True or False for each image, or a share from 0 to 1, got other values")
    return values
