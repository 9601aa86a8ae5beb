"""Several runs on the same images: one table from which the wide CSV, the summaries and the pictures are made.

Letters: N images, T targets, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluation.images import Images
from evaluation.maps import StoredMaps
from evaluation.measurement_cache import MeasurementCache, Task
from evaluation.measurements import CHUNK
from evaluation.metrics.similarity import cosine, spearman
from evaluation.observations import Observation
from evaluation.options import AUTO, DISTRACTOR, RANDOM, RUNNER_UP
from evaluation.statistics.paired import Mean, single
from evaluation.subjects import Subject
from explain.registry import RelevanceOptions

TO_FIRST = "to_first_run"
# What stands before the target in a wide column whose target is the true class, the usual one.
FEW_TARGETS = ("share", "area", "ratio", "rank_accuracy", "pointing", "outside")


@dataclass(frozen=True)
class ComparedRun:
    """One run's part of a comparison.

    subject: the run and its images.
    stored: its maps, targets and probabilities.
    observations: what was measured of it on these images.
    second: (N,) int64, the column of `stored.targets.classes` that the second heatmap shows.
    second_is: (N,) str, the target's name: random, runner-up or distractor.
    """

    subject: Subject
    stored: StoredMaps
    observations: tuple[Observation, ...]
    second: np.ndarray
    second_is: np.ndarray

    @property
    def label(self) -> str:
        """The run's name among those compared."""
        return self.subject.label

    @property
    def correct(self) -> np.ndarray | None:
        """Whether the true class is predicted, (N,) bool; None where the run's classes are its own."""
        return None if self.subject.own_classes else self.stored.predicted == self.stored.targets.classes[:, 0]

    def shown(self) -> np.ndarray:
        """Return the two classes whose heatmaps a picture shows, (N, 2) int64."""
        classes = self.stored.targets.classes
        return np.stack([classes[:, 0], np.take_along_axis(classes, self.second[:, None], 1)[:, 0]], axis=1)

    def name(self, index: int) -> str:
        """Return the name of one of the run's classes."""
        return self.subject.run.class_names[int(index)]

    def select(self, rows: np.ndarray) -> "ComparedRun":
        """Return the part of some images, (M,) ascending rows."""
        images = self.subject.images(self.subject.options.images)
        names = {images.split.name(int(index)) for index in images.indices[rows]}
        return ComparedRun(
            replace(self.subject, pick=tuple(images.indices[rows].tolist())),
            self.stored.select(rows),
            tuple(one for one in self.observations if one.image in names),
            self.second[rows],
            self.second_is[rows],
        )


@dataclass(frozen=True)
class Comparison:
    """Several runs on the same N images.

    runs: the runs; differences are taken from the first.
    images: the images, as the first run's model takes them.
    method: the relevance method.
    """

    runs: tuple[ComparedRun, ...]
    images: Images
    method: RelevanceOptions

    @property
    def distracted(self) -> np.ndarray:
        """Whether an image shows a distractor, (N,) bool."""
        return np.any([one.stored.targets.distracted for one in self.runs], axis=0)

    def select(self, rows: np.ndarray) -> "Comparison":
        """Return the comparison on some of the images, (M,) ascending rows."""
        images = replace(self.images, indices=self.images.indices[rows])
        return Comparison(tuple(one.select(rows) for one in self.runs), images, self.method)


def compare_runs(
    subjects: Sequence[Subject], cache: MeasurementCache, second: str = AUTO, measurements: Sequence[str] = ("maps",)
) -> Comparison:
    """Measure several runs on the same images, or read what is stored.

    subjects: the runs; all with the same options, images and data.
    cache: where measurements are stored.
    second: what the second heatmap shows, a name in `evaluation.options.SECOND`.
    measurements: what is measured, names of MEASURES.
    """
    method = subjects[0].options.relevance[0]
    runs: list[ComparedRun] = []
    for subject in subjects:
        stored = cache.maps(subject, method)
        rows = [row for name in measurements for row in cache.measured(subject, Task(name, method))]
        rows += _to_first(subject, stored, runs[0].stored if runs else stored, method.method)
        runs.append(ComparedRun(subject, stored, tuple(rows), *stored.targets.second(second)))
    return Comparison(tuple(runs), subjects[0].images(subjects[0].options.images), method)


def _to_first(subject: Subject, stored: StoredMaps, first: StoredMaps, name: str) -> list[Observation]:
    """Measure the similarity of a run's first map of each image to the first run's; nothing for other grids."""
    if stored.maps.shape[2:] != first.maps.shape[2:]:
        return []
    names, found = subject.images(subject.options.images).names, {}
    for metric, measure in (("spearman", spearman), ("cosine", cosine)):
        starts = range(0, len(names), CHUNK)
        parts = [measure(stored.maps[i : i + CHUNK, 0], first.maps[i : i + CHUNK, 0]) for i in starts]
        found[metric] = np.concatenate(parts)
    return list(subject.rows(names, name, TO_FIRST, found))


# ---- one row per image and run


def wide_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return one row for each run and image, for comparison.csv.

    A column is named after metric and target, such as `entropy_random`, or after metric and region, such as
    `share_evidence`. Columns named `true` are about the class explained first: where a model has classes of its own,
    that is the predicted class, and the columns `correct` and `probability_true` are empty.
    """
    return [row for one in comparison.runs for row in _rows_of(one, comparison)]


def _rows_of(one: ComparedRun, comparison: Comparison) -> list[dict[str, Any]]:
    names, labels = comparison.images.names, comparison.images.labels
    values: dict[str, dict[str, float]] = {name: {} for name in names}
    for seen in one.observations:
        if (column := column_of(seen, one.stored.targets.first)) is not None:
            values[seen.image][column] = seen.value
    shown, own = one.shown(), one.subject.own_classes
    rows = []
    for i, name in enumerate(names):
        found = values[name]
        rows.append(
            {
                "image": name,
                "run": one.label,
                "true": one.subject.data.class_names[int(labels[i])],
                "explained": one.name(shown[i, 0]),
                "second": one.name(shown[i, 1]),
                "second_is": str(one.second_is[i]),
                "predicted": one.name(one.stored.predicted[i]),
                "correct": None if own else int(found.pop("correct")),
                "probability_true": None if own else found.pop("probability_true"),
                "probability_second": one.stored.probability[i, shown[i, 1]],
                **{key: value for key, value in found.items() if key not in ("correct", "probability_true")},
            }
        )
    return rows


def column_of(seen: Observation, first: str) -> str | None:
    """Return the wide column of an observation, or None for one that has none."""
    if seen.metric == "correct":
        return "correct"
    if seen.place and seen.metric in FEW_TARGETS:
        region = seen.place.replace(" ", "_")
        return f"{seen.metric}_{region}" + ("_for_its_class" if seen.target == DISTRACTOR else "")
    target = {first: "true", RANDOM: "random", RUNNER_UP: "runner_up"}.get(seen.target, seen.target)
    return None if seen.place else f"{seen.metric}_{target}"


# ---- summaries


def summaries(comparison: Comparison, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each run its accuracy and the mean of every number over images, with 95 % intervals.

    rows: those of `wide_rows`.
    """
    found = []
    for one in comparison.runs:
        part = [row for row in rows if row["run"] == one.label]
        columns = dict.fromkeys(key for row in part for key, value in row.items() if isinstance(value, float))
        means = {key: single([_number(row.get(key)) for row in part]) for key in columns}
        median = {
            key: _finite_median([_number(row.get(key)) for row in part]) for key in columns if key == "noise_true"
        }
        found.append(
            {
                "label": one.label,
                "folder": str(one.subject.run.folder),
                "accuracy": one.subject.run.summary.get("accuracy"),
                "accuracy_explained": None if one.correct is None else float(one.correct.mean()),
                "means": means,
                "median_noise": median,
            }
        )
    return found


def region_means(
    rows: Sequence[dict[str, Any]], labels: Sequence[str], regions: Sequence[str]
) -> dict[str, dict[str, Mean]]:
    """Return region -> run -> mean ratio of relevance to area, for the regions that some image has."""
    found: dict[str, dict[str, Mean]] = {}
    for region in regions:
        key = f"ratio_{region.replace(' ', '_')}"
        if any(key in row for row in rows):  # an image may lack a region, or all masks
            found[region] = {
                label: single([_number(row.get(key)) for row in rows if row["run"] == label]) for label in labels
            }
    return found


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _finite_median(values: Sequence[float]) -> float:
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[np.isfinite(kept)]
    return float(np.median(kept)) if len(kept) else float("nan")
