"""The maps of a run on a split, computed once, stored, and read wherever numbers or pictures need them.

Letters: N images, T targets, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import processes
from common.files import atomic
from evaluation.images import Images, probabilities_of
from evaluation.subjects import Subject
from evaluation.targets import Targets, choose_targets
from explain import relevance
from explain.registry import RelevanceOptions
from explain.storage import save_chunks


@dataclass(frozen=True)
class StoredMaps:
    """Maps of all targets of some images, in a file that is read as they are needed.

    maps: (N, T, grid_h, grid_w) float32, usually a memory map.
    targets: the classes explained.
    probability: (N, C) float64, the run's probabilities.
    """

    maps: np.ndarray
    targets: Targets
    probability: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The predicted classes, (N,) int64."""
        return self.probability.argmax(1)

    def select(self, rows: np.ndarray) -> "StoredMaps":
        """Return those of some images, (M,) rows, read from the file."""
        found = self.targets
        targets = Targets(found.classes[rows], found.random_classes, found.distracted[rows], found.first)
        return StoredMaps(self.maps[rows], targets, self.probability[rows])

    @classmethod
    def load(cls, path: Path) -> "StoredMaps":
        """Read what `store_maps` wrote; the maps themselves stay in their file."""
        with np.load(files_of(path)[1]) as found:
            targets = Targets(found["classes"], int(found["random_classes"]), found["distracted"], str(found["first"]))
            return cls(np.load(files_of(path)[0], mmap_mode="r"), targets, found["probability"])


def files_of(path: Path) -> tuple[Path, Path]:
    """Return the two files that hold maps stored as `path`: the maps, and targets with probabilities."""
    return path.with_suffix(".npy"), path.with_suffix(".npz")


def store_maps(subject: Subject, method: RelevanceOptions, path: Path) -> StoredMaps:
    """Compute the maps of all targets of a subject's images, write them, and return them.

    All processes that torchrun started compute them together, batch by batch.

    subject: the run and its images (`options.images` of them).
    method: the relevance method.
    path: where they are stored, see `files_of`.
    """
    images = subject.images(subject.options.images)
    probability = probabilities_on(subject, images)
    targets = choose_targets(subject, images, probability)
    maps = save_chunks(files_of(path)[0], compute_maps(subject, images, targets.classes, method), len(images))
    with atomic(files_of(path)[1]) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            classes=targets.classes,
            random_classes=targets.random_classes,
            distracted=targets.distracted,
            first=targets.first,
            probability=probability,
        )
    return StoredMaps(maps, targets, probability)


def compute_maps(
    subject: Subject, images: Images, classes: np.ndarray, method: RelevanceOptions, **options
) -> Iterator[np.ndarray]:
    """Yield the maps (B, T, grid_h, grid_w), float32, of each batch, computed by all processes together.

    classes: (N, T), the targets of each image.
    options: further options of `explain.relevance`.
    """

    def work(batches: Sequence[range]) -> Iterator[np.ndarray]:
        for rows, x in zip(batches, images.read(batches)):
            maps = explain_batch(subject, x, classes[rows.start : rows.stop], method, **options)
            yield maps.cpu().numpy().astype(np.float32, copy=False)

    return _shared(subject, images, work, method.method)


def explain_batch(subject: Subject, x: Tensor, classes: np.ndarray, method: RelevanceOptions, **options):
    """Return `explain.relevance` of images (B, 3, H, W) for classes (B, T), on the subject's device."""
    targets = torch.from_numpy(classes).to(subject.device)
    return relevance(subject.model, x.to(subject.device), targets, method.method, **method.keywords() | options)


def probabilities_on(subject: Subject, images: Images) -> np.ndarray:
    """Return the run's probabilities (N, C), float64, computed by all processes together."""

    def work(batches: Sequence[range]) -> Iterator[np.ndarray]:
        return (probabilities_of(subject.run, x, subject.device) for x in images.read(batches))

    return np.concatenate(list(_shared(subject, images, work, "predictions")))


def _shared(subject: Subject, images: Images, work, what: str) -> Iterator[np.ndarray]:
    return iter(subject.progress(what, processes.distribute(images.batches, work), len(images.batches)))
