"""Time a call, in seconds of a device's own clock or in forward passes of the same batch."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """Return the function that reads a device's clock, in seconds.

    On a CPU it is CPU time of this process: with one thread, it does not count waiting for other processes, although
    these slow down a shared core. Work on an accelerator is queued, so that its clock first waits until all of it is
    done, and then reads wall time.
    """
    if device.type == "cpu":
        return time.process_time
    synchronise = getattr(torch, device.type).synchronize  # torch.cuda, torch.mps

    def read() -> float:
        synchronise()
        return time.perf_counter()

    return read


def name_of(device: torch.device) -> str:
    """Return the name of a device for documents."""
    if device.type == "cpu":
        return "one CPU thread"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "Apple GPU"


def seconds(function: Callable[[], object], clock: Clock = time.process_time) -> float:
    """Return the seconds that a call takes by a clock."""
    start = clock()
    function()
    return clock() - start


def plain_forward(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """Return the unit of cost: a function that passes images (B, 3, H, W) through the model without gradients."""

    @torch.inference_mode()
    def forward() -> None:
        model(images)

    return forward


def cost(
    explanation: Callable[[], object], forward: Callable[[], object], rounds: int, clock: Clock = time.process_time
) -> float:
    """Return the cost of a call in forward passes, the median over rounds.

    explanation: the call.
    forward: a forward pass of the same batch, timed right before and right after the call.
    rounds: number of measurements, after one call that is not counted.
    clock: reads seconds.
    """
    explanation()  # allocates and compiles what later calls reuse
    ratios = []
    for _ in range(rounds):
        before, call, after = (seconds(function, clock) for function in (forward, explanation, forward))
        ratios.append(2 * call / (before + after))
    return statistics.median(ratios)
