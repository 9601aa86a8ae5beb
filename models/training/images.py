"""What a training asks of its images; the images themselves come from whoever starts it."""

from typing import Any, Protocol

import numpy as np

from models.training.loading import ImageDataset


class TrainingImages(Protocol):
    """The images of a training, as the model takes them.

    labels: classes (N,) int64 of all training images.
    fitted: indices of the training images that the model is trained on.
    held_out: indices of the training images on which epochs and penalties are chosen; disjoint from `fitted`.
    class_count: number of classes.
    views: number of augmented views of each training image; 0 where every epoch draws a new one.
    repeats: whether epochs see the same images again.
    evaluated: splits other than "train" that are predicted; "val" is one of them.
    """

    @property
    def labels(self) -> np.ndarray: ...
    @property
    def fitted(self) -> np.ndarray: ...
    @property
    def held_out(self) -> np.ndarray: ...
    @property
    def class_count(self) -> int: ...
    @property
    def views(self) -> int: ...
    @property
    def repeats(self) -> bool: ...
    @property
    def evaluated(self) -> list[str]: ...

    def unaugmented(self, split: str, indices: np.ndarray | None = None) -> ImageDataset:
        """Return a split's images, or some of them, as in evaluation."""

    def view(self, number: int) -> ImageDataset:
        """Return all training images in one of the augmented views."""

    def augmented(self, seed: int, epoch: int) -> ImageDataset:
        """Return the `fitted` training images, augmented for one epoch."""

    def key(self, split: str, view: int | None = None) -> dict[str, Any]:
        """Return all that features of a split, or of a view of it, depend on, as JSON."""

    def fitted_name(self, index: int) -> str:
        """Return the name of one of the `fitted` images, by its place among them."""
