"""Do maps agree with interventions? Relevance on factors against their effects, of one run and of a change between two.

Letters: S training seeds, N images, F factors. NaN stands where an image lacks a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.metrics.similarity import spearman
from evaluation.statistics.paired import SIGNIFICANT, Paired, holm, paired
from evaluation.statistics.verdicts import FEWEST_IMAGES

RESAMPLES = 999
FEWEST_PAIRS = 10  # of image and factor, below which nothing is computed


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval over images (percentile bootstrap of whole images, all seeds and factors of one
    together); NaN where it cannot be computed."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How well relevance on factors agrees with their effects, over all images, factors and seeds.

    rank: Spearman correlation; 0 by chance.
    sign: share of the pairs of image and factor, weighed by the size of the effect, where relevance has the sign of
        the effect; 0.5 by chance for signed maps.
    exponent: of the power law |effect| = a |relevance|^b, by least squares of logarithms where the signs agree; at 1
        twice the relevance means twice the effect, at 0 it means nothing.
    pairs: of image and factor.
    images: number of images.
    """

    rank: Interval
    sign: Interval
    exponent: Interval
    pairs: int
    images: int

    @property
    def side(self) -> int:
        """1 where the change of relevance follows that of effects by its interval, -1 where it opposes it, else 0."""
        if self.images < FEWEST_IMAGES:
            return 0
        return int(self.rank.low > 0) - int(self.rank.high < 0)


@dataclass(frozen=True)
class FactorChange:
    """What changed from one method to another at one factor, second less first.

    factor: its name.
    relevance, effect: the mean change over images and seeds, with its interval over images; `a` is the second method.
    seeds: for each seed, the mean change of relevance and of effect.
    """

    factor: str
    relevance: Paired
    effect: Paired
    seeds: tuple[tuple[float, float], ...]

    @property
    def certain(self) -> bool:
        """Whether both intervals over images exclude zero, and all seeds have one sign each, of enough images."""
        off_zero = all(one.low > 0 or one.high < 0 for one in (self.relevance, self.effect))
        one_sign = all(len({np.sign(pair[i]) for pair in self.seeds}) == 1 for i in (0, 1))
        return self.effect.n >= FEWEST_IMAGES and off_zero and one_sign

    @property
    def agrees(self) -> bool:
        """Whether relevance changed in the direction in which the effect did."""
        return bool(np.sign(self.relevance.difference) == np.sign(self.effect.difference))


def agreement(relevance: np.ndarray, effect: np.ndarray, seed: int = 0) -> Agreement:
    """Compare relevance on factors with the effects of changing them.

    relevance, effect: (S, N, F). Of a change between two methods, the differences.
    seed: fixes the resamples.
    Raises ValueError for shapes that differ.
    """
    if relevance.shape != effect.shape or relevance.ndim != 3:
        raise ValueError(f"expected two arrays (S, N, F), got {relevance.shape} and {effect.shape}")
    by_image = [np.moveaxis(one, 1, 0).reshape(relevance.shape[1], -1) for one in (relevance, effect)]
    known = np.isfinite(by_image[0]) & np.isfinite(by_image[1])
    random, images = np.random.default_rng(seed), len(known)
    resamples = random.integers(images, size=(RESAMPLES, images)) if images else np.empty((0, 0), dtype=int)

    def pairs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        some = known[rows]
        return by_image[0][rows][some], by_image[1][rows][some]

    def interval(of: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
        if known.sum() < FEWEST_PAIRS:
            return Interval(float("nan"), float("nan"), float("nan"))
        drawn = np.array([of(*pairs(rows)) for rows in resamples])
        able = images > 1 and np.isfinite(drawn).any()  # one image says nothing about others
        low, high = np.nanpercentile(drawn, [2.5, 97.5]) if able else (np.nan, np.nan)
        return Interval(of(*pairs(np.arange(images))), float(low), float(high))

    count = int((np.isfinite(relevance) & np.isfinite(effect)).all(0).sum())
    return Agreement(interval(rank_correlation), interval(sign_agreement), interval(power), count, images)


def decided(changes: Sequence[FactorChange]) -> list[bool]:
    """Tell which changes are decided: certain, and both p-values below 0.05 after Holm's correction for all of them."""
    corrected = holm([p for one in changes for p in (one.relevance.p_value, one.effect.p_value)])
    return [one.certain and max(corrected[2 * i : 2 * i + 2]) < SIGNIFICANT for i, one in enumerate(changes)]


def rank_correlation(relevance: np.ndarray, effect: np.ndarray) -> float:
    """Return the Spearman correlation of (P,) pairs; NaN where one of both is constant."""
    return float(spearman(relevance[None], effect[None]))


def sign_agreement(relevance: np.ndarray, effect: np.ndarray) -> float:
    """Return the share of (P,) pairs with one sign, weighed by the effect's magnitude; NaN where no effect is there."""
    weight = np.abs(effect)
    return (
        float((weight * (np.sign(relevance) == np.sign(effect))).sum() / weight.sum()) if weight.any() else float("nan")
    )


def power(relevance: np.ndarray, effect: np.ndarray) -> float:
    """Return b of |effect| = a |relevance|^b by least squares of logarithms of the (P,) pairs with one sign."""
    same = (np.sign(relevance) == np.sign(effect)) & (relevance != 0)
    if same.sum() < FEWEST_PAIRS:
        return float("nan")
    x, y = np.log(np.abs(relevance[same])), np.log(np.abs(effect[same]))
    spread = ((x - x.mean()) ** 2).sum()
    return float(((x - x.mean()) * (y - y.mean())).sum() / spread) if spread > 0 else float("nan")


def factor_change(
    factor: str, relevance: tuple[np.ndarray, np.ndarray], effect: tuple[np.ndarray, np.ndarray]
) -> FactorChange:
    """Return how relevance on a factor and its effect changed from a first method to a second.

    relevance, effect: (first, second), each (S, N); NaN where an image lacks the factor.
    """
    changes = []
    for first, second in (relevance, effect):
        present = np.isfinite(first).all(0) & np.isfinite(second).all(0)
        changes.append(paired(second[:, present].mean(0), first[:, present].mean(0)))
    by_seed = [tuple(np.nanmean(second - first, axis=1).tolist()) for first, second in (relevance, effect)]
    return FactorChange(factor, changes[0], changes[1], tuple(zip(*by_seed)))
