"""Sentences about what fine-tuning changed at which depth, as far as the numbers decide it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.tables import estimate, number
from evaluation.statistics.depth import MEASURES, POOL, SMALLEST, Change, DepthRun, Verdict
from evaluation.statistics.paired import single
from evaluation.statistics.verdicts import FEWEST_IMAGES


def depth_words(
    before: DepthRun, after: DepthRun, changes: Sequence[Change], of_heads: Sequence[Change] = ()
) -> list[str]:
    """Say which blocks changed and how, as far as the numbers decide it. Returns one sentence per entry.

    before, after: the run before fine-tuning and after it.
    changes: `depth_changes` of these two runs, by block.
    of_heads: the same by head; () says nothing about heads.
    """
    return [
        which_blocks(before.label, after.label, [changes]),
        *_how(changes),
        *_single_heads(changes, of_heads),
        *_divergence(after),
        *_token_similarity(after),
    ]


def which_blocks(before: str, after: str, seeds: Sequence[Sequence[Change]]) -> str:
    """Say in which blocks attention or relevance changed from one run to another, in every training seed.

    A measure of a block has changed when it has in every seed, to one side, and is the same when it is in every seed.

    before, after: the runs' names.
    seeds: `depth_changes` by block, a list per training seed.
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
    parts = [f"{what} changed in {changed}" if changed else f"no change of {what} was found in any block"]
    parts += [f"all changes are smaller than {SMALLEST:g} of a measure's scale in {same}"] if same else []
    open_ones = [found for (block, _), found in cells.items() if block in groups["undecided"]]
    parts += [f"undecided: {undecided} ({_why(open_ones, len(seeds))})"] if undecided else []
    return f"{start}, {'; '.join(parts)}."


def _why(cells: Sequence[Sequence[Change]], seeds: int) -> str:
    """Say why blocks are undecided.

    cells: for each measure of these blocks, the changes of all seeds.
    seeds: number of training seeds.
    """
    found = [cell for cell in cells if _agreed(cell, seeds) == "undecided"]
    single = [one for cell in found for one in cell if one.verdict == "undecided"]
    # A difference that is as large as what would be detected must not stand beside that size.
    large = [one for one in single if _excludes_zero(one) or abs(one.paired.difference) >= one.smallest_detectable]
    least = [SMALLEST * one.smallest_detectable / one.smallest for one in single if one not in large]
    return "; ".join(
        ["seeds disagree"] * any(all(one.verdict != "undecided" for one in cell) for cell in found)
        + [f"a difference of about {SMALLEST:g}, or not certain after correction"] * bool(large)
        + [f"smallest detectable: {number(value)} of a measure's scale" for value in sorted(least)[-1:]]
    )


def _excludes_zero(one: Change) -> bool:
    return one.paired.low > 0 or one.paired.high < 0


def _agreed(found: Sequence[Change], seeds: int) -> Verdict:
    """Return one verdict about a measure of a block for all training seeds."""
    verdicts, signs = {one.verdict for one in found}, {np.sign(one.paired.difference) for one in found}
    if len(found) < seeds or len(verdicts) > 1:
        return "undecided"
    return "undecided" if verdicts == {"changed"} and len(signs) > 1 else found[0].verdict


def _how(changes: Sequence[Change]) -> list[str]:
    """Say how attention and relevance changed: one sentence for each measure and direction."""
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
    """Say how many heads changed, and where only heads did: their changes may cancel in the block's mean."""
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


def _divergence(run: DepthRun) -> list[str]:
    if run.divergence is None:
        return []
    means = [single(values) for values in run.divergence.mean(-1).T]
    order = np.argsort([one.mean for one in means], kind="stable")
    least, most = ((block_names([run.blocks[i]]), means[i]) for i in (order[0], order[-1]))
    sizes = [f"{number(one.mean)} [{number(one.low)}, {number(one.high)}]" for _, one in (most, least)]
    return [
        f"The reading row changed most in {most[0]}, with a Jensen-Shannon divergence of {sizes[0]}, and least in "
        f"{least[0]}, with {sizes[1]} (0: the same attention, 1: attention on other tokens only)."
    ]


def _token_similarity(run: DepthRun) -> list[str]:
    if run.cka is None or not np.isfinite(run.cka).any():
        return []
    least = int(np.nanargmin(run.cka))
    where = "at the input" if not least else f"after {block_names([run.blocks[least - 1]])}"
    ends = {0: f"{number(run.cka[0])} at the input", len(run.cka) - 1: f"{number(run.cka[-1])} after the last layer"}
    others = " and ".join(text for place, text in ends.items() if place != least)
    return [
        f"Tokens are least similar {where}, with a linear CKA of {number(run.cka[least])} (1: the same up to "
        f"rotation); it is {others}."
    ]


def block_names(blocks: Sequence[str]) -> str:
    """Name blocks in words: "block 3", "blocks 0, 2 to 5 and attention pooling", "" for none."""
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
