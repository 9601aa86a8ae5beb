"""A split of drawn scenes, and how many scenes each split has."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image

from data.options import DataOptions
from data.scenes.scene import Change, Scene, changes_of, draw_scene


@dataclass(frozen=True)
class SceneOptions:
    """Number of scenes in each split, and the surface's dependence on the class. Its repr is part of fingerprints.

    train_images: scenes in train.
    val_images: scenes in val and in val_shuffled.
    context_bias: probability that a scene of train and val has its class's usual surface.
    """

    train_images: int = 1500
    val_images: int = 300
    context_bias: float = 0.9

    @classmethod
    def of(cls, options: DataOptions) -> "SceneOptions":
        """Return the scenes that data options ask for, with the defaults above for what is None."""
        bias = cls.context_bias if options.context_bias is None else options.context_bias
        return cls(options.train_images or cls.train_images, options.val_images or cls.val_images, bias)

    def counts(self) -> dict[str, int]:
        """Return the number of scenes of each split."""
        return {"train": self.train_images, "val": self.val_images, "val_shuffled": self.val_images}


@lru_cache(maxsize=2048)  # several runs are asked about the same changed scenes
def _changed(data_seed: int, split: str, index: int, size: int, bias: float, change: Change) -> Image.Image:
    return draw_scene(data_seed, split, index, size, bias, change=change).image


@dataclass(frozen=True)
class SceneSplit:
    """Drawn scenes of one split. Image and label are drawn at first use and kept in memory; masks are drawn each time.

    split: a name of data.scenes.scene.SPLITS.
    size: pixels per side.
    data_seed: seed of the scenes.
    context_bias: probability of the class's usual surface.
    indices: numbers of the scenes.
    drawn: scene number -> image and label, as far as they were used.
    """

    split: str
    size: int
    data_seed: int
    context_bias: float
    indices: tuple[int, ...]
    drawn: dict[int, tuple[Image.Image, int]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def labels(self) -> np.ndarray:
        """Class indices, (N,) int64."""
        return np.array([self._drawn(i)[1] for i in range(len(self))], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        """Return an image in RGB."""
        return self._drawn(index)[0]

    def name(self, index: int) -> str:
        """Return split and number of a scene."""
        return f"{self.split}/{self.indices[index]:05d}"

    def scene(self, index: int) -> Scene:
        """Draw a scene with its masks."""
        return draw_scene(self.data_seed, self.split, self.indices[index], self.size, self.context_bias)

    def masks(self, index: int) -> dict[str, np.ndarray]:
        """Return a scene's masks, name -> bool (size, size)."""
        return self.scene(index).masks

    def changes(self, index: int) -> list[Change]:
        """Return the changes of single factors that a scene allows."""
        return changes_of(self.data_seed, self.split, self.indices[index], self.context_bias)

    def changed(self, index: int, change: Change) -> Image.Image:
        """Return a scene's image in RGB with one factor changed."""
        return _changed(self.data_seed, self.split, self.indices[index], self.size, self.context_bias, change)

    def select(self, indices: Sequence[int]) -> "SceneSplit":
        """Return a split of the scenes at `indices`, in that order."""
        return replace(self, indices=tuple(self.indices[i] for i in indices))

    def _drawn(self, index: int) -> tuple[Image.Image, int]:
        number = self.indices[index]
        if number not in self.drawn:
            scene = self.scene(index)
            self.drawn[number] = (scene.image, scene.label)
        return self.drawn[number]
