"""Methods compared two by two, quantity by quantity, with intervals, tests and verdicts.

Letters: S training seeds, N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.tables import ABSENT, estimate, number, percent
from evaluation.quantities import Quantity
from evaluation.statistics.paired import holm
from evaluation.statistics.verdicts import Judgement, Measured, judge, measure, measure_accuracy
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
        """What interval, seeds and corrected p-value leave: which method's figure is higher, or why that is open."""
        if self.judgement.word == "undecided":
            least = number(self.scale * self.measured.smallest_detectable, 1 if self.quantity.percent else 3)
            least += self._unit if least != ABSENT else ""
            return (
                "undecided (" + "; ".join(filter(None, (self.judgement.reason, f"smallest detectable {least}"))) + ")"
            )
        return f"{self.pair[0 if self.judgement.word == 'supported' else 1]} higher"

    @property
    def decided(self) -> bool:
        return self.judgement.word != "undecided"

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
    corrected = holm([m.p_value for _, _, m, _ in found]) if found else []
    return [
        Difference(quantity, pair, m, each, p, judge(m, 1, p)) for (quantity, pair, m, each), p in zip(found, corrected)
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
