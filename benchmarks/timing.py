"""How long a call takes: in seconds of a device's own clock, and in forward passes of the same batch."""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # scripts lie beside this file, packages one floor up

import torch
from torch import Tensor, nn

Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """Return what reads the seconds that a device has worked.

    A CPU's is CPU time, so that, with one thread, waiting for other processes is not counted (they still slow a
    shared core). An accelerator's work is queued: its clock waits until all of it is done, and reads the wall's.
    """
    if device.type == "cpu":
        return time.process_time
    synchronise = getattr(torch, device.type).synchronize  # torch.cuda, torch.mps

    def read() -> float:
        synchronise()
        return time.perf_counter()

    return read


def name_of(device: torch.device) -> str:
    """Return what a document calls a device."""
    if device.type == "cpu":
        return "one CPU thread"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "Apple GPU"


def seconds(function: Callable[[], object], clock: Clock = time.process_time) -> float:
    start = clock()
    function()
    return clock() - start


def plain_forward(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """Return the unit that costs are counted in: a forward pass of these images (B, 3, H, W) without gradients."""

    @torch.inference_mode()
    def forward() -> None:
        model(images)

    return forward


def cost(
    explanation: Callable[[], object], forward: Callable[[], object], rounds: int, clock: Clock = time.process_time
) -> float:
    """Median over rounds of a call's time in forward passes, taken right before and right after it."""
    explanation()  # what is allocated or compiled once is not counted
    ratios = []
    for _ in range(rounds):
        before, call, after = (seconds(function, clock) for function in (forward, explanation, forward))
        ratios.append(2 * call / (before + after))
    return statistics.median(ratios)
