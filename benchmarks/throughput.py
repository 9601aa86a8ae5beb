"""Maps per second by batch size, up to the batch that fills the device's memory. Part of explain.py."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from memory import device_peak
from timing import Clock, clock_of, seconds
from torch import nn

from common.errors import out_of_memory
from common.tables import ABSENT, markdown_table, number
from explain.methods import FUNCTIONS
from explain.precision import HalfProducts
from explain.registry import NOT_IN_HALF
from explain.trace import Network

PRECISIONS = {"float32": None, "float16": "float16"}
GROWTH = 1.02  # a smaller gain of throughput counts as none


@dataclass(frozen=True)
class Point:
    """The throughput of one batch size.

    batch: number of images.
    rate: maps per second.
    peak: peak of the device's memory in bytes; None where it is unknown.
    """

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
    """Return a Markdown table of maps per second: a row per method and precision, a column per batch size.

    model: the model, on the device.
    methods: relevance methods.
    targets: targets per image.
    rounds: calls per batch size.
    device: where to compute.
    largest: largest batch; None sets no limit.
    """
    rows = []
    for method in methods:
        for name, precision in PRECISIONS.items():
            if precision and method in NOT_IN_HALF:
                continue
            prepare = partial(explanation, model, method, precision, targets=targets, device=device)
            points = sweep(prepare, targets, rounds, device, clock_of(device), largest)
            rows.append({"": method, "precision": name, **{f"B = {point.batch}": cell(point) for point in points}})
            print(f"{method:<22}{name:<10}" + "  ".join(f"B = {p.batch}: {cell(p)}" for p in points), flush=True)
    columns = max(rows, key=len)  # a row that ended earlier has fewer columns
    return markdown_table(rows, list(columns), align="ll" + "r" * (len(columns) - 2))


def explanation(
    model: nn.Module, method: str, precision: str | None, batch: int, targets: int, device: torch.device
) -> Callable[[], object]:
    """Return a function that explains a batch of random images, which are on the device already."""
    images = torch.randn(batch, 3, *model.patch_embed.img_size, device=device)
    chosen = torch.randint(0, model.num_classes, (batch, targets), device=device)
    products = HalfProducts if precision else nullcontext

    def explain() -> None:  # the whole batch at once; `relevance` would halve a batch that does not fit
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
    """Double the batch, from 1, until memory is full or two doublings in a row bring no gain.

    prepare: batch size -> a function that explains so many images.
    targets: targets per image.
    rounds: calls per batch size.
    device: where to compute.
    clock: reads seconds.
    largest: largest batch; None sets no limit.
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
    """Measure one batch size: the mean over consecutive calls, after one that is not counted; see `sweep`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    explain()

    def repeat() -> None:
        for _ in range(rounds):
            explain()

    return Point(batch, rounds * batch * targets / seconds(repeat, clock), device_peak(device))


def cell(point: Point) -> str:
    """Format a point: '1234 (5.67)', maps per second and GiB."""
    peak = ABSENT if point.peak is None else number(point.peak / 2**30, 2)
    return f"{point.rate:.{0 if point.rate >= 100 else 1}f} ({peak})"
