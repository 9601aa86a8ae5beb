"""The images of a training: which are held out, how they are augmented, and what their features depend on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import timm

from data.datasets import ImageData
from data.sampling import stratified
from data.transforms import Prepared, evaluation_transform, training_transform
from models.run_config import RunConfig
from models.training.recipe import Augmentation

HELD_OUT_SHARE = 0.1  # of the training images
NOT_EVALUATED = ("train", "test")  # only the last step of a sweep touches `test`


@dataclass(frozen=True)
class RunImages:
    """The images of one run, see `models.training.images.TrainingImages`.

    data: the data set.
    config: the run's configuration, for its backbone and data config.
    augmentation: of training images.
    data_seed: chooses the held-out images and draws augmented views, so that runs of all seeds share both.
    """

    data: ImageData
    config: RunConfig
    augmentation: Augmentation
    data_seed: int

    @property
    def labels(self) -> np.ndarray:
        """Classes (N,) of all training images."""
        return self.data.splits["train"].labels

    @cached_property
    def held_out(self) -> np.ndarray:
        """Indices of the training images, a stratified tenth, on which epochs and penalties are chosen."""
        return stratified(self.labels, max(1, round(HELD_OUT_SHARE * len(self.labels))), self.data_seed)

    @cached_property
    def fitted(self) -> np.ndarray:
        """Indices of the training images that the model is trained on."""
        return np.setdiff1d(np.arange(len(self.labels)), self.held_out)

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return len(self.data.class_names)

    @property
    def views(self) -> int:
        """Number of augmented views of each training image."""
        return self.augmentation.views

    @property
    def repeats(self) -> bool:
        """Whether epochs see the same images again."""
        return self.augmentation.repeats

    @property
    def evaluated(self) -> list[str]:
        """Splits other than "train" that are predicted."""
        return [name for name in self.data.splits if name not in NOT_EVALUATED]

    def unaugmented(self, split: str, indices: np.ndarray | None = None) -> Prepared:
        """Return a split's images, or some of them, as in evaluation."""
        images = self.data.splits[split]
        chosen = images if indices is None else images.select(indices.tolist())
        return Prepared(chosen, evaluation_transform(self.config.data_config))

    def view(self, number: int) -> Prepared:
        """Return all training images in one of the augmented views."""
        return Prepared(self.data.splits["train"], self._transform(), self.data_seed, number)

    def augmented(self, seed: int, epoch: int) -> Prepared:
        """Return the `fitted` training images, augmented for one epoch."""
        return Prepared(self.data.splits["train"].select(self.fitted.tolist()), self._transform(), seed, epoch)

    def key(self, split: str, view: int | None = None) -> dict[str, Any]:
        """Return all that features of a split, or of a view of it, depend on.

        The model's name is part of it, and timm's version: the same weights file may give other features in another
        architecture.
        """
        key = {
            "backbone": self.config.backbone.sha256,
            "model": self.config.backbone.name,
            "timm": timm.__version__,
            "data": self.data.fingerprint,
            "split": split,
            "transform": self.config.data_config,
        }
        if view is None:
            return key
        augmentation = {"augment": self.augmentation.augment, "crop_scale": self.augmentation.crop_scale}
        return key | {"view": view, **augmentation, "seed": self.data_seed}

    def fitted_name(self, index: int) -> str:
        """Return the name of one of the `fitted` images, by its place among them."""
        return self.data.splits["train"].name(int(self.fitted[index]))

    def _transform(self):
        return training_transform(self.config.data_config, self.augmentation.augment, self.augmentation.crop_scale)
