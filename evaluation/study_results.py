"""All that a study measured and predicted on one data set, picked out as paired arrays.

Letters: S training seeds, N images.
"""

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UsageError
from data.datasets import ImageData
from evaluation.observations import Results
from evaluation.predictions import Rows, predictions_of
from evaluation.quantities import Quantity
from evaluation.statistics.classification import accuracy_of
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
    split: the split that claims are judged on.
    predicted: (label, seed) -> the predictions of this split.
    depth: (label, seed) -> the run before fine-tuning and this one, by depth.
    runners_up: (label, seed) -> image of `split` -> its class and the runner-up's number.
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
    split: str = "val"
    predicted: dict[tuple[str, int], Rows] = field(default_factory=dict)
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
                split=quantity.split or self.split,
                target=quantity.target,
                relevance=relevance,
                imputation=quantity.imputation,
                place=quantity.place,
            )
        except UsageError:  # not asked for, or not defined here
            return None
        return found.first, found.second

    def predictions(self, method: str, seed: int, split: str) -> Rows:
        """Return a run's predictions of a split; raises as `predictions_of` does."""
        if split == self.split and (method, seed) in self.predicted:
            return self.predicted[method, seed]
        return predictions_of(self.runs[method, seed].folder, self.data, split)

    def accuracies(self, method: str, seed: int) -> dict[str, dict[str, Any]]:
        """Return split -> accuracy of a run, with images and Wilson's interval, as in its summary.json."""
        run = self.runs[method, seed]
        found = dict(run.summary["accuracy"])
        if self.split not in found:
            found[self.split] = accuracy_of(self.correct_of(method, seed, self.split))
        return found

    def correct_of(self, method: str, seed: int, split: str) -> list[bool]:
        """Which images of a split a run predicts rightly."""
        return [row["correct"] == 1 for row in self.predictions(method, seed, split)]

    def correct(self, method: str, split: str) -> np.ndarray:
        """Which images of a split are predicted rightly, (S, N)."""
        return np.array([self.correct_of(method, seed, split) for seed in self.seeds])


def judged(first: MethodSettings, second: MethodSettings) -> bool:
    """Tell whether the earlier study's claims are about these two: a linear probe and DoRA."""
    return (first.method, second.method) == ("linear", "dora")
