"""From differences to verdicts: what one claim about two methods needs before it counts as supported.

Letters: S training seeds, N images. Images are the unit of every test and interval over images: with several seeds an
image's values are averaged over them first, so that N stays the number of images. Seeds are judged beside that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from common.tables import number, p_text
from evaluation.statistics.paired import DETECTABLE_STANDARD_ERRORS, Seeds, mcnemar, over_seeds, overfitting, paired

Verdict = Literal["supported", "not supported", "undecided"]

FEWEST_IMAGES = 20
SIGNIFICANT = 0.05
TOO_FEW = "too few images"
ONE_SEED = "one training seed: says nothing about other seeds"

RULE = (
    "A claim states the sign of a mean difference between two methods on the same images. It is *supported* when the "
    "whole 95 % interval over images lies on the claimed side of zero, every training seed's difference does so too, "
    f"and its test's p-value, corrected by Holm's method for its family, is below {SIGNIFICANT}; it is "
    "*not supported* when all of this holds on the other side of zero; otherwise it is *undecided*, with the smallest "
    "difference that these images would have shown in four cases of five (2.8 standard errors). Undecided does not "
    f"mean equal. With fewer than {FEWEST_IMAGES} images nothing is decided, and one training seed says nothing about "
    "other seeds."
)


@dataclass(frozen=True)
class Measured:
    """A mean difference, first minus second method, over `n` images and for each training seed.

    mean_a, mean_b: both methods' means over images and seeds. [low, high]: 95 % interval over images. p_value: of
    `test`, two-sided; detail: what else the test says, in words. n_dropped: images left out because a value of some
    seed was not finite.
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

    @property
    def smallest_detectable(self) -> float:
        """The difference found with 80 % power by a two-sided 5 % test; NaN where all images agree, which tells
        nothing about how far others would."""
        return DETECTABLE_STANDARD_ERRORS * self.standard_error or float("nan")


@dataclass(frozen=True)
class Judgement:
    """A verdict; `reason`: why it is undecided, where the interval over images alone does not say so."""

    word: Verdict
    reason: str = ""


def measure(a, b) -> Measured:
    """Compare two methods by a figure of each image: `a`, `b` `(S, N)`, the same seeds and images in the same order.

    Interval: BCa of the differences averaged over seeds; test: sign-flip permutation of their mean. An image with a
    value that is not finite in any seed is left out of all. Raises ValueError when shapes differ or there is no seed.
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
    """Compare two methods by which images they predict rightly: `correct_a`, `correct_b` `(S, N)` booleans.

    One seed: McNemar's exact test and Tango's interval. Several: an image's value is the share of seeds that predict
    it rightly, which only `measure`'s test and interval can take; each seed's exact p-value stands in the detail. Where
    the shares agree in every image, a bootstrap knows no width, and the widest of the seeds' Tango intervals stands.
    Raises ValueError as `measure`, or without images.
    """
    a, b = _seeds_by_images(correct_a), _seeds_by_images(correct_b)
    _same_seeds(a, b)
    each = [mcnemar(*pair) for pair in zip(a, b)]
    counts = "; ".join(f"{m.only_a} and {m.only_b}, {p_text(m.p_value)}" for m in each)
    detail = f"only one right, of {each[0].n}, and McNemar's exact test: {counts}"
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
    """Compare how much better two methods are on training than on validation images: booleans `(S, N_train)` and
    `(S, N_val)`. See `statistics.overfitting`; `n` is the smaller number of images. Raises ValueError as `measure`."""
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


def verdict(difference: float, low: float, high: float, claimed_sign: int) -> Verdict:
    """Judge the claim that `difference` has the sign `claimed_sign` (1 or -1) by its interval over images alone.

    Raises ValueError for another sign, or when the difference lies outside a computed interval on the other side
    of zero, which can only come from mixed-up arguments.
    """
    if claimed_sign not in (1, -1):
        raise ValueError(f"verdict: expected claimed_sign 1 or -1, got {claimed_sign!r}")
    if not np.isfinite([difference, low, high]).all() or low <= 0 <= high:
        return "undecided"
    side = 1 if low > 0 else -1
    if low > high or difference * side < 0:
        raise ValueError(f"verdict: interval [{low}, {high}] does not belong to difference {difference}")
    return "supported" if side == claimed_sign else "not supported"


def judge(measured: Measured, claimed_sign: int, corrected_p: float) -> Judgement:
    """Judge the claim that `measured` has the sign `claimed_sign` (1 or -1) by RULE.

    corrected_p: `measured.p_value` after `statistics.holm` with the other claims of its family; NaN decides nothing.
    Raises ValueError as `verdict`.
    """
    word = verdict(measured.difference, measured.low, measured.high, claimed_sign)
    if measured.n < FEWEST_IMAGES:
        return Judgement("undecided", TOO_FEW)
    if word == "undecided":
        return Judgement(word)
    if not (np.sign(measured.seeds.differences) == np.sign(measured.difference)).all():
        return Judgement("undecided", "seeds disagree")
    if not corrected_p < SIGNIFICANT:
        return Judgement("undecided", f"corrected p = {number(corrected_p)}")
    return Judgement(word)


def agreement(seeds: Seeds) -> str:
    """Say how many seeds there are and whether their differences have one sign: '3 seeds, all of one sign'."""
    count = len(seeds.differences)
    if count == 1:
        return "1 seed"
    signs = {float(np.sign(difference)) for difference in seeds.differences}
    return f"{count} seeds, " + ("all of one sign" if signs in ({1.0}, {-1.0}) else "not all of one sign")


def _each_seed(differences: np.ndarray) -> Seeds:
    """Seeds of differences (S, N); NaN where no image is left."""
    return over_seeds(differences.mean(1) if differences.size else [np.nan] * len(differences))


def _seeds_by_images(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(
            f"expected one row a training seed and one value an image, shape (n_seeds, n_images), "
            f"got shape {values.shape}"
        )
    return values


def _same_seeds(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"expected the same seeds and images for both methods, got shapes {a.shape} and {b.shape}")
