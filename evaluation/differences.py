"""Methods compared two by two, quantity by quantity, with intervals, tests and verdicts.

Letters: S training seeds, N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.tables import estimate, number, percent
from evaluation.quantities import Quantity
from evaluation.statistics.measured import Measured, correct_family, measure, measure_accuracy
from evaluation.statistics.verdicts import Judgement, judge, remarks
from evaluation.study_results import StudyResults


@dataclass(frozen=True)
class Difference:
    """Two methods compared by one metric, first less second: each image's difference, averaged over seeds, (N,)."""

    quantity: Quantity
    pair: tuple[str, str]
    measured: Measured
    each: np.ndarray
    corrected_p: float
    judgement: Judgement

    @property
    def says(self) -> str:
        """Which method's value is higher, across seeds or for these images, or why that is undecided."""
        if not self.decided:
            digits = 1 if self.quantity.percent else 3
            beside = remarks(self.measured, self.judgement, self.scale, self._unit.strip(), digits)
            return f"undecided ({beside})"
        return f"{self.pair[0 if self.judgement.side == 'claimed' else 1]} higher {self.judgement.scope}"

    @property
    def decided(self) -> bool:
        return self.judgement.side != "undecided"

    @property
    def scale(self) -> int:
        return 100 if self.quantity.percent else 1

    @property
    def estimate(self) -> str:
        m = self.measured
        return estimate(*(self.scale * value for value in (m.difference, m.low, m.high))) + self._unit

    @property
    def means(self) -> tuple[str, str]:
        """Both methods' means, over images and seeds."""
        show = percent if self.quantity.percent else number
        return show(self.measured.mean_a), show(self.measured.mean_b)

    @property
    def _unit(self) -> str:
        return " points" if self.quantity.percent else ""


def compared(
    study: StudyResults,
    quantities: Sequence[Quantity],
    relevance: str,
    splits: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] | None = None,
) -> list[Difference]:
    """Compare pairs of methods (default: all) by metrics, and by accuracy on some splits; one family of p-values."""
    found, pairs = [], study.pairs if pairs is None else pairs
    for split in splits:
        quantity = Quantity("correct", split=split)
        for pair in pairs:
            a, b = (study.correct(method, split) for method in pair)
            found.append((quantity, pair, measure_accuracy(a, b), (a * 1.0 - b).mean(0)))
    for quantity in quantities:
        for pair in pairs:
            values = study.both(*pair, quantity, relevance)
            if values is not None and np.isfinite(values[0] - values[1]).any():
                found.append((quantity, pair, measure(*values), (values[0] - values[1]).mean(0)))
    corrected = correct_family([m for _, _, m, _ in found])
    return [
        Difference(quantity, pair, m, each, p, judge(m, 1, p))
        for (quantity, pair, _, each), (m, p) in zip(found, corrected)
    ]


def difference_rows(found: Sequence[Difference]) -> list[dict]:
    """Rows of a table of differences."""
    return [
        {
            "": one.quantity.title,
            "first": one.pair[0],
            "its mean": one.means[0],
            "second": one.pair[1],
            "mean": one.means[1],
            "difference [95 %, images]": one.estimate,
            "seed by seed; mean [95 %, seeds]": _seeds(one),
            "images": one.measured.n,
            "says": one.says,
        }
        for one in found
    ]


def _seeds(one: Difference) -> str:
    s, digits = one.measured.seeds, 1 if one.quantity.percent else 3
    each = ", ".join(number(one.scale * d, digits, signed=True) for d in s.differences)
    return each if len(s.differences) == 1 else f"{each}; {estimate(*(one.scale * v for v in (s.mean, s.low, s.high)))}"
