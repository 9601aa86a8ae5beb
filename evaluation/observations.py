"""results.csv: every figure of a study as one row an observation, and paired vectors picked out of it.

Tidy (Wickham 2014, Journal of Statistical Software 59): what is compared later is chosen by values in columns, so that
any two methods, metric by metric and seed by seed, can be set against each other without another file.
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


@dataclass(frozen=True, slots=True)
class Observation:
    """One figure of one image. Texts are '' where they do not apply: a probability has no relevance method, ...

    seed: the training seed; None for a model that was not trained here. removal: what takes the place of removed
    patches. place: where in the image, the model or a curve: a region, a block, a share removed. value: NaN where it
    does not exist.
    """

    data: str
    split: str
    method: str
    seed: int | None
    image: str
    relevance: str
    target: str
    metric: str
    removal: str
    place: str
    value: float


COLUMNS = tuple(column.name for column in fields(Observation))
# what two paired observations share, besides metric and image
CONDITIONS = ("data", "split", "relevance", "target", "removal", "place")
KEY = (*CONDITIONS, "metric", "method", "seed")
METHOD, SEED = KEY.index("method"), KEY.index("seed")


def write_results(path: str | Path, observations: Iterable[Observation]) -> int:
    """Write observations as they come, never all in memory; return their number. Values have six significant digits,
    and NaN is an empty field. The file takes its name when it is whole."""
    count, others = 0, attrgetter(*COLUMNS[:-1])
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for count, observation in enumerate(observations, 1):
            writer.writerow((*others(observation), csv_field(observation.value)))
    return count


def read_results(path: str | Path) -> Iterator[Observation]:
    """Yield the observations of a file that `write_results` wrote, one by one.

    Raises UsageError, naming the line, for other columns and for a seed or value that is no number.
    """
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        if (found := tuple(next(reader, ()))) != COLUMNS:
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


def _observation(data, split, method, seed, *texts) -> Observation:
    *texts, value = texts
    return Observation(
        data, split, method, int(seed) if seed else None, *texts, float(value) if value else float("nan")
    )


@dataclass(frozen=True)
class Pairs:
    """Two methods' figures of the images that every seed of both has, in the same order.

    images: N names; seeds: S training seeds; first, second: (S, N) float64, NaN where a value does not exist.
    n_missing: images left out because a seed of either method has no row for them.
    """

    images: tuple[str, ...]
    seeds: tuple[int | None, ...]
    first: np.ndarray
    second: np.ndarray
    n_missing: int


class Results:
    """Observations in memory, by what they are about. Raises UsageError when one is there twice."""

    def __init__(self, observations: Iterable[Observation]) -> None:
        self._values: dict[tuple, dict[str, float]] = {}
        key = attrgetter(*KEY)
        for o in observations:
            images = self._values.setdefault(key(o), {})
            if o.image in images:
                raise UsageError(f"results: {o} is there twice; expected one row for each of {', '.join(COLUMNS[:-1])}")
            images[o.image] = o.value

    def known(self, column: str, metric: str | None = None) -> list:
        """Return the different values of a column other than image and value, of one metric or of all, in order of
        first appearance."""
        wanted, place = KEY.index(column), KEY.index("metric")
        return list(dict.fromkeys(key[wanted] for key in self._values if metric in (None, key[place])))

    def pairs(self, first: str, second: str, metric: str, seed: int | None = None, **conditions: str) -> Pairs:
        """Pick a metric of two methods: of `seed`, or of all seeds that both have.

        conditions: names of CONDITIONS; what is left out has to be the same in all rows of this metric and
        these methods. A method without training seeds (not trained here) is paired with every seed of the other.
        Images stand in the order of the first method's first rows. Raises UsageError, naming what there is, when no
        row fits, no seed is in common, or a condition that was left out has several values; TypeError for another one.
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
        """Of each method, seed -> image -> value, under conditions that leave nothing open."""
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
                    f"({', '.join(values)}); say which"
                )
        return [{key[SEED]: images for key, images in found.items()} for found in by_method]


def _common_seeds(first: dict, second: dict) -> list[int | None]:
    if None in first or None in second:
        return list(second if None in first else first)
    return [seed for seed in first if seed in second]
