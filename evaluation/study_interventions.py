"""Interventions of a study as arrays, and what they say of one method and of the change between two.

Letters: S training seeds, N images, F factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.errors import UsageError
from evaluation.interventions import EXCHANGED
from evaluation.observations import Results
from evaluation.options import TRUE
from evaluation.statistics.agreement import Agreement, FactorChange, agreement, factor_change

RELEVANCE, EFFECT = "relevance_share", "effect"  # the metrics that are compared
# On drawn scenes, the factors that reports name one by one; bystanders, clutter and regions count together.
NAMED = ("evidence", "exchanged evidence", "surface", "distractor", "player")


@dataclass(frozen=True)
class FactorValues:
    """Relevance on factors, and the effects of changing them, of one method.

    images: N names.
    factors: F names.
    relevance, effect: (S, N, F); NaN where an image lacks a factor.
    """

    images: tuple[str, ...]
    factors: tuple[str, ...]
    relevance: np.ndarray
    effect: np.ndarray

    def at(self, factor: str) -> tuple[np.ndarray, np.ndarray]:
        """Return relevance and effect of one factor, each (S, N)."""
        place = self.factors.index(factor)
        return self.relevance[..., place], self.effect[..., place]

    def without(self, factor: str) -> FactorValues:
        """Return all other factors."""
        kept = [i for i, name in enumerate(self.factors) if name != factor]
        names = tuple(self.factors[i] for i in kept)
        return FactorValues(self.images, names, self.relevance[..., kept], self.effect[..., kept])


def factor_values(
    results: Results, method: str, split: str, relevance: str, imputation: str = "", metric: str = RELEVANCE
) -> FactorValues | None:
    """Return the interventions on a split's images, or None where they were not measured.

    results: every observation.
    method: label of the method.
    relevance: the relevance method.
    imputation: what replaced regions; "" on drawn scenes.
    metric: of relevance.
    """
    tables: dict[str, list[tuple[tuple[str, ...], np.ndarray]]] = {}
    for factor in results.known("place", EFFECT):
        try:
            found = [
                results.pairs(
                    method,
                    method,
                    name,
                    split=split,
                    target=TRUE,
                    relevance=kind,
                    imputation=imputation,
                    place=factor,
                )
                for name, kind in ((metric, relevance), (EFFECT, ""))
            ]
        except UsageError:  # light has no place; other imputations have no such regions
            continue
        tables[factor] = [(one.images, one.first) for one in found]
    if not tables:
        return None
    images = tuple(dict.fromkeys(image for table in tables.values() for names, _ in table for image in names))
    row = {image: i for i, image in enumerate(images)}
    seeds = next(iter(tables.values()))[0][1].shape[0]
    arrays = np.full((2, seeds, len(images), len(tables)), np.nan)
    for place, table in enumerate(tables.values()):
        for array, (names, values) in zip(arrays, table):
            array[:, [row[name] for name in names], place] = values
    return FactorValues(images, tuple(tables), arrays[0], arrays[1])


def agreement_of(values: FactorValues) -> Agreement:
    """Return how well one method's maps agree with interventions; the evidence counts once, removed."""
    values = values.without(EXCHANGED)
    return agreement(values.relevance, values.effect)


def agreement_of_change(first: FactorValues, second: FactorValues) -> Agreement:
    """Return how well the change of relevance from a first method to a second agrees with the change of effects."""
    first, second = (one.without(EXCHANGED) for one in aligned(first, second))
    return agreement(second.relevance - first.relevance, second.effect - first.effect)


def factor_changes(first: FactorValues, second: FactorValues) -> list[FactorChange]:
    """Return what changed from a first method to a second, factor by factor."""
    first, second = aligned(first, second)
    found = []
    for factor in first.factors:
        (before, before_effect), (after, after_effect) = first.at(factor), second.at(factor)
        found.append(factor_change(factor, (before, after), (before_effect, after_effect)))
    return found


def aligned(first: FactorValues, second: FactorValues) -> tuple[FactorValues, FactorValues]:
    """Return both with the images and factors that both have, in the order of the first, and all pairs of seeds.

    A method without training seeds, which has one row, stands beside every seed of the other.
    """
    images = [image for image in first.images if image in set(second.images)]
    factors = [factor for factor in first.factors if factor in set(second.factors)]
    found = []
    for one in (first, second):
        rows, columns = [one.images.index(name) for name in images], [one.factors.index(name) for name in factors]
        arrays = (array[:, rows][..., columns] for array in (one.relevance, one.effect))
        found.append(FactorValues(tuple(images), tuple(factors), *arrays))
    return found[0], found[1]
