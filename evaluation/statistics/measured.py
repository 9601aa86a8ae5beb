"""Differences between two methods, over images and for each training seed.

Letters: S training seeds, N images. Images are the unit of every test and interval over images: with several seeds the
values of an image are averaged over them first, so that N stays the number of images. Seeds are judged beside that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.tables import number, p_text
from evaluation.statistics.accuracy import mcnemar, overfitting
from evaluation.statistics.paired import Seeds, detectable_standard_errors, holm, over_seeds, paired


@dataclass(frozen=True)
class Measured:
    """A mean difference, first minus second method, over images and for each training seed.

    n: number of images.
    mean_a, mean_b: both methods' means over images and seeds.
    difference: mean_a - mean_b.
    low, high: ends of its 95 % interval over images.
    standard_error: of the difference, over images.
    test: name of the test.
    p_value: of the test, two-sided, before correction.
    detail: what else the test says, in words.
    seeds: the differences of each training seed, and their interval over seeds.
    n_dropped: images left out because a value of some seed was not finite.
    family_size: number of tests that the p-value is corrected for; see `correct_family`.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    standard_error: float
    test: str
    p_value: float
    detail: str
    seeds: Seeds
    n_dropped: int = 0
    family_size: int = 1

    @property
    def smallest_detectable(self) -> float:
        """The difference that a test at level 0.05 / family_size finds with a power of 80 %.

        Holm's correction asks at most this level of a test. NaN where all images agree, which says nothing about how
        far others would.
        """
        return detectable_standard_errors(self.n, self.family_size) * self.standard_error or float("nan")


def measure(a, b) -> Measured:
    """Compare the means of two methods by a sign-flip permutation test, with a BCa interval.

    Differences are averaged over seeds first. An image with a value that is not finite in any seed is left out of all.

    a, b: (S, N) values of the same seeds and images in the same order.
    Raises ValueError when shapes differ or there is no seed.
    """
    a, b = _seeds_by_images(a), _seeds_by_images(b)
    _same_seeds(a, b)
    kept = np.isfinite(a).all(0) & np.isfinite(b).all(0)
    a, b = a[:, kept], b[:, kept]
    found = paired(a.mean(0), b.mean(0))
    detail = f"rank-biserial {number(found.effect, 2, signed=True)}, n = {found.n}"
    if found.effect * found.difference < 0:
        detail += "; ranks point the other way than the mean: few images differ much"
    return Measured(
        found.n,
        found.mean_a,
        found.mean_b,
        found.difference,
        found.low,
        found.high,
        found.standard_error,
        "sign-flip permutation",
        found.p_value,
        detail,
        _each_seed(a - b),
        int((~kept).sum()),
    )


def measure_accuracy(correct_a, correct_b) -> Measured:
    """Compare the accuracies of two methods.

    One seed: McNemar's exact test and Tango's interval. Several: the value of an image is the share of seeds that
    predict it correctly, compared by `measure`; each seed's exact p-value stands in the detail. Where the shares agree
    in every image, a bootstrap interval has no width, and the widest of the seeds' Tango intervals is given.

    correct_a, correct_b: (S, N) booleans, which images are predicted correctly.
    Raises ValueError as `measure`, or without images.
    """
    a, b = _seeds_by_images(correct_a), _seeds_by_images(correct_b)
    _same_seeds(a, b)
    each = [mcnemar(*pair) for pair in zip(a, b)]
    counts = "; ".join(f"{m.only_a} and {m.only_b}, {p_text(m.p_value)}" for m in each)
    detail = f"only one correct, of {each[0].n}, and McNemar's exact test: {counts}"
    if len(each) > 1:
        found = replace(measure(a, b), detail=detail)
        if found.low == found.high:
            widest = max(each, key=lambda m: m.high - m.low)
            found = replace(found, low=widest.low, high=widest.high)
        return found
    (m,) = each
    return Measured(
        m.n,
        m.correct_a / m.n,
        m.correct_b / m.n,
        m.difference,
        m.low,
        m.high,
        m.standard_error,
        "McNemar exact",
        m.p_value,
        detail,
        over_seeds([m.difference]),
    )


def measure_overfitting(train_a, train_b, val_a, val_b) -> Measured:
    """Compare how much more accurate two methods are on training than on validation images; see `overfitting`.

    train_a, train_b: (S, N_train) booleans, which images are predicted correctly.
    val_a, val_b: (S, N_val) booleans.
    Returns a Measured whose `n` is the smaller number of images.
    Raises ValueError as `measure`.
    """
    train_a, train_b, val_a, val_b = map(_seeds_by_images, (train_a, train_b, val_a, val_b))
    _same_seeds(train_a, train_b)
    _same_seeds(val_a, val_b)
    o = overfitting(*(values.mean(0) for values in (train_a, train_b, val_a, val_b)))
    counts = train_a.shape[1], val_a.shape[1]
    each = [np.nan] * len(train_a) if 0 in counts else (train_a - train_b).mean(1) - (val_a - val_b).mean(1)
    detail = f"{counts[0]} training and {counts[1]} validation images"
    return Measured(
        min(counts),
        o.gap_a,
        o.gap_b,
        o.difference,
        o.low,
        o.high,
        o.standard_error,
        "Welch",
        o.p_value,
        detail,
        over_seeds(each),
    )


def correct_family(measured: Sequence[Measured]) -> list[tuple[Measured, float]]:
    """Correct the p-values of one family of tests by Holm's method.

    Returns each Measured, with the size of the family, and its corrected p-value. A NaN counts as no test.
    """
    corrected = holm([one.p_value for one in measured])
    size = max(1, int(np.isfinite(corrected).sum()))
    return [(replace(one, family_size=size), p) for one, p in zip(measured, corrected)]


def _each_seed(differences: np.ndarray) -> Seeds:
    """Average differences (S, N) over images, seed by seed; NaN where no image is left."""
    return over_seeds(differences.mean(1) if differences.size else [np.nan] * len(differences))


def _seeds_by_images(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(
            f"expected one row per training seed and one value per image, shape (n_seeds, n_images), "
            f"got shape {values.shape}"
        )
    return values


def _same_seeds(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"expected the same seeds and images for both methods, got shapes {a.shape} and {b.shape}")
