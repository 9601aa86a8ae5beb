"""The order of images in training and evaluation, independent of the number of processes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.training.frozen_features import Features
from models.training.loading import Batch


@dataclass(frozen=True)
class Batches:
    """Steps of images in an order that depends on (seed, epoch) alone.

    count: number of images.
    batch_size: images per step.
    make: (lists of indices, epoch) -> an iterable of (inputs, labels), one for each list.
    seed: of the random order; None keeps the given order.
    chances: probability (count,) of each image to be drawn, with replacement; None takes each image once.
    name: index -> name of the image, for messages.
    """

    count: int
    batch_size: int
    make: Callable[[list[list[int]], int], Iterable[Batch]]
    seed: int | None = None
    chances: np.ndarray | None = None
    name: Callable[[int], str] = str

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def steps(self, epoch: int) -> list[list[int]]:
        """Return the images of every step of an epoch, over all processes."""
        if self.seed is None:
            order = np.arange(self.count)
        else:
            generator = np.random.default_rng((self.seed, epoch))
            order = (
                generator.permutation(self.count)
                if self.chances is None
                else generator.choice(self.count, self.count, p=self.chances)
            )
        return [order[start : start + self.batch_size].tolist() for start in range(0, self.count, self.batch_size)]

    def epoch(self, epoch: int) -> Iterable[Batch]:
        """Return an epoch's steps as batches, for one process alone."""
        return self.make(self.steps(epoch), epoch)


def deal(step: Sequence[int], part: int, parts: int) -> list[int]:
    """Return the images of one of `parts` parts of a step: every `parts`-th, possibly none."""
    return list(step[part::parts])


def stored_batches(views: Sequence[Features], batch_size: int, seed: int | None = None, **options) -> Batches:
    """Return batches of cached features or tokens, read when they are needed.

    views: the same images in several augmentations, one after another, one per epoch.
    batch_size, seed, options: of Batches.
    """

    def make(batches: list[list[int]], epoch: int) -> Iterator[Batch]:
        view = views[(epoch - 1) % len(views)]
        return ((view.rows(indices), view.labels[indices]) for indices in batches)

    return Batches(len(views[0]), batch_size, make, seed, **options)


def feature_batches(inputs: torch.Tensor, labels: torch.Tensor, batch_size: int, seed: int | None = None) -> Batches:
    """Return batches of tensors in memory, such as the features of a linear probe; see Batches."""

    def make(batches: list[list[int]], epoch: int) -> Iterator[Batch]:
        return ((inputs[indices], labels[indices]) for indices in batches)

    return Batches(len(inputs), batch_size, make, seed)
