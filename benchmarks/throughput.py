"""How many maps a second a device makes, by batch size, up to the batch that fills it. Part of explain.py."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from memory import device_peak
from timing import Clock, clock_of, seconds  # beside this file; it finds the project's folders
from torch import nn

from common.errors import out_of_memory
from common.tables import ABSENT, markdown_table, number
from explain.methods import FUNCTIONS
from explain.precision import HalfProducts
from explain.registry import NOT_IN_HALF
from explain.trace import Network

PRECISIONS = {"float32": None, "float16": "float16"}
GROWTH = 1.02  # less is taken for none


@dataclass(frozen=True)
class Point:
    """What a batch size gives: maps a second, and the peak of device memory in bytes (None where it isn't known)."""

    batch: int
    rate: float
    peak: int | None


def throughput(
    model: nn.Module,
    methods: Sequence[str],
    targets: int,
    rounds: int,
    device: torch.device,
    largest: int | None = None,
) -> str:
    """Return a table: maps a second of each method and precision, a column a batch size."""
    rows = []
    for method in methods:
        for name, precision in PRECISIONS.items():
            if precision and method in NOT_IN_HALF:
                continue
            points = sweep(
                lambda batch: explanation(model, method, precision, batch, targets, device),
                targets,
                rounds,
                device,
                clock_of(device),
                largest,
            )
            rows.append({"": method, "precision": name, **{f"B = {point.batch}": cell(point) for point in points}})
            print(f"{method:<22}{name:<10}" + "  ".join(f"B = {p.batch}: {cell(p)}" for p in points), flush=True)
    columns = max(rows, key=len)  # one that ran out of memory, or stopped growing, has fewer
    return markdown_table(rows, list(columns), align="ll" + "r" * (len(columns) - 2))


def explanation(
    model: nn.Module, method: str, precision: str | None, batch: int, targets: int, device: torch.device
) -> Callable[[], object]:
    """Return a call that explains a batch of random images, which lie on the device already."""
    images = torch.randn(batch, 3, *model.patch_embed.img_size, device=device)
    chosen = torch.randint(0, model.num_classes, (batch, targets), device=device)
    products = HalfProducts if precision else nullcontext

    def explain() -> None:  # all of the batch, where `relevance` would try halves of what does not fit
        with torch.no_grad(), products():
            FUNCTIONS[method](Network(model), images, chosen)

    return explain


def sweep(
    prepare: Callable[[int], Callable[[], object]],
    targets: int,
    rounds: int,
    device: torch.device,
    clock: Clock,
    largest: int | None = None,
) -> list[Point]:
    """Double the batch, from 1, until the memory is full, or two doublings in a row brought nothing more.

    prepare: batch -> a call that explains as many images, `targets` classes each. largest: no batch beyond it.
    """
    points: list[Point] = []
    while largest is None or 2 ** len(points) <= largest:
        batch = 2 ** len(points)
        try:
            points.append(measured(prepare(batch), batch, targets, rounds, device, clock))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            break
        rates = [point.rate for point in points]
        if len(rates) > 2 and max(rates[-2:]) < GROWTH * max(rates[:-2]):
            break
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return points


def measured(
    explain: Callable[[], object], batch: int, targets: int, rounds: int, device: torch.device, clock: Clock
) -> Point:
    """Time one batch size: the mean over rounds that follow one another, after a first that isn't counted."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    explain()

    def repeat() -> None:
        for _ in range(rounds):
            explain()

    return Point(batch, rounds * batch * targets / seconds(repeat, clock), device_peak(device))


def cell(point: Point) -> str:
    """'1234 (5.67)': maps a second, and GiB where they are known."""
    peak = ABSENT if point.peak is None else number(point.peak / 2**30, 2)
    return f"{point.rate:.{0 if point.rate >= 100 else 1}f} ({peak})"
