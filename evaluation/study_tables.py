"""Arrays and rows for the figures and tables of a study's reports.

Letters: S training seeds, N images, T points of a curve.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.tables import number
from evaluation.options import DISTRACTOR, RUNNER_UP, TRUE
from evaluation.quantities import Quantity
from evaluation.regions import REGIONS
from evaluation.statistics.paired import Mean, single
from evaluation.study_results import StudyResults


@dataclass(frozen=True)
class PerturbationCurves:
    """One method's curves of the true class's probability as patches are removed; arrays (S, N, T).

    morf: the most relevant patches first. lerf: the least relevant first. random: random maps, the baseline.
    """

    method: str
    morf: np.ndarray
    lerf: np.ndarray
    random: np.ndarray


def curves_of(study: StudyResults, relevance: str, imputation: str) -> tuple[np.ndarray, list[PerturbationCurves]]:
    """Return the fractions removed (T,), and each method's curves with the baseline of its random maps."""
    places = sorted(study.results.known("place", "morf_curve"), key=float)

    def stacked(method: str, order: str, of: str) -> np.ndarray:
        quantities = [Quantity(f"{order}_curve", imputation=imputation, place=place) for place in places]
        found = [values for one in quantities if (values := study.values(method, one, of)) is not None]
        return np.stack(found, axis=-1)

    return np.array([float(place) for place in places]), [
        PerturbationCurves(
            method,
            stacked(method, "morf", relevance),
            stacked(method, "lerf", relevance),
            (stacked(method, "morf", "random") + stacked(method, "lerf", "random")) / 2,
        )
        for method in study.methods
    ]


def region_rows(study: StudyResults, relevance: str, split: str) -> list[dict[str, Any]]:
    """Return where the true class's relevance lies on a split with masks, one row per region and method."""
    rows = []
    for region in REGIONS:
        for method in study.methods:
            values = study.values(method, Quantity("ratio", split=split, place=region), relevance)
            if values is not None:
                rows.append(_region(split, region, method, values))
    for method in study.methods:
        own = study.values(method, Quantity("share", DISTRACTOR, split, place="distractor"), relevance)
        other = study.values(method, Quantity("share", TRUE, split, place="distractor"), relevance)
        if own is not None and other is not None and own.shape == other.shape:
            what = "distractor: its own class's share minus the true class's share"
            rows.append(_region(split, what, method, own - other))
    return rows


def _region(split: str, region: str, method: str, values: np.ndarray) -> dict[str, Any]:
    means = [float(v[np.isfinite(v)].mean()) if np.isfinite(v).any() else None for v in values]
    return {
        "split": split,
        "region": region,
        "method": method,
        "ratio [95 %]": mean_of(values, 2),
        "each seed": ", ".join(number(mean, 2) for mean in means),
        "images": values.shape[1],
    }


def mean_of(values: np.ndarray, digits: int = 3) -> str:
    """Return the mean over seeds and images of (S, N), with its interval over images, as text."""
    found = single(values.mean(0))
    return f"{number(found.mean, digits)} [{number(found.low, digits)}, {number(found.high, digits)}]"


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that some run confuses.

    true, predicted: the classes. images: images where every run has `predicted` as its runner-up. confused: how often
    any run predicts it for `true`. similarity: method -> mean similarity of the two classes' maps on these images.
    """

    true: str
    predicted: str
    images: int
    confused: int
    similarity: dict[str, Mean]


def confused_pairs(study: StudyResults) -> list[ConfusedPair]:
    """Return the pairs of classes that some run confuses, with the similarity of the two classes' maps.

    Only images where every run has the other class as its runner-up count, so that all are asked about the same
    classes.
    """
    main, classes = study.relevances[0], study.data.class_names
    values = {method: study.values(method, Quantity("spearman", RUNNER_UP), main) for method in study.methods}
    known = {method: found for method, found in values.items() if found is not None}
    if len(known) < len(values):
        return []
    shared = _shared_runner_up(study)
    order = {name: i for i, name in enumerate(study.runners_up[study.methods[0], study.seeds[0]])}
    pairs = []
    for (true, other), times in _confusions(study, set(order)).items():
        images = [order[name] for name, (a, b) in shared.items() if (classes[a], classes[b]) == (true, other)]
        similarity = {method: single(found[:, images].mean(0)) for method, found in known.items()}
        pairs.append(ConfusedPair(true, other, len(images), times, similarity))
    return pairs


def _confusions(study: StudyResults, measured: set[str]) -> dict[tuple[str, str], int]:
    """Return how often each class is predicted for another, over runs and the measured images."""
    confused: dict[tuple[str, str], int] = {}
    for method, seed in study.runs:
        for row in study.predictions(method, seed, study.split):
            if row["correct"] != 1 and row["image"] in measured:
                key = row["label"], row["predicted"]
                confused[key] = confused.get(key, 0) + 1
    return confused


def _shared_runner_up(study: StudyResults) -> dict[str, tuple[int, int]]:
    """Return image -> (true class, runner-up), where every method and seed has the same runner-up."""
    first, *found = study.runners_up.values()
    return {name: row for name, row in first.items() if all(one.get(name) == row for one in found)}
