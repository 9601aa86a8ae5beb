"""Paired comparisons of two runs on the same images: differences, intervals, tests; and how training seeds differ.

Everything is paired by image: `a[i]` and `b[i]` belong to image i, and a difference is always a - b. Intervals are
about other images of this kind, not about other training seeds: seeds are never pooled as if they were images. Pairs
with a value that is not finite are dropped and counted. A figure that cannot be computed (no image, or one image for an
interval) is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from evaluation.statistics.permutation import sign_flip_p
from evaluation.statistics.values import check_same_shape, mean, standard_error, vector

SIGNIFICANT = 0.05
POWER = 0.8

# Bootstrap resamples are drawn in batches of about this many numbers, so that 10,000 images fit in memory.
RESAMPLED_NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Mean:
    """Mean over images with its confidence interval.

    n: number of images.
    mean: their mean.
    low, high: ends of its interval.
    n_dropped: values left out because they were not finite.
    """

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
    n_dropped: int = 0


@dataclass(frozen=True)
class Seeds:
    """Differences of each training seed, with the interval of their mean over seeds.

    differences: one per seed.
    n: number of the finite ones.
    mean: their mean.
    low, high: ends of its interval by Student's t with n - 1 degrees of freedom; NaN for fewer than two seeds.
    """

    differences: tuple[float, ...]
    n: int
    mean: float
    low: float
    high: float


def over_seeds(differences: Sequence[float], confidence: float = 0.95) -> Seeds:
    """Compute the mean difference over training seeds and its interval.

    The interval is about other training seeds on the same images. With few seeds it is wide, as it should be: with two,
    12.7 standard errors to each side.

    differences: (n_seeds,), one mean difference per seed.
    confidence: of the interval.
    Source: Student 1908 (Biometrika 6).
    """
    given = vector(differences)
    finite = given[np.isfinite(given)]
    center, low, high = mean(finite), np.nan, np.nan
    if len(finite) > 1:
        half = stats.t.ppf(0.5 + confidence / 2, len(finite) - 1) * stats.sem(finite)
        low, high = center - half, center + half
    return Seeds(tuple(given.tolist()), len(finite), center, float(low), float(high))


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
    return Paired(
        n=n,
        mean_a=mean(a),
        mean_b=mean(b),
        difference=mean(difference),
        low=low,
        high=high,
        p_value=float(sign_flip_p(difference, seed=seed)) if p_value is None else float(p_value),
        effect=rank_biserial(difference),
        standard_error=standard_error(difference),
        n_dropped=dropped,
    )


def detectable_standard_errors(n: int, family_size: int = 1) -> float:
    """Return the difference, in standard errors, that a two-sided test of a mean finds with a power of 80 %.

    n: number of images.
    family_size: number of tests in the family; the level is 0.05 / family_size. That is Bonferroni's level, and the
        strictest that Holm's method asks for.
    Returns the sum of two quantiles of Student's t, at 1 - 0.05 / (2 family_size) and at 0.8: with many images 2.8 for
        one test, 3.4 for five, 4.1 for fifty. NaN for fewer than two images.
    Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2.
    """
    if n < 2:
        return float("nan")
    return float(stats.t.isf(SIGNIFICANT / (2 * family_size), n - 1) + stats.t.ppf(POWER, n - 1))


def single(values, seed: int = 0, confidence: float = 0.95, resamples: int = 9999) -> Mean:
    """Compute the mean of values with its BCa bootstrap interval.

    values: (n_images,); those that are not finite are dropped.
    seed: fixes the resamples.
    confidence: of the interval.
    resamples: number of them.
    """
    values = vector(values)
    kept = values[np.isfinite(values)]
    low, high = _bootstrap(kept, seed, confidence, resamples)
    return Mean(n=len(kept), mean=mean(kept), low=low, high=high, n_dropped=len(values) - len(kept))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of one family of tests by Holm's step-down method.

    p_values: a NaN stays NaN and counts as no test.
    Returns them in the same order. Computed here, as statsmodels' multipletests collects garbage at every call: most of
        a second beside a large model.
    Source: Holm 1979 (Scand. J. Statistics 6).
    """
    corrected = vector(p_values).copy()
    tested = np.flatnonzero(np.isfinite(corrected))
    order = tested[np.argsort(corrected[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * corrected[order]))
    return [float(p) for p in corrected]


def rank_biserial(difference) -> float:
    """Compute (W+ - W-) / (W+ + W-), W the signed-rank sums of differences that are not zero; 0 where all are zero.

    difference: (n_images,).
    """
    difference = vector(difference)
    if len(difference) == 0:
        return float("nan")
    moved = difference[difference != 0]
    if len(moved) == 0:
        return 0.0
    ranks = stats.rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


def _bootstrap(values: np.ndarray, seed: int, confidence: float, resamples: int) -> tuple[float, float]:
    """Return the BCa interval of the mean; a point where all values agree; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return mean(values), mean(values)
    return _resampled(values.tobytes(), seed, confidence, resamples)


@lru_cache(maxsize=4096)
def _resampled(values: bytes, seed: int, confidence: float, resamples: int) -> tuple[float, float]:
    """Return the bootstrap's interval of the mean of float64 values; reports ask for the same one several times."""
    sample = np.frombuffer(values)

    def interval(method: str) -> tuple[float, float]:
        result = stats.bootstrap(
            (sample,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, RESAMPLED_NUMBERS_AT_ONCE // len(sample)),
            confidence_level=confidence,
            method=method,
            rng=np.random.default_rng(seed),
        )
        return float(result.confidence_interval.low), float(result.confidence_interval.high)

    low, high = interval("BCa")
    # BCa's bias correction is infinite where all resampled means lie on one side; the percentile interval exists.
    return (low, high) if np.isfinite([low, high]).all() else interval("percentile")


def _finite_pairs(a, b) -> tuple[np.ndarray, np.ndarray, int]:
    a, b = vector(a), vector(b)
    check_same_shape(a, b)
    kept = np.isfinite(a) & np.isfinite(b)
    return a[kept], b[kept], int((~kept).sum())
