"""Which runs can be explained and compared, and a run together with the images that it is asked about."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.devices import batch_size_of
from common.errors import UsageError
from data.datasets import ImageData, Split
from data.sampling import stratified
from evaluation.images import Images
from evaluation.observations import Observation
from evaluation.options import MeasurementOptions
from explain import UnsupportedModel, check_explainable
from models.backbone import architecture, content_hash
from models.external import check_known, is_pretrained, load_model
from models.options import BackboneSpec, ExternalOptions
from models.runs import Run


def load_explainable(given: Sequence[str], options: ExternalOptions) -> list[Run]:
    """Load runs and models trained elsewhere; raises UsageError where relevance cannot follow one's model."""
    check_known(given)
    return [_load_explainable(name, options) for name in given]


def _load_explainable(given: str, options: ExternalOptions) -> Run:
    if is_pretrained(given):  # refused before its weights are downloaded
        blank = architecture(BackboneSpec(given, options.weights, options.image_size))
        if blank.num_classes:  # otherwise loading says that it has no head
            require_explainable(blank, given)
    run = load_model(given, options)
    require_explainable(run.model, given)
    return run


def require_explainable(model: torch.nn.Module, name: str) -> None:
    """Raise UsageError, with the unsupported part, where a model cannot be explained."""
    try:
        check_explainable(model)
    except UnsupportedModel as error:
        raise UsageError(f"{name} cannot be explained: {error}") from error


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise UsageError unless all runs of train.py have the same classes in the same order."""
    trained = [run for run in runs if run.config.data is not None]
    for run in trained[1:]:
        if run.class_names != trained[0].class_names:
            odd = sorted(set(run.class_names) ^ set(trained[0].class_names))[:5]
            raise UsageError(
                f"{trained[0].folder} and {run.folder} have different classes "
                f"({', '.join(odd) or 'same names, other order'}); train both on the same data"
            )


def knows_classes(run: Run, class_names: Sequence[str]) -> bool:
    """Tell whether a run's classes are these, in any order."""
    return sorted(run.class_names) == sorted(class_names)


def labels_of(runs: Sequence[Run]) -> list[str]:
    """Return the methods' labels, made unique by seed or folder where they repeat."""
    labels = [run.label for run in runs]
    if len(set(labels)) < len(labels):
        labels = [run.label if run.config.seed is None else f"{run.label} seed {run.config.seed}" for run in runs]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({run.folder.name})" for label, run in zip(labels, runs)]
    if len(set(labels)) < len(labels):  # files of one name in two folders
        labels = [f"{run.label} ({run.folder})" for run in runs]
    return labels


@dataclass(frozen=True)
class Subject:
    """A run, the images that it is asked about, and how.

    run: the run; its model is moved to `device` when it is used.
    label: the name of the run's method in results.
    data: the data set.
    split_name: the split.
    options: which measurements, images and classes.
    device: where to compute.
    workers: processes that load images.
    pick: indices of the images to use instead of a sample of `options.images`.
    correct: names of the images that all compared runs predict correctly, for the grid pointing game.
    """

    run: Run
    label: str
    data: ImageData
    split_name: str
    options: MeasurementOptions
    device: torch.device
    workers: int = 0
    pick: tuple[int, ...] = ()
    correct: frozenset[str] = frozenset()

    @property
    def split(self) -> Split:
        """The split's images."""
        return self.data.splits[self.split_name]

    @property
    def own_classes(self) -> bool:
        """Whether the run's classes are not those of the data: it is then explained for its predictions."""
        return not knows_classes(self.run, self.data.class_names)

    @cached_property
    def model(self) -> torch.nn.Module:
        """The run's model on the device."""
        return self.run.model.to(self.device)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the model's weights, its data config and its class names."""
        about = json.dumps([self.run.config.data_config, self.run.class_names])
        return hashlib.sha256((content_hash(self.run.model, head=True) + about).encode()).hexdigest()

    def images(self, count: int | None = None, batch_size: int | None = None) -> Images:
        """Return `count` images (None: all) that keep the proportions of the classes; the same for every run.

        A smaller choice is a part of a larger one. `pick`, where given, is returned instead.
        """
        split, size = self.split, len(self.split)
        indices = (
            np.array(self.pick)
            if self.pick
            else stratified(split.labels, min(count or size, size), self.options.data_seed)
        )
        at_once = batch_size or batch_size_of(self.options.batch_size, self.device, len(indices))
        return Images(split, indices, self.run.config.data_config, at_once, self.workers)

    def observe(
        self,
        image: str,
        relevance: str,
        target: str,
        metric: str,
        value: float,
        imputation: str = "",
        place: str = "",
    ) -> Observation:
        """Return one value of one image as a row of results.csv; see Observation."""
        name = Path(self.data.name).name
        about = (name, self.split_name, self.label, self.run.config.seed)
        return Observation(*about, image, relevance, target, metric, imputation, place, float(value))

    def rows(
        self,
        names: Sequence[str],
        relevance: str,
        target: str,
        columns: dict[str, np.ndarray],
        imputation: str = "",
        place: str = "",
    ) -> Iterator[Observation]:
        """Yield the values (N,) of several metrics, metric -> values, of the images of these names."""
        for metric, values in columns.items():
            for image, value in zip(names, values):
                yield self.observe(image, relevance, target, metric, value, imputation, place)

    def progress(self, what: str, batches: Iterable, total: int) -> Iterable:
        """Show a progress bar over batches, after two seconds, where the output is a terminal."""
        title = f"{what}, {self.label}"
        return tqdm(batches, desc=title, total=total, unit="batch", delay=2, leave=False, disable=None)
