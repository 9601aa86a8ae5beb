"""Sign-flip permutation test of the mean of paired differences. Letters: N images, M tests."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import stats

FLIPS = 9_999  # at least
FLIPS_PER_TEST = 100  # so that 5 of them are expected at the level 0.05 / M
ENUMERATED = 13  # images up to which all 2^N sign patterns are tried
SIGNS_AT_ONCE = 4_000_000  # so that 10,000 images fit in memory
TOLERANCE = 1e-5  # of the sum of magnitudes: equal sums may differ by float32 rounding, and count as equal
# P(S >= x) <= 3.178 P(Z >= x) for a sum S of fixed numbers with random signs and unit variance, and normal Z
GAUSSIAN_BOUND = 1 / (4 * stats.norm.sf(np.sqrt(2)))


def sign_flip_p(differences, flips: int | None = None, seed: int = 0) -> np.ndarray:
    """Test whether paired differences have mean zero, by flipping their signs (two-sided).

    Under the null hypothesis that differences are symmetric about zero, each sign is as likely as its opposite. The
    p-value is the share of sign patterns whose mean is at least as far from zero as the observed one. It tests the mean
    itself, unlike Wilcoxon's signed ranks, and with many images it does so without symmetry too.

    All 2^N patterns are tried up to 13 images; beyond, `flips` random ones, the same for all M tests, and the observed
    pattern is counted among them: p = (1 + count) / (1 + flips), which cannot be below 1 / (1 + flips). Where it is
    smaller, the upper bound of Bentkus and Dzindzalieta is returned instead: the exact p-value is at most 3.178 times
    that of a normal distribution whose variance is the sum of squared differences. So the smallest p-values are too
    large, by a factor of about 3, rather than too small.

    differences: (N,) or (N, M). A difference that is not finite is left out, as a zero, whose sign does not matter.
    flips: number of random sign patterns; None: 100 M, and at least 9,999.
    seed: fixes them.
    Returns () or (M,) float64; NaN where no difference is finite.
    Source: Fisher, The Design of Experiments, 1935, section 21; Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 2010
        (counting the observed pattern); Bentkus and Dzindzalieta, Bernoulli 2015 (the bound).
    """
    given = np.asarray(differences, dtype=np.float64)
    columns = given.reshape(len(given), math.prod(given.shape[1:]))
    finite = np.isfinite(columns)
    values = np.where(finite, columns, 0)
    scale = np.abs(values).max(0, initial=0)
    values = values / np.where(scale > 0, scale, 1)  # whatever the unit, float32 is fine enough
    least = np.abs(values.sum(0)) - TOLERANCE * np.abs(values).sum(0)
    exact, flips = len(values) <= ENUMERATED, flips or max(FLIPS, FLIPS_PER_TEST * values.shape[1])
    patterns = _all_signs(len(values)) if exact else _random_signs(len(values), flips, seed)
    count = sum((np.abs(signs @ values.astype(np.float32)) >= least).sum(0) for signs in patterns)
    p_values = count / 2 ** len(values) if exact else np.minimum((1 + count) / (1 + flips), _upper_bound(values))
    return np.where(finite.any(0), p_values, np.nan).reshape(given.shape[1:])


def _upper_bound(values: np.ndarray) -> np.ndarray:
    """Return upper bounds of the exact p-values of (N, M) differences: 3.178 times the normal ones."""
    spread = np.sqrt((values**2).sum(0))
    z = np.abs(values.sum(0)) / np.where(spread > 0, spread, 1)
    return GAUSSIAN_BOUND * 2 * stats.norm.sf(z)


def _all_signs(count: int) -> Iterator[np.ndarray]:
    yield (2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1) - 1).astype(np.float32)


def _random_signs(count: int, flips: int, seed: int) -> Iterator[np.ndarray]:
    """Yield float32 arrays (some, count) of -1 and 1, `flips` rows together."""
    generator, rows = np.random.default_rng(seed), max(1, SIGNS_AT_ONCE // count)
    for start in range(0, flips, rows):
        shape = min(rows, flips - start), count
        bits = np.unpackbits(
            np.frombuffer(generator.bytes(-(-shape[0] * count // 8)), np.uint8), count=shape[0] * count
        )
        yield 2 * bits.reshape(shape).astype(np.float32) - 1
