"""Load images in batches, in this process or in others, and measure how fast that is."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from common.console import warn
from models.training.process_group import ProcessGroup

SLOW = 5.0  # seconds of training, half of which may be spent waiting, before the loader is worth a warning
Batch = tuple[torch.Tensor, torch.Tensor]


class ImageDataset(Protocol):
    """Images as the model takes them: item -> (float32 tensor (3, H, W), class)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]: ...


@dataclass
class LoaderStatistics:
    """What a loader has done so far.

    images: number of images loaded.
    busy: seconds that its processes, side by side, were loading, measured within them.
    waiting: seconds that the model waited for images.
    seconds: duration of the pass that the loader was a part of, or 0.
    """

    images: int = 0
    busy: float = 0.0
    waiting: float = 0.0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Images per second that the loader can deliver to a model that never waits; 0 where it loaded none."""
        return self.images / self.busy if self.busy else 0.0


@dataclass(frozen=True)
class LoadingOptions:
    """How a data set is run through a model.

    device: where the model runs.
    workers: processes that load images; 0 loads in this one.
    progress: whether to show a progress bar on a terminal.
    statistics: added to while images are loaded.
    """

    device: torch.device
    workers: int = 0
    progress: bool = False
    statistics: LoaderStatistics = field(default_factory=LoaderStatistics, compare=False)


def load(
    dataset: ImageDataset, batches: list[list[int]], workers: int, statistics: LoaderStatistics | None = None
) -> Iterator[Batch]:
    """Yield (inputs, labels) for every list of indices, in order.

    dataset: item -> (tensor, label).
    batches: the indices of each batch.
    workers: processes that load; 0 loads in this one.
    statistics: added to while images are loaded.
    """
    loader: DataLoader = DataLoader(_Timed(dataset), batch_size=None, sampler=batches, num_workers=workers)
    return _counted(iter(loader), max(1, workers), statistics or LoaderStatistics())


def _counted(results: Iterator, side_by_side: int, statistics: LoaderStatistics) -> Iterator[Batch]:
    while True:
        asked = time.monotonic()
        batch, seconds = next(results, (None, 0.0))
        statistics.waiting += time.monotonic() - asked
        if batch is None:
            return
        statistics.images += len(batch[1])
        statistics.busy += seconds / side_by_side
        yield batch


@dataclass
class _Timed(Dataset):
    """Item: a list of indices -> their batch and the seconds that it took."""

    dataset: ImageDataset

    def __getitem__(self, indices: list[int]) -> tuple[Batch, float]:
        start = time.monotonic()
        batch = default_collate([self.dataset[index] for index in indices])
        return batch, time.monotonic() - start


def report_loading(what: str, statistics: LoaderStatistics, workers: int, group: ProcessGroup) -> float:
    """Print how fast images can be loaded, and warn where that limits the training; return images per second.

    what: the part of the training that the statistics are of.
    workers: loader processes, for the advice.
    group: the processes that share the training; the rate is that of all their loaders.
    """
    rate, seconds, waiting = sum(group.all_gather(statistics.rate)), statistics.seconds, statistics.waiting
    if statistics.images:
        print(f"the loader can give {rate:,.0f} images a second; {what} waited {waiting:.1f} of {seconds:.1f} s for it")
    if waiting > seconds / 2 > SLOW:
        why = (
            f"images: the loader, not the model, is the limit; give --workers {max(2, 2 * workers)}"
            if statistics.images
            else "cached tokens: the disk is the limit; give a --cache on a faster one"
        )
        warn(f"{what} waited {waiting / seconds:.0%} of its time for {why}")
    return rate
