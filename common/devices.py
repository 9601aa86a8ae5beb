"""The device, the processes that load images, and the batch size. Imports torch only when a device is chosen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common import processes
from common.errors import UsageError

if TYPE_CHECKING:
    import torch

CACHE = Path("results/cache")
CACHE_LIMIT = 20.0  # GiB


@dataclass(frozen=True)
class RunningOptions:
    """Where and how a command runs; no result depends on it but for rounding.

    device: `auto`, `cpu`, `cuda` or `mps`.
    workers: processes that load images; None: 0 on the CPU, up to 8 elsewhere.
    cache: folder of what is computed once for several runs; None disables it.
    cache_limit: most that a run may store of tokens before late adapters, in GiB.
    threads: CPU threads of torch; None takes as many as torch does (how they wait: common.threads).
    """

    device: str = "auto"
    workers: int | None = None
    cache: Path | None = CACHE
    cache_limit: float = CACHE_LIMIT
    threads: int | None = None


def device_of(name: str) -> torch.device:
    """Return the device of a name, and prepare torch for computing on it.

    `auto` takes the first available of cuda, mps and cpu. Started by torchrun, each process gets its own GPU. The CPU
    is set to treat denormal numbers (below 1e-38) as zero: they carry no meaning here and are slow.
    Raises UsageError for a device that is not available.
    """
    import torch

    torch.set_flush_denormal(True)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available[name]:
        raise UsageError(
            f"--device {name} is not available here; use --device "
            f"{' or '.join(kind for kind, there in available.items() if there)}"
        )
    if name != "cuda" or not processes.started_by_torchrun():
        return torch.device(name)
    if processes.local_rank() >= (gpus := torch.cuda.device_count()):
        raise UsageError(
            f"more processes than the {gpus} GPU(s) here; give torchrun --nproc_per_node {gpus}, or --device cpu"
        )
    return torch.device("cuda", processes.local_rank())


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's random numbers of the CPU and of a device.

    `torch.manual_seed` does so too, and keeps each call with its stack for every kind of device that is not there: time
    and memory that a training of many steps should not spend.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def workers_of(running: RunningOptions, device: torch.device) -> int:
    """Return the number of processes that load images."""
    if running.workers is not None:
        return running.workers
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)


def batch_size_of(given: int | None, device: torch.device, count: int) -> int:
    """Return how many of `count` images are explained at once: `given`, or what suits the device.

    An accelerator whose memory is full halves a batch by itself (explain.batching). With few images, at least eight
    batches are made there, so that several processes have work.
    """
    return given or (16 if device.type == "cpu" else min(128, max(16, count // 8)))
