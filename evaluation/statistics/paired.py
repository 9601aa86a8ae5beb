"""Paired comparisons of two runs on the same images: differences, intervals, tests; and how seeds differ.

Everything is paired by image: `a[i]` and `b[i]` belong to image i, and a difference is always a - b.
Intervals answer "what would other images of this kind have given", not "what would other training seeds
have given": seeds are never pooled as if they were images. NaN or infinite pairs are dropped and counted.
Where there is nothing to compute from (no image, or one image for an interval) the figure is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from evaluation.statistics.permutation import sign_flip_p

# 1.96 + 0.84: the effect that a two-sided 5 % test finds with 80 % power, in standard errors.
DETECTABLE_STANDARD_ERRORS = 2.8

# Bootstrap resamples are drawn in batches of about this many numbers, so that 10,000 images fit in memory.
RESAMPLED_NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Mean:
    """Mean over `n` images with its confidence interval [low, high]; `n_dropped` values were not finite."""

    n: int
    mean: float
    low: float
    high: float
    n_dropped: int = 0


@dataclass(frozen=True)
class Paired:
    """Mean difference a - b, in the unit of the values.

    n: number of images.
    mean_a, mean_b: means of the values.
    difference: mean of a - b.
    low, high: ends of its BCa bootstrap interval.
    p_value: of a sign-flip permutation test of the mean, two-sided. It tests what `difference` and the interval are
        about; Wilcoxon's test is about ranks and may point the other way.
    effect: matched rank-biserial correlation, from -1 (b larger everywhere) to 1 (a larger everywhere), 0 by chance. It
        describes the typical image, and has the other sign than `difference` where few images differ much.
    standard_error: of the mean difference.
    smallest_detectable: 2.8 standard errors.
    n_dropped: pairs left out because a value was not finite.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    effect: float
    standard_error: float
    smallest_detectable: float
    n_dropped: int = 0


@dataclass(frozen=True)
class McNemar:
    """Accuracy of a minus accuracy of b on the same `n` images, a fraction from -1 to 1.

    correct_a, correct_b, only_a, only_b count images. [low, high]: Tango's score interval. p_value: McNemar's
    exact test, two-sided. standard_error: of the difference, NaN for one image.
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


@dataclass(frozen=True)
class Seeds:
    """Differences of each training seed, their mean, and its interval over seeds by Student's t, n - 1 degrees of
    freedom. `n` counts the finite ones; for fewer than two there is no interval (NaN)."""

    differences: tuple[float, ...]
    n: int
    mean: float
    low: float
    high: float


def over_seeds(differences: Sequence[float], confidence: float = 0.95) -> Seeds:
    """Say how far training seeds agree: `differences`, one mean difference a seed, `(n_seeds,)`.

    The interval is about other training seeds on the same images, and with few seeds it is wide, as it should be:
    2 seeds are 12.7 standard errors to each side. Source: Student 1908 (Biometrika 6).
    """
    differences = _vector(differences)
    kept = differences[np.isfinite(differences)]
    mean, low, high = _mean(kept), np.nan, np.nan
    if len(kept) > 1:
        half = stats.t.ppf(0.5 + confidence / 2, len(kept) - 1) * stats.sem(kept)
        low, high = mean - half, mean + half
    return Seeds(tuple(differences.tolist()), len(kept), mean, float(low), float(high))


def paired(
    a, b, seed: int = 0, confidence: float = 0.95, resamples: int = 9999, p_value: float | None = None
) -> Paired:
    """Compare the means of two methods on the same images.

    a, b: (n_images,) values, paired by image.
    seed: fixes the bootstrap's resamples and the random signs.
    confidence: of the interval.
    resamples: of the bootstrap.
    p_value: of `sign_flip_p`, where it was computed for many tests at once.
    Raises ValueError when the shapes differ.
    Source: BCa, Efron 1987 (J. Am. Stat. Assoc. 82); sign flips, see `sign_flip_p`; rank-biserial, Kerby 2014
        (Comprehensive Psychology 3).
    """
    a, b, dropped = _finite_pairs(a, b)
    difference = a - b
    n = len(difference)
    low, high = _bootstrap(difference, seed, confidence, resamples)
    standard_error = _standard_error(difference)
    return Paired(
        n=n,
        mean_a=_mean(a),
        mean_b=_mean(b),
        difference=_mean(difference),
        low=low,
        high=high,
        p_value=float(sign_flip_p(difference, seed=seed)) if p_value is None else float(p_value),
        effect=rank_biserial(difference),
        standard_error=standard_error,
        smallest_detectable=DETECTABLE_STANDARD_ERRORS * standard_error,
        n_dropped=dropped,
    )


def single(values, seed: int = 0, confidence: float = 0.95, resamples: int = 9999) -> Mean:
    """Mean of `values` `(n_images,)` with its BCa bootstrap interval; values that are not finite are dropped."""
    values = _vector(values)
    kept = values[np.isfinite(values)]
    low, high = _bootstrap(kept, seed, confidence, resamples)
    return Mean(n=len(kept), mean=_mean(kept), low=low, high=high, n_dropped=len(values) - len(kept))


def mcnemar(correct_a, correct_b, confidence: float = 0.95) -> McNemar:
    """Compare two classifiers on the same images; `correct_a`, `correct_b`: `(n_images,)` booleans.

    Raises ValueError when the shapes differ or there is no image. Sources: McNemar 1947 (Psychometrika 12);
    interval: Tango 1998 (Statistics in Medicine 17), which stays honest where no image or nearly none is told apart.
    """
    # Imported here: statsmodels brings pandas, seconds that a command's --help should not take.
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    a, b = _booleans(correct_a), _booleans(correct_b)
    _same_shape(a, b)
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
        standard_error=_standard_error(a.astype(float) - b),
    )


@dataclass(frozen=True)
class Overfitting:
    """Accuracy on training images minus accuracy on validation images, of two runs, and a's minus b's.

    [low, high]: bootstrap interval. p_value: Welch's t, two-sided.
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
    """Compare how far two runs do better on their training images than on validation images.

    train_a, train_b: `(n_train,)`, whether each training image is predicted rightly, or by which share of training
    seeds; val_a, val_b likewise `(n_val,)`. Runs are paired by image; the two sets of images are resampled
    independently (percentile bootstrap: accuracies of training images sit near 1, where BCa's acceleration is often
    undefined). NaN where a set is empty. Raises ValueError when shapes differ or a value is not from 0 to 1.
    Source of the test: Welch 1947 (Biometrika 34), on the differences of training and of validation images.
    """
    train_a, train_b, val_a, val_b = map(_shares, (train_a, train_b, val_a, val_b))
    _same_shape(train_a, train_b)
    _same_shape(val_a, val_b)
    gap_a, gap_b = (_mean(t) - _mean(v) for t, v in ((train_a, val_a), (train_b, val_b)))
    if np.isnan(gap_a):
        return Overfitting(gap_a, gap_b, *[np.nan] * 5)
    generator = np.random.default_rng(seed)
    train, val = train_a - train_b, val_a - val_b
    resampled = [_resampled_means(differences, resamples, generator) for differences in (train, val)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled[0] - resampled[1], [tail, 1 - tail])
    standard_error = float(np.hypot(_standard_error(train), _standard_error(val)))
    return Overfitting(gap_a, gap_b, gap_a - gap_b, float(low), float(high), _welch(train, val), standard_error)


def _welch(a: np.ndarray, b: np.ndarray) -> float:
    """p-value of Welch's t; NaN where a set has fewer than two images or no set varies: then nothing was sampled."""
    if min(len(a), len(b)) < 2 or max(np.ptp(a), np.ptp(b)) == 0:
        return float("nan")
    return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def _resampled_means(values: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Means of bootstrap resamples. The values are few distinct ones (-1, 0, 1 for one training seed): resampling their
    counts is exact and cheap."""
    distinct, counts = np.unique(values, return_counts=True)
    return generator.multinomial(len(values), counts / len(values), resamples) @ distinct / len(values)


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of the accuracy correct / n (Wilson 1927, J. Am. Stat. Assoc. 22).

    Raises ValueError unless 0 <= correct <= n and n > 0.
    """
    if n <= 0 or not 0 <= correct <= n:
        raise ValueError(f"wilson: expected 0 <= correct <= n and n > 0, got correct={correct}, n={n}")
    interval = stats.binomtest(int(correct), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def tango(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of (only_a - only_b) / n: all differences that Tango's test does not reject."""
    z = stats.norm.ppf(0.5 + confidence / 2)
    observed = (only_a - only_b) / n

    def bound(end: float, threshold: float) -> float:
        if observed == end:
            return end
        inside = end * (1 - 1e-9)
        ends = min(inside, observed), max(inside, observed)
        return float(optimize.brentq(lambda d: _tango_statistic(d, only_a, only_b, n) - threshold, *ends, xtol=1e-12))

    return bound(-1.0, z), bound(1.0, -z)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of one family of claims, corrected (Holm 1979, Scand. J. Statistics 6); a NaN stays NaN and counts
    as no test. The figures are those of statsmodels' multipletests, which collects garbage at every call: most of a
    second beside a large model."""
    corrected = _vector(p_values).copy()
    tested = np.flatnonzero(np.isfinite(corrected))
    order = tested[np.argsort(corrected[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * corrected[order]))
    return [float(p) for p in corrected]


def rank_biserial(difference) -> float:
    """(W+ - W-) / (W+ + W-), W the signed-rank sums of the differences that are not zero; 0 where all are zero."""
    difference = _vector(difference)
    if len(difference) == 0:
        return float("nan")
    moved = difference[difference != 0]
    if len(moved) == 0:
        return 0.0
    ranks = stats.rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


def _bootstrap(values: np.ndarray, seed: int, confidence: float, resamples: int) -> tuple[float, float]:
    """BCa interval of the mean; a point where all values agree; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return _mean(values), _mean(values)

    def interval(method: str):
        result = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, RESAMPLED_NUMBERS_AT_ONCE // len(values)),
            confidence_level=confidence,
            method=method,
            rng=np.random.default_rng(seed),
        )
        return float(result.confidence_interval.low), float(result.confidence_interval.high)

    low, high = interval("BCa")
    # BCa's bias correction is infinite where all resampled means lie on one side; the percentile interval exists.
    return (low, high) if np.isfinite([low, high]).all() else interval("percentile")


def _tango_statistic(difference: float, only_a: int, only_b: int, n: int) -> float:
    """Tango 1998, equations 4-6: the score statistic, with the probability of "only b" at its restricted maximum."""
    numerator = only_a - only_b - n * difference
    if numerator == 0:
        return 0.0
    linear = -only_a - only_b + (2 * n - only_a + only_b) * difference
    constant = -only_b * difference * (1 - difference)
    probability = (np.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * probability + difference * (1 - difference))
    return numerator / np.sqrt(max(variance, 1e-300))


def _finite_pairs(a, b) -> tuple[np.ndarray, np.ndarray, int]:
    a, b = _vector(a), _vector(b)
    _same_shape(a, b)
    kept = np.isfinite(a) & np.isfinite(b)
    return a[kept], b[kept], int((~kept).sum())


def _same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"expected one value an image for both runs, got {len(a)} and {len(b)} values")


def _vector(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected one value an image, shape (n_images,), got shape {values.shape}")
    return values


def _booleans(values) -> np.ndarray:
    values = _vector(values)
    if not np.isin(values, (0, 1)).all():
        raise ValueError("expected right or wrong (True or False) for each image, got other values")
    return values.astype(bool)


def _shares(values) -> np.ndarray:
    values = _vector(values)
    if not ((0 <= values) & (values <= 1)).all():
        raise ValueError("expected right or wrong for each image, or a share from 0 to 1, got other values")
    return values


def _standard_error(values: np.ndarray) -> float:
    return float(stats.sem(values)) if len(values) > 1 else float("nan")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
