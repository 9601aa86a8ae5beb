"""Verdicts: what a claim about two methods needs before it counts as supported, and what is said beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.tables import ABSENT, estimate, number
from evaluation.statistics.measured import Measured
from evaluation.statistics.paired import SIGNIFICANT, Seeds

SUPPORTED_ACROSS_SEEDS: Literal["supported across seeds"] = "supported across seeds"
SUPPORTED_FOR_IMAGES: Literal["supported for these images"] = "supported for these images"
CONTRADICTED_ACROSS_SEEDS: Literal["contradicted across seeds"] = "contradicted across seeds"
CONTRADICTED_FOR_IMAGES: Literal["contradicted for these images"] = "contradicted for these images"
UNDECIDED: Literal["undecided"] = "undecided"
Verdict = Literal[
    "supported across seeds",
    "supported for these images",
    "contradicted across seeds",
    "contradicted for these images",
    "undecided",
]
Side = Literal["claimed", "reverse", "undecided"]
SIDES: dict[Verdict, Side] = {
    SUPPORTED_ACROSS_SEEDS: "claimed",
    SUPPORTED_FOR_IMAGES: "claimed",
    CONTRADICTED_ACROSS_SEEDS: "reverse",
    CONTRADICTED_FOR_IMAGES: "reverse",
    UNDECIDED: "undecided",
}

FEWEST_IMAGES = 20
TOO_FEW = "too few images"
INCLUDES_ZERO = "the interval over images includes zero"
SEEDS_DISAGREE = "seeds disagree"
ONE_SEED = "one training seed: says nothing about other seeds"

RULE = (
    "A claim says which of two methods has the larger mean on the same images. It is *supported for these images* "
    "when three conditions hold: the whole 95 % interval of the mean difference over images lies on the claimed side "
    f"of zero; the difference of every training seed lies on that side; and the p-value is below {SIGNIFICANT} after "
    "Holm's correction for all tests of its family. It is *supported across seeds* when also the 95 % interval over "
    "training seeds (Student's t) lies on that side, so that other seeds should give the same answer; one seed cannot "
    "show that. When the same conditions hold on the other side of zero, the claim is *contradicted for these images* "
    "or *contradicted across seeds*: the reverse is true. In all other cases it is *undecided*, which does not mean "
    "that the methods are equal. The smallest detectable difference beside it is the one that these images would show "
    "in four of five cases at the corrected level, 0.05 divided by the number of tests of the family. With fewer than "
    f"{FEWEST_IMAGES} images nothing is decided."
)


@dataclass(frozen=True)
class Judgement:
    """A verdict about a claim.

    word: one of the words of RULE.
    reason: why it is undecided; "" for other verdicts.
    """

    word: Verdict
    reason: str = ""

    @property
    def side(self) -> Side:
        """Which side of zero the verdict names: "claimed", "reverse" or "undecided"."""
        return SIDES[self.word]

    @property
    def scope(self) -> str:
        """What the verdict speaks about: "across seeds", "for these images", or "" where it is undecided."""
        return "" if self.side == "undecided" else " ".join(self.word.split()[1:])


def side_of_interval(difference: float, low: float, high: float, claimed_sign: int) -> Side:
    """Tell on which side of zero a whole interval lies.

    difference: the estimate, inside the interval.
    low, high: ends of the interval; NaN where there is none.
    claimed_sign: 1 or -1, the sign of the claimed side.
    Raises ValueError for another sign, or when the difference lies on the other side of zero than its interval, which
        can only come from mixed-up arguments.
    """
    if claimed_sign not in (1, -1):
        raise ValueError(f"side_of_interval: expected claimed_sign 1 or -1, got {claimed_sign!r}")
    if not np.isfinite([difference, low, high]).all() or low <= 0 <= high:
        return "undecided"
    side = 1 if low > 0 else -1
    if low > high or difference * side < 0:
        raise ValueError(f"side_of_interval: interval [{low}, {high}] does not belong to difference {difference}")
    return "claimed" if side == claimed_sign else "reverse"


def judge(measured: Measured, claimed_sign: int, corrected_p: float) -> Judgement:
    """Judge by RULE the claim that a difference has a sign.

    measured: the difference.
    claimed_sign: 1 or -1.
    corrected_p: its p-value after correction, see `correct_family`; NaN decides nothing.
    Raises ValueError as `side_of_interval`.
    """
    side = side_of_interval(measured.difference, measured.low, measured.high, claimed_sign)
    seeds = measured.seeds
    if measured.n < FEWEST_IMAGES:
        return Judgement(UNDECIDED, TOO_FEW)
    if side == "undecided":
        return Judgement(UNDECIDED, INCLUDES_ZERO)
    if not (np.sign(seeds.differences) == np.sign(measured.difference)).all():
        return Judgement(UNDECIDED, SEEDS_DISAGREE)
    if not corrected_p < SIGNIFICANT:
        return Judgement(UNDECIDED, f"corrected p = {number(corrected_p)}")
    across = side_of_interval(seeds.mean, seeds.low, seeds.high, claimed_sign) == side
    if side == "claimed":
        return Judgement(SUPPORTED_ACROSS_SEEDS if across else SUPPORTED_FOR_IMAGES)
    return Judgement(CONTRADICTED_ACROSS_SEEDS if across else CONTRADICTED_FOR_IMAGES)


def remarks(measured: Measured, judgement: Judgement, scale: int = 1, unit: str = "", digits: int = 3) -> str:
    """Say what belongs beside a verdict: why it is undecided, what would have been found, the interval over seeds.

    The smallest detectable difference is given only where more images could decide and the difference is smaller:
    beside a larger one it would suggest that the difference should have been found.

    measured, judgement: the difference and its verdict.
    scale: factor of the figures, 100 for percentage points.
    unit: after the figures, such as "points".
    digits: decimals of the smallest detectable difference.
    """
    parts = [judgement.reason] if judgement.reason else []
    least, after = measured.smallest_detectable, f" {unit}" if unit else ""
    if judgement.side == "undecided" and judgement.reason not in (TOO_FEW, SEEDS_DISAGREE):
        if not abs(measured.difference) >= least:
            found = ABSENT if np.isnan(least) else number(scale * least, digits) + after
            parts.append(f"smallest detectable: {found}")
    return "; ".join(filter(None, [*parts, seeds_text(measured.seeds, scale, unit)]))


def seeds_text(seeds: Seeds, scale: int = 1, unit: str = "") -> str:
    """Give the mean over seeds with its interval: "seeds: +0.012 [-0.003, 0.027]"; "" for one seed, which has none.

    scale: factor of the figures; a negative one swaps the methods.
    unit: after the figures, such as "points".
    """
    if len(seeds.differences) == 1:
        return ""
    low, high = sorted((scale * seeds.low, scale * seeds.high))
    text = estimate(scale * seeds.mean, low, high)
    return f"seeds: {text} {unit}".rstrip()


def agreement(seeds: Seeds) -> str:
    """Say how many seeds there are and whether their differences have one sign: "3 seeds, all of one sign"."""
    count = len(seeds.differences)
    if count == 1:
        return "1 seed"
    signs = {float(np.sign(difference)) for difference in seeds.differences}
    return f"{count} seeds, " + ("all of one sign" if signs in ({1.0}, {-1.0}) else "not all of one sign")
