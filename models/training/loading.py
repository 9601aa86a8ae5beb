"""Images in batches, loaded in this process or in others; how fast they can come, and how long they were waited for."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Loading:
    """What a loader has done: images; busy: seconds that loading them takes its processes side by side, measured in
    these; waiting: seconds that the model waited for it; seconds: of the pass that it was a part of, or 0."""

    images: int = 0
    busy: float = 0.0
    waiting: float = 0.0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Images a second that the loader can give to a model that never keeps it waiting; 0 where it loaded none."""
        return self.images / self.busy if self.busy else 0.0


def load(dataset: Dataset, batches: list[list[int]], workers: int, loading: Loading | None = None) -> Iterator[Batch]:
    """Yield (inputs, labels) of every list of indices, in order, and add to `loading`; 0 `workers`: this process
    loads."""
    loader = DataLoader(_Timed(dataset), batch_size=None, sampler=batches, num_workers=workers)
    return _counted(iter(loader), max(1, workers), loading or Loading())


def _counted(results: Iterator, side_by_side: int, loading: Loading) -> Iterator[Batch]:
    while True:
        asked = time.monotonic()
        batch, seconds = next(results, (None, 0.0))
        loading.waiting += time.monotonic() - asked
        if batch is None:
            return
        loading.images, loading.busy = loading.images + len(batch[1]), loading.busy + seconds / side_by_side
        yield batch


@dataclass
class _Timed(Dataset):
    """Item: a list of indices -> their batch and the seconds that it took."""

    dataset: Dataset

    def __getitem__(self, indices: list[int]) -> tuple[Batch, float]:
        start = time.monotonic()
        batch = default_collate([self.dataset[index] for index in indices])
        return batch, time.monotonic() - start
