"""What fine-tuning changed at which depth: attention, relevance and features by block and head, judged and in words.

Letters: N images, L layers (blocks, and attention pooling where there is one), h heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from common.tables import estimate, number
from evaluation.statistics.layers import ALL
from evaluation.statistics.paired import Paired, holm, paired, single
from evaluation.statistics.permutation import sign_flip_p
from evaluation.statistics.verdicts import FEWEST_IMAGES, SIGNIFICANT

Verdict = Literal["changed", "same", "undecided"]

SMALLEST = 0.02  # of a measure's scale: what counts as a change, and what is small enough to count as none
POOL = "pool"

RULE = (
    "Measures are compared image by image, after minus before: a block's, or, where heads are shown, a head's. One has "
    "*changed* when the 95 % interval of the mean difference excludes zero, the p-value of a sign-flip test of the mean is below "
    f"{SIGNIFICANT} after Holm's correction for all measures of all blocks (or of all heads), and the difference is at "
    f"least {SMALLEST:g} of the measure's scale, which is 1, or 100 %, and for distance that of even attention. It is "
    "*the same* when the whole interval is nearer to zero than that, and otherwise, or with fewer than "
    f"{FEWEST_IMAGES} images, *undecided*. A block has changed when one of its measures has, and is the same when all "
    "are. Intervals speak about other images, not about other training seeds."
)


@dataclass(frozen=True)
class Measure:
    """How a measure is named, shown (times `factor`, in `unit`), and said when it grows or shrinks.

    summed: a block's value is the sum over its heads; otherwise their mean.
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

    blocks: L names, "0" and so on, and POOL for attention pooling. measures: name -> (N, L, h), names of MEASURES; NaN
    where one is not defined. uniform: name -> the value of even attention, needed for distance. Against the run before
    fine-tuning, None for that run itself: divergence (N, L, h), Jensen-Shannon, 0 to 1, of the reading row, and cka
    (L + 1,), linear CKA of the tokens that enter the first layer and that leave each.
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
        """Mean, or for summed measures sum, over heads: (N, L)."""
        return self.measures[name].sum(-1) if MEASURES[name].summed else self.measures[name].mean(-1)

    def smallest(self, name: str) -> float:
        """The smallest difference that counts, in the measure's own unit."""
        return SMALLEST * (self.uniform["distance"] if name == "distance" else 1)


@dataclass(frozen=True)
class Change:
    """One measure of one block, or of one head of it: after minus before, judged by RULE.

    corrected_p: `paired.p_value` after Holm's correction for all changes that were found together. smallest: the
    smallest difference that counts, in the measure's unit.
    """

    measure: str
    block: str
    head: int | None
    paired: Paired
    corrected_p: float
    smallest: float

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

    Left out is what is not defined there; of heads, summed measures; and shares of the reading row that say nothing of
    their own: where no prefix token but the reading one exists, on_prefix is 0 and on_patches what on_itself leaves.
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
        Change(name, before.blocks[layer], head if by_head else None, one, p, after.smallest(name))
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
    """Measures that all runs have and that say something of their own, in MEASURES' order."""
    names = [name for name in MEASURES if all(name in run.measures for run in runs)]
    if "on_prefix" in names and not any(np.nan_to_num(run.measures["on_prefix"]).any() for run in runs):
        names = [name for name in names if name not in ("on_prefix", "on_patches")]
    return names


def change_rows(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Rows for a CSV: measure, block, head ("all": the whole block), images, means, difference and verdict."""
    return [
        {
            "measure": one.measure,
            "block": one.block,
            "head": ALL if one.head is None else one.head,
            "images": one.paired.n,
            "before": one.paired.mean_b,
            "after": one.paired.mean_a,
            "difference": one.paired.difference,
            "low": one.paired.low,
            "high": one.paired.high,
            "p_value": one.paired.p_value,
            "corrected_p": one.corrected_p,
            "smallest": one.smallest,
            "verdict": one.verdict,
        }
        for one in changes
    ]


# ---- words


def depth_words(
    before: DepthRun, after: DepthRun, changes: Sequence[Change], of_heads: Sequence[Change] = ()
) -> list[str]:
    """Say, a sentence an entry, which blocks changed and how, as far as the numbers go.

    changes, of_heads: `depth_changes` of these two runs, by block and by head.
    """
    return [
        which_blocks(before.label, after.label, [changes]),
        *_how(changes),
        *_single_heads(changes, of_heads),
        *_moved(after),
        *_alike(after),
    ]


def which_blocks(before: str, after: str, seeds: Sequence[Sequence[Change]]) -> str:
    """Say in which blocks attention or relevance changed from one run to another, in every training seed alike.

    before, after: their names. seeds: `depth_changes` by block, a list a seed. A measure of a block has changed when it
    has in every seed, to one side, and is the same when it is in every seed.
    """
    cells: dict[tuple[str, str], list[Change]] = {}
    for one in (one for changes in seeds for one in changes):
        cells.setdefault((one.block, one.measure), []).append(one)
    groups: dict[str, list[str]] = {"changed": [], "same": [], "undecided": []}
    for block in dict.fromkeys(block for block, _ in cells):
        verdicts = {_agreed(found, len(seeds)) for (other, _), found in cells.items() if other == block}
        groups["changed" if "changed" in verdicts else "same" if verdicts == {"same"} else "undecided"].append(block)
    images = max((one.paired.n for changes in seeds for one in changes), default=0)
    start = f"From {before} to {after} ({images} images, {len(seeds)} training seed{'s' * (len(seeds) > 1)})"
    if images < FEWEST_IMAGES:
        return f"{start}, nothing is decided: that takes at least {FEWEST_IMAGES} images."
    changed, same, undecided = map(block_names, groups.values())
    what = "attention or relevance" if any(measure == "relevance" for _, measure in cells) else "attention"
    parts = [f"{what} changed in {changed}" if changed else f"{what} was not found to have changed in any block"]
    parts += [f"nothing changed by the smallest size that counts in {same}"] if same else []
    open_ones = [found for (block, _), found in cells.items() if block in groups["undecided"]]
    parts += [f"undecided: {undecided} ({_why(open_ones, len(seeds))})"] if undecided else []
    return f"{start}, {'; '.join(parts)}."


def _why(cells: Sequence[Sequence[Change]], seeds: int) -> str:
    """Say why blocks are undecided, of whose measures `cells` holds each seed's change."""
    found = [cell for cell in cells if _agreed(cell, seeds) == "undecided"]
    single = [one for cell in found for one in cell if one.verdict == "undecided"]
    size = [one for one in single if one.paired.low > 0 or one.paired.high < 0]
    least = [SMALLEST * one.paired.smallest_detectable / one.smallest for one in single if one not in size]
    return "; ".join(
        ["seeds disagree"] * any(all(one.verdict != "undecided" for one in cell) for cell in found)
        + ["about the smallest size that counts, or not certain after correction"] * bool(size)
        + [f"smallest detectable: {number(value)} of a measure's scale" for value in sorted(least)[-1:]]
    )


def _agreed(found: Sequence[Change], seeds: int) -> Verdict:
    """One verdict of a measure of a block for all training seeds."""
    verdicts, signs = {one.verdict for one in found}, {np.sign(one.paired.difference) for one in found}
    if len(found) < seeds or len(verdicts) > 1:
        return "undecided"
    return "undecided" if verdicts == {"changed"} and len(signs) > 1 else found[0].verdict


def _how(changes: Sequence[Change]) -> list[str]:
    """One sentence for each measure that changed, and each direction."""
    sentences = []
    for name, measure in MEASURES.items():
        for sign, says in ((1, measure.grows), (-1, measure.shrinks)):
            found = [
                one
                for one in changes
                if one.measure == name and one.verdict == "changed" and one.paired.difference * sign > 0
            ]
            if found:
                most = max(found, key=lambda one: abs(one.paired.difference))
                p, unit = most.paired, "points" if measure.unit == "%" else measure.unit
                size = estimate(*(measure.factor * value for value in (p.difference, p.low, p.high)))
                where = block_names([one.block for one in found])
                where += f", most in {block_names([most.block])}" if len(found) > 1 else ""
                sentences.append(f"{says[0].upper()}{says[1:]} in {where}: {size} ({measure.title.lower()}, {unit}).")
    return sentences


def _single_heads(changes: Sequence[Change], of_heads: Sequence[Change]) -> list[str]:
    """How many heads changed, and where only heads did: their changes may cancel in the block's mean."""
    heads = {(one.block, one.head) for one in of_heads}
    changed = {(one.block, one.head) for one in of_heads if one.verdict == "changed"}
    blocks = {one.block for one in changes if one.verdict == "changed" and not MEASURES[one.measure].summed}
    alone = [
        block
        for block in dict.fromkeys(one.block for one in of_heads)
        if block in {block for block, _ in changed} - blocks
    ]
    if not changed:
        return []
    where = f"; in {block_names(alone)} heads changed but not their mean" if alone else ""
    return [f"Of {len(heads)} heads, {len(changed)} changed their attention in at least one measure{where}."]


def _moved(run: DepthRun) -> list[str]:
    if run.divergence is None:
        return []
    means = [single(values) for values in run.divergence.mean(-1).T]
    order = np.argsort([one.mean for one in means], kind="stable")
    least, most = ((block_names([run.blocks[i]]), means[i]) for i in (order[0], order[-1]))
    sizes = [f"{number(one.mean)} [{number(one.low)}, {number(one.high)}]" for _, one in (most, least)]
    return [
        f"The reading row moved most in {most[0]}, by a Jensen-Shannon divergence of {sizes[0]}, and least in "
        f"{least[0]}, by {sizes[1]} (0: not at all, 1: to other tokens entirely)."
    ]


def _alike(run: DepthRun) -> list[str]:
    if run.cka is None or not np.isfinite(run.cka).any():
        return []
    least = int(np.nanargmin(run.cka))
    where = "at the input" if not least else f"after {block_names([run.blocks[least - 1]])}"
    ends = {0: f"{number(run.cka[0])} at the input", len(run.cka) - 1: f"{number(run.cka[-1])} after the last layer"}
    others = " and ".join(text for place, text in ends.items() if place != least)
    return [
        f"Tokens are least alike {where}, with a linear CKA of {number(run.cka[least])} (1: the same up to "
        f"rotation); it is {others}."
    ]


def block_names(blocks: Sequence[str]) -> str:
    """'block 3', 'blocks 0, 2 to 5 and attention pooling', '' of none; runs of three and more are joined."""
    numbers = [int(name) for name in blocks if name != POOL]
    runs: list[list[int]] = []
    for place in numbers:
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    parts = [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
    if parts:
        parts[0] = f"block{'s' * (len(numbers) > 1)} {parts[0]}"
    parts += ["attention pooling"] * (POOL in blocks)
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
