"""The device of a command, and what its choice prepares."""

import pytest
import torch

from common.devices import RunningOptions, batch_size_of, device_of, workers_of
from common.errors import UsageError


def test_a_device_that_is_not_there_is_refused_with_those_that_are():
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(UsageError, match=f"--device {missing} is not available here; use --device .*cpu"):
        device_of(missing)


def test_computing_on_a_device_treats_denormals_as_zero():
    tiny = torch.tensor([1e-20])
    assert float(tiny * tiny) > 0
    device_of("cpu")
    assert float(tiny * tiny) == 0


def test_loader_processes_are_as_many_as_asked_for_and_none_on_the_cpu():
    assert workers_of(RunningOptions(workers=3), torch.device("cpu")) == 3
    assert workers_of(RunningOptions(), torch.device("cpu")) == 0
    assert 1 <= workers_of(RunningOptions(), torch.device("cuda")) <= 8


KINDS = ("cpu", "cuda")


def test_few_images_make_eight_batches_on_an_accelerator():
    sizes = {
        kind: [batch_size_of(None, torch.device(kind), n) for n in (10, 64, 500, 5000)] for kind in ("cpu", "cuda")
    }
    assert sizes == {"cpu": [16] * 4, "cuda": [16, 16, 62, 128]}
    assert batch_size_of(5, torch.device("cuda"), 500) == 5
