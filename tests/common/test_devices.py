"""Batch sizes and loader processes by device."""

import torch

from common.devices import RunningOptions, batch_size_of, workers_of


def test_an_accelerator_takes_more_images_at_once():
    batches = {
        kind: [batch_size_of(None, torch.device(kind), count) for count in (10, 64, 500, 5000)]
        for kind in ("cpu", "cuda")
    }
    assert batches == {"cpu": [16] * 4, "cuda": [16, 16, 62, 128]} and batch_size_of(5, torch.device("cuda"), 500) == 5


def test_the_cpu_loads_images_itself_unless_asked_otherwise():
    workers = [workers_of(RunningOptions(workers=given), torch.device("cpu")) for given in (None, 0, 3)]
    assert workers == [0, 0, 3]
    assert 1 <= workers_of(RunningOptions(), torch.device("cuda")) <= 8
