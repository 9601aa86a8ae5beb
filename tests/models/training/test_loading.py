"""Batches are those of torch's own loader; what loading them takes is measured, whoever loads."""

import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from models.training.loading import LoaderStatistics, load

BATCHES = [[3, 1], [0, 2, 4], [1]]


class Slow(Dataset):
    """Every item takes 10 ms."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(0.01)
        return torch.full((2,), float(index)), index


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_torchs_loader(workers):
    data = TensorDataset(torch.randn(5, 3, 2, 2), torch.arange(5))
    found, expected = list(load(data, BATCHES, workers)), list(DataLoader(data, batch_sampler=BATCHES))
    assert len(found) == 3
    for (inputs, labels), (others, numbers) in zip(found, expected, strict=True):
        assert torch.equal(inputs, others) and torch.equal(labels, numbers) and labels.dtype == torch.int64


def test_the_rate_is_that_of_loading_alone():
    """Nobody waits for what other processes have loaded meanwhile, and yet it took its time."""
    alone, beside, batches = LoaderStatistics(), LoaderStatistics(), [[0] * 5] * 8
    for workers, statistics in ((0, alone), (2, beside)):
        for _ in load(Slow(), batches, workers, statistics):
            time.sleep(0.1)  # the model
    assert alone.images == beside.images == 40 and alone.waiting == pytest.approx(alone.busy, rel=0.2)
    assert 25 < alone.rate <= 100 and 50 < beside.rate <= 200, "at least 10 ms an image, in one process or two"
    assert beside.waiting < alone.waiting


def test_what_was_never_asked_has_no_rate():
    assert LoaderStatistics().rate == 0.0
