"""What fine-tuning changed at which depth: attention and relevance by block and head, tested and judged.

Letters: N images, L layers (blocks, and attention pooling where there is one), h heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm
from tqdm import tqdm

from evaluation.statistics.paired import (
    POWER,
    SIGNIFICANT,
    Paired,
    detectable_standard_errors,
    holm,
    paired,
)
from evaluation.statistics.permutation import sign_flip_p
from evaluation.statistics.verdicts import FEWEST_IMAGES

Verdict = Literal["changed", "same", "undecided"]

SMALLEST = 0.02  # of a measure's scale: a change is at least this large, and "the same" is smaller
POOL = "pool"

RULE = (
    "Each measure is compared image by image, after minus before fine-tuning: of a block, or, where heads are shown, "
    "of a head. It has *changed* when three conditions hold: the 95 % interval of the mean difference over images "
    f"excludes zero; the p-value of a sign-flip test of the mean is below {SIGNIFICANT} after Holm's correction for "
    f"all measures of all blocks (or of all heads); and the difference is at least {SMALLEST:g} of the measure's "
    "scale, which is 1, or 100 %, and for distance the value of even attention. It is *the same* when the whole "
    f"interval lies within that size of zero. Otherwise, and with fewer than {FEWEST_IMAGES} images, it is "
    "*undecided*. A block has changed when one of its measures has, and is the same when all are. Intervals are about "
    "other images, not about other training seeds."
)


@dataclass(frozen=True)
class Measure:
    """How a measure is named and shown, and what is said of a change.

    title: a noun phrase.
    unit: of the shown values.
    grows: what is said where it increases.
    shrinks: what is said where it decreases.
    factor: of the shown values.
    summed: the value of a block is the sum over its heads instead of their mean.
    """

    title: str
    unit: str
    grows: str
    shrinks: str
    factor: float = 1
    summed: bool = False


MEASURES = {
    "entropy": Measure(
        "Entropy of attention", "of its maximum, log N", "attention is more even", "attention is more focused"
    ),
    "distance": Measure("Mean attention distance", "patches", "attention reaches farther", "attention is more local"),
    "on_patches": Measure(
        "Reading row: attention on patches",
        "%",
        "the reading row attends more to patches",
        "the reading row attends less to patches",
        100,
    ),
    "on_prefix": Measure(
        "Reading row: attention on prefix tokens",
        "%",
        "the reading row attends more to prefix tokens",
        "the reading row attends less to prefix tokens",
        100,
    ),
    "on_itself": Measure(
        "Reading row: attention on itself",
        "%",
        "the reading row attends more to itself",
        "the reading row attends less to itself",
        100,
    ),
    "relevance": Measure(
        "Share of the true class's relevance",
        "%",
        "more of the true class's relevance arises",
        "less of the true class's relevance arises",
        100,
        summed=True,
    ),
}


@dataclass(frozen=True)
class DepthRun:
    """What one run does at each depth; runs that are compared have the same images in the same order.

    label: the run's name.
    blocks: L names, "0" and so on, and POOL for attention pooling.
    measures: name in MEASURES -> (N, L, h); NaN where a measure is not defined.
    uniform: name -> the value of even attention, needed for distance.
    divergence: (N, L, h) of the reading row from that of the run before fine-tuning, Jensen-Shannon, 0 to 1; None for
        that run itself.
    cka: (L + 1,) linear CKA, with the run before fine-tuning, of the tokens that enter the first layer and that leave
        each; None for that run itself.
    Raises ValueError when shapes do not agree.
    """

    label: str
    blocks: tuple[str, ...]
    measures: Mapping[str, np.ndarray]
    uniform: Mapping[str, float]
    divergence: np.ndarray | None = None
    cka: np.ndarray | None = None

    def __post_init__(self):
        unknown = [name for name in self.measures if name not in MEASURES]
        if unknown or not self.measures:
            raise ValueError(
                f"{self.label}: measures {', '.join(unknown) or 'are missing'}; expected some of {', '.join(MEASURES)}"
            )
        arrays = [*self.measures.values(), *([] if self.divergence is None else [self.divergence])]
        shapes, layers = {array.shape for array in arrays}, len(self.blocks)
        if len(shapes) > 1 or len(arrays[0].shape) != 3 or arrays[0].shape[1] != layers:
            raise ValueError(
                f"{self.label}: measures have shapes {sorted(shapes)}; expected one (images, {layers}, "
                f"heads), with a block for each of {layers} names"
            )
        if self.cka is not None and self.cka.shape != (layers + 1,):
            raise ValueError(
                f"{self.label}: cka has shape {self.cka.shape}; expected ({layers + 1},): the input and "
                f"each of {layers} layers"
            )

    def by_block(self, name: str) -> np.ndarray:
        """Average a measure over heads, or sum it where it is summed: (N, L)."""
        return self.measures[name].sum(-1) if MEASURES[name].summed else self.measures[name].mean(-1)

    def smallest(self, name: str) -> float:
        """Return the smallest difference that counts, in the measure's own unit."""
        return SMALLEST * (self.uniform["distance"] if name == "distance" else 1)


@dataclass(frozen=True)
class Change:
    """The change of one measure of one block, or of one head of it: after minus before, judged by RULE.

    measure: a name in MEASURES.
    block: the block's name.
    head: None for the whole block.
    paired: the comparison over images.
    corrected_p: its p-value after Holm's correction for all changes that were tested together.
    smallest: the smallest difference that counts, in the measure's unit.
    family_size: number of changes that were tested together.
    """

    measure: str
    block: str
    head: int | None
    paired: Paired
    corrected_p: float
    smallest: float
    family_size: int = 1

    @property
    def smallest_detectable(self) -> float:
        """The difference that would be called a change with a power of 80 %, in the measure's unit.

        It has to be found at the corrected level, and to reach `smallest` in spite of its standard error.
        """
        error = self.paired.standard_error
        found = detectable_standard_errors(self.paired.n, self.family_size) * error
        return max(found, self.smallest + norm.ppf(POWER) * error)

    @property
    def verdict(self) -> Verdict:
        p = self.paired
        if p.n < FEWEST_IMAGES:
            return "undecided"
        if -self.smallest < p.low <= p.high < self.smallest:
            return "same"
        certain = (p.low > 0 or p.high < 0) and self.corrected_p < SIGNIFICANT
        return "changed" if certain and abs(p.difference) >= self.smallest else "undecided"


def depth_changes(before: DepthRun, after: DepthRun, by_head: bool = False) -> list[Change]:
    """Compare two runs block by block, or head by head, in every measure that both have; see RULE.

    Left out are measures that are not defined, for heads also summed ones, and shares of the reading row that follow
    from another: where no prefix token but the reading one exists, on_prefix is 0 and on_patches is 1 - on_itself.

    before, after: the run before fine-tuning and after it.
    by_head: compare single heads.
    Raises ValueError when the runs' images, blocks or heads do not agree.
    """
    check_pair(before, after)
    names = [name for name in shared_measures([before, after]) if not (by_head and MEASURES[name].summed)]
    cells = [
        (name, layer, head)
        for name in names
        for layer, head in np.ndindex(len(before.blocks), before.measures[name].shape[2] if by_head else 1)
    ]
    values = [[_cell(run, *cell, by_head) for cell in cells] for run in (after, before)]
    p_values = sign_flip_p(np.stack(values[0], 1) - np.stack(values[1], 1))
    tests = tqdm(zip(*values, p_values), f"changes {after.label}", len(cells), delay=2, leave=False, disable=None)
    found = [paired(a, b, p_value=p) for a, b, p in tests]
    defined = [(cell, one) for cell, one in zip(cells, found) if one.n]
    corrected = holm([one.p_value for _, one in defined])
    return [
        Change(name, before.blocks[layer], head if by_head else None, one, p, after.smallest(name), len(defined))
        for ((name, layer, head), one), p in zip(defined, corrected)
    ]


def _cell(run: DepthRun, name: str, layer: int, head: int, by_head: bool) -> np.ndarray:
    """Return a measure of one head, or of all heads of a block: (N,)."""
    return run.measures[name][:, layer, head] if by_head else run.by_block(name)[:, layer]


def check_pair(before: DepthRun, after: DepthRun) -> None:
    """Raise ValueError unless two runs have the same number of images and heads and the same blocks."""
    a, b = (next(iter(run.measures.values())).shape for run in (before, after))
    if before.blocks != after.blocks or a != b:
        raise ValueError(
            f"{before.label} has (images, blocks, heads) {a}, {after.label} {b}; expected the same images "
            f"and checkpoints of one backbone"
        )


def shared_measures(runs: Sequence[DepthRun]) -> list[str]:
    """Return the measures that all runs have and that do not follow from another, in the order of MEASURES."""
    names = [name for name in MEASURES if all(name in run.measures for run in runs)]
    if "on_prefix" in names and not any(np.nan_to_num(run.measures["on_prefix"]).any() for run in runs):
        names = [name for name in names if name not in ("on_prefix", "on_patches")]
    return names
