"""results.csv: every value of a study as one row per observation, and paired vectors selected from it.

Tidy data (Wickham 2014, Journal of Statistical Software 59): rows are selected by the values of their columns, so that
any two methods can be compared, metric by metric and seed by seed, without another file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

import numpy as np

from common.errors import UsageError
from common.files import atomic
from common.tables import csv_field
from evaluation.metrics.registry import info_of


@dataclass(frozen=True, slots=True)
class Observation:
    """One value of one metric for one image. Texts are "" where they do not apply.

    data: name of the data set.
    split: name of the split.
    method: label of the way to adapt, such as "dora".
    seed: the training seed; None for a model that was not trained here.
    image: name of the image; "" for a value of all images together.
    relevance: name of the relevance method.
    target: which class the map is for, such as "true" or "random".
    metric: a name in metrics.registry.METRICS.
    imputation: what replaces perturbed patches, such as "mean".
    place: where in the image, the model or a curve: a region, a block, the share of patches imputed.
    value: NaN where it does not exist.
    """

    data: str
    split: str
    method: str
    seed: int | None
    image: str
    relevance: str
    target: str
    metric: str
    imputation: str
    place: str
    value: float


COLUMNS = tuple(column.name for column in fields(Observation))
EARLIER_COLUMNS = tuple(
    "removal" if name == "imputation" else name for name in COLUMNS
)  # before the column was renamed
# what two paired observations share, besides metric and image
CONDITIONS = ("data", "split", "relevance", "target", "imputation", "place")
KEY = (*CONDITIONS, "metric", "method", "seed")
METHOD, SEED = KEY.index("method"), KEY.index("seed")


def write_results(path: str | Path, observations: Iterable[Observation]) -> int:
    """Write observations one by one, never all in memory; the file gets its name when it is complete.

    path: the CSV file.
    observations: values are written with six significant digits, NaN as an empty field.
    Returns the number of observations.
    Raises ValueError for a metric that is not in metrics.registry.METRICS: readers would find no title or direction.
    """
    count, others = 0, attrgetter(*COLUMNS[:-1])
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for observation in observations:
            info_of(observation.metric)
            writer.writerow((*others(observation), csv_field(observation.value)))
            count += 1
    return count


def read_results(path: str | Path) -> Iterator[Observation]:
    """Yield the observations of a file that `write_results` wrote, one by one.

    path: the CSV file; an earlier one, whose column `imputation` was called `removal`, is read too.
    Raises UsageError, naming the line, for other columns and for a seed or value that is not a number.
    """
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        if (found := tuple(next(reader, ()))) not in (COLUMNS, EARLIER_COLUMNS):
            raise UsageError(
                f"{path}: expected the columns {','.join(COLUMNS)}, got {','.join(found) or 'none'}; "
                f"give a results.csv of this version"
            )
        for row in reader:
            try:
                observation = _observation(*row)
            except (TypeError, ValueError) as error:
                raise UsageError(
                    f"{path}, line {reader.line_num}: expected {len(COLUMNS)} fields with a whole number "
                    f"as seed and a number as value, got {','.join(row)}; write the file again"
                ) from error
            yield observation


def _observation(data: str, split: str, method: str, seed: str, *texts: str) -> Observation:
    image, relevance, target, metric, imputation, place, value = texts
    about = (data, split, method, int(seed) if seed else None)
    return Observation(
        *about, image, relevance, target, metric, imputation, place, float(value) if value else float("nan")
    )


@dataclass(frozen=True)
class Pairs:
    """Two methods' values for the images that every seed of both has, in the same order.

    images: N names.
    seeds: S training seeds.
    first: (S, N) float64 of the first method; NaN where a value does not exist.
    second: (S, N) float64 of the second method.
    n_missing: images left out because a seed of either method has no row for them.
    """

    images: tuple[str, ...]
    seeds: tuple[int | None, ...]
    first: np.ndarray
    second: np.ndarray
    n_missing: int


class Results:
    """Observations in memory, grouped by condition, metric, method and seed.

    observations: any number of them.
    Raises UsageError when one is there twice.
    """

    def __init__(self, observations: Iterable[Observation]) -> None:
        self._values: dict[tuple, dict[str, float]] = {}
        key = attrgetter(*KEY)
        for o in observations:
            images = self._values.setdefault(key(o), {})
            if o.image in images:
                raise UsageError(f"results: {o} is there twice; expected one row for each {', '.join(COLUMNS[:-1])}")
            images[o.image] = o.value

    def known(self, column: str, metric: str | None = None) -> list:
        """Return the different values of a column, in order of first appearance.

        column: any but image and value.
        metric: only rows of this metric; None: all rows.
        """
        wanted, place = KEY.index(column), KEY.index("metric")
        return list(dict.fromkeys(key[wanted] for key in self._values if metric in (None, key[place])))

    def pairs(self, first: str, second: str, metric: str, seed: int | None = None, **conditions: str) -> Pairs:
        """Select the values of one metric for two methods, paired by image and seed.

        A method without training seeds (not trained here) is paired with every seed of the other. Images are in the
        order of the first method's rows.

        first, second: labels of the methods.
        metric: name of the metric.
        seed: one training seed; None: all seeds that both methods have.
        conditions: values of columns in CONDITIONS. A column that is not given must have one value in all rows of this
            metric and these methods.
        Raises UsageError, naming what exists, when no row fits, there is no common seed, or a condition that was not
            given has several values; TypeError for another condition.
        """
        by_seed = self._by_seed((first, second), metric, conditions)
        seeds = _common_seeds(*by_seed) if seed is None else [seed]
        try:
            parts = [[found.get(None) or found[s] for s in seeds] for found in by_seed]
        except KeyError:
            seeds = []
        if not seeds:
            wanted = "a common training seed" if seed is None else f"training seed {seed}"
            has = [f"{', '.join(map(str, found))} of {name}" for name, found in zip((first, second), by_seed)]
            raise UsageError(
                f"results: expected {wanted} of {first} and {second} for {metric}, got "
                f"{' and '.join(has)}; train both with the same seeds"
            )
        everywhere = [set(images) for part in parts for images in part]
        images = tuple(image for image in parts[0][0] if all(image in part for part in everywhere))
        a, b = (
            np.array([[values[image] for image in images] for values in part]).reshape(len(seeds), -1) for part in parts
        )
        return Pairs(images, tuple(seeds), a, b, len(set().union(*everywhere)) - len(images))

    def _by_seed(self, methods: tuple[str, str], metric: str, conditions: dict[str, str]) -> list[dict]:
        """Return, for each method, seed -> image -> value, under conditions that select one group of rows."""
        if unknown := conditions.keys() - set(CONDITIONS):
            raise TypeError(f"pairs: expected conditions among {', '.join(CONDITIONS)}, got {', '.join(unknown)}")
        wanted = {"metric": metric, **conditions}
        fitting = {
            key: images
            for key, images in self._values.items()
            if all(key[KEY.index(name)] == value for name, value in wanted.items())
        }
        by_method = [{key: images for key, images in fitting.items() if key[METHOD] == method} for method in methods]
        for method, found in zip(methods, by_method):
            if not found:
                row = ", ".join(f"{name} {value}" for name, value in {**wanted, "method": method}.items())
                raise UsageError(
                    f"results: no row with {row}; methods: {', '.join(self.known('method'))}; "
                    f"metrics: {', '.join(self.known('metric'))}"
                )
        for column, name in enumerate(CONDITIONS):
            if len(values := {key[column]: None for found in by_method for key in found}) > 1:
                raise UsageError(
                    f"results: {metric} of {' and '.join(methods)} has several values of {name} "
                    f"({', '.join(values)}); give one of them"
                )
        return [{key[SEED]: images for key, images in found.items()} for found in by_method]


def _common_seeds(first: dict, second: dict) -> list[int | None]:
    if None in first or None in second:
        return list(second if None in first else first)
    return [seed for seed in first if seed in second]
