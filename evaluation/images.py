"""The images that a run is asked about, as its model takes them, and what it predicts for them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.datasets import Split
from data.transforms import Prepared, evaluation_transform, to_pixels
from models.runs import Run


@dataclass(frozen=True)
class Images:
    """Some images of a split, prepared for one model and read batch by batch.

    split: the images' split.
    indices: (N,) int64, which of its images.
    config: the model's data config.
    batch_size: images per batch.
    workers: processes that load images.
    """

    split: Split
    indices: np.ndarray
    config: dict[str, Any]
    batch_size: int
    workers: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def batches(self) -> list[range]:
        """The rows of every batch: the same for any number of processes, so that results are."""
        rows = range(len(self.indices))
        return [rows[start : start + self.batch_size] for start in rows[:: self.batch_size]]

    @property
    def names(self) -> list[str]:
        """The names of the images."""
        return [self.split.name(int(index)) for index in self.indices]

    @property
    def labels(self) -> np.ndarray:
        """The true classes, (N,) int64."""
        return np.asarray(self.split.labels, dtype=np.int64)[self.indices]

    def read(self, batches: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """Yield the images (B, 3, H, W), float32, of each batch of rows."""
        prepared = Prepared(self.split, evaluation_transform(self.config))
        order = [[int(self.indices[row]) for row in rows] for rows in batches]
        return (images for images, _ in DataLoader(prepared, batch_sampler=order, num_workers=self.workers))

    def pixels(self, rows: Sequence[int]) -> dict[int, np.ndarray]:
        """Return what the model sees of some images: row -> (H, W, 3) uint8."""
        images = self.read([[row] for row in rows])
        return {int(row): to_pixels(image[0], self.config) for row, image in zip(rows, images)}


@torch.inference_mode()
def probabilities_of(run: Run, images: torch.Tensor, device: torch.device) -> np.ndarray:
    """Return the softmax probabilities (B, C), float64, of images (B, 3, H, W)."""
    # to the CPU first: Apple's GPUs have no float64
    return run.model.to(device)(images.to(device)).cpu().double().softmax(-1).numpy()
