"""All that a study measured and predicted on one data set, picked out as paired arrays.

Letters: S training seeds, N images.
"""

import csv
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import ExplainedError, UsageError, in_one_line
from data.datasets import ImageData
from evaluation.observations import Results
from evaluation.quantities import Quantity
from evaluation.statistics.depth import DepthRun
from models.methods import MethodSettings
from models.runs import Run


@dataclass
class StudyResults:
    """All that was measured and predicted on one data set.

    out: the study's folder.
    data: the data set.
    methods: labels of the methods, in the order asked for.
    settings: what the methods are, in the same order.
    seeds: the training seeds.
    relevances: names of the relevance methods; claims and pictures use the first.
    imputations: what replaced removed patches; claims and pictures use the first.
    runs: (label, seed) -> run.
    results: every observation.
    depth: (label, seed) -> the run before fine-tuning and this one, by depth.
    runners_up: (label, seed) -> image of `val` -> its class and the runner-up's number.
    measured: kinds of measurements that were asked for.
    """

    out: Path
    data: ImageData
    methods: list[str]
    settings: list[MethodSettings]
    seeds: list[int]
    relevances: list[str]
    imputations: list[str]
    runs: dict[tuple[str, int], Run]
    results: Results
    depth: dict[tuple[str, int], tuple[DepthRun, DepthRun]] = field(default_factory=dict)
    runners_up: dict[tuple[str, int], dict[str, tuple[int, int]]] = field(default_factory=dict)
    measured: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return Path(self.data.name).name

    @property
    def splits(self) -> list[str]:
        return self.results.known("split")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two methods, a linear probe before DoRA, as in the earlier study."""
        kinds = dict(zip(self.methods, self.settings))
        return [(b, a) if judged(kinds[b], kinds[a]) else (a, b) for a, b in combinations(self.methods, 2)]

    def values(self, method: str, quantity: Quantity, relevance: str) -> np.ndarray | None:
        """Values (S, N) of one method, or None where this was not measured."""
        found = self.both(method, method, quantity, relevance)
        return None if found is None else found[0]

    def both(self, first: str, second: str, quantity: Quantity, relevance: str) -> tuple[np.ndarray, np.ndarray] | None:
        try:
            found = self.results.pairs(
                first,
                second,
                quantity.metric,
                split=quantity.split,
                target=quantity.target,
                relevance=relevance,
                imputation=quantity.imputation,
                place=quantity.place,
            )
        except UsageError:  # not asked for, or not defined here
            return None
        return found.first, found.second

    def predictions(self, method: str, seed: int, split: str) -> list[dict]:
        """Return the rows of a run's predictions.csv for a split; raises as `predictions_of` does."""
        return predictions_of(self.runs[method, seed].folder, self.data, split)

    def correct(self, method: str, split: str) -> np.ndarray:
        """Which images of a split are predicted rightly, (S, N)."""
        return np.array([[row["correct"] == 1 for row in self.predictions(method, seed, split)] for seed in self.seeds])


def judged(first: MethodSettings, second: MethodSettings) -> bool:
    """Tell whether the earlier study's claims are about these two: a linear probe and DoRA."""
    return (first.method, second.method) == ("linear", "dora")


def predictions_of(folder: Path, data: ImageData, split: str) -> list[dict[str, Any]]:
    """Return the rows of a run's predictions.csv for a split: probability and correct are numbers, the rest is text.

    folder: the run.
    data: the images that it was evaluated on.
    split: a split of the data, "train" or "held_out".
    Raises ExplainedError where the file is missing or damaged.
    """
    path = folder / "predictions.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        found = [row | {name: float(row[name]) for name in ("probability", "correct")} for row in rows]
        count = len(data.splits[split]) if split not in ("train", "held_out") else len(found)
        if len(found) != count:
            raise ValueError(f"it has {len(found)} of {count} images of {split}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ExplainedError(
            f"{path} is damaged ({in_one_line(error)}); train the run again with --overwrite, or remove {folder}"
        ) from error
    return found
