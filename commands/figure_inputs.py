"""What was measured as the inputs of figures: evaluation's objects become report's plain numbers and texts.

Letters: N images, L layers (blocks, and attention pooling where there is one), h heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.tables import estimate, number, p_text
from evaluation.statistics.claims import Claim
from evaluation.statistics.depth import MEASURES, RULE, Change, DepthRun, check_pair, shared_measures
from evaluation.statistics.measured import Measured
from evaluation.statistics.paired import single
from evaluation.statistics.verdicts import ONE_SEED, agreement
from report.figures.depth_heads import HeadMeasure, depth_heads
from report.figures.depth_profiles import DepthLine, DepthMeasure, depth_profiles
from report.figures.rainclouds import Cloud
from report.figures.verdict_overview import Panel, Verdict

READING_ROW = (
    "Reading row: the attention of what the head reads, which is the class token or, where tokens are pooled, the mean "
    "over those that pooling reads. Attention on itself: of each such token on itself"
)


# ---- differences


def cloud(label: str, differences: np.ndarray, measured: Measured) -> Cloud:
    """Return one comparison of a raincloud plot, with its numbers in words.

    label: which methods are compared.
    differences: (N,) first minus second method, averaged over seeds; NaN where an image has no value.
    measured: of the same figures.
    """
    m = measured
    dropped = f" ({m.n_dropped} without a value)" if m.n_dropped else ""
    facts: tuple[str, ...] = (
        f"mean {estimate(m.difference, m.low, m.high)}",
        f"{m.n} images{dropped}, {m.test} {p_text(m.p_value)}",
        agreement(m.seeds),
    )
    if not abs(m.difference) >= m.smallest_detectable:  # a larger one is found, or its verdict says why not
        facts += (f"smallest detectable: {number(m.smallest_detectable)}",)
    return Cloud(label, differences, m.difference, m.low, m.high, tuple(m.seeds.differences), facts)


# ---- verdicts


def verdict_panels(claims: Mapping[str, Sequence[Claim]]) -> list[Panel]:
    """Return a panel per claim's letter and relevance method, in the order of their first appearance.

    claims: name of a row, for both methods' names -> its claims.
    """
    grouped: dict[tuple[str, str], dict[str, Claim]] = {}
    for name, stated in claims.items():
        for claim in stated:
            grouped.setdefault((claim.letter, claim.relevance), {})[name] = claim
    return [_panel(letter, rows) for (letter, _), rows in grouped.items()]


def _panel(letter: str, rows: Mapping[str, Claim]) -> Panel:
    first = next(iter(rows.values()))
    heading = f"({letter}) {first.wording.topic}" + (f" ({first.how})" if first.how else "")
    return Panel(heading, first.unit, first.sign, {name: _verdict(claim) for name, claim in rows.items()})


def _verdict(claim: Claim) -> Verdict:
    m, scale = claim.measured, claim.scale
    return Verdict(
        scale * m.difference,
        scale * m.low,
        scale * m.high,
        tuple(scale * difference for difference in m.seeds.differences),
        claim.judgement.word if claim.judgement else "not judged",
        claim.judgement.side if claim.judgement else None,
        (f"{claim.difference}, {m.n} images", claim.beside),
    )


def overview_note(claims: Mapping[str, Sequence[Claim]], note: str = "") -> str:
    """Return `note`, after a warning where every claim rests on one training seed."""
    seeds = {len(claim.measured.seeds.differences) for stated in claims.values() for claim in stated}
    return f"{ONE_SEED.capitalize()}. {note}" if seeds == {1} else note


# ---- attention and relevance by depth


def draw_depth_profiles(
    path: str | Path, runs: Sequence[DepthRun], changes: Sequence[Sequence[Change]], title: str, footnote: str = ""
) -> None:
    """Draw every measure by block, a line per run.

    path: the file to write.
    runs: the first is the one before fine-tuning.
    changes: `depth_changes` of each further run to the first, by block.
    title, footnote: above and below the panels.

    Raises ValueError when runs and changes do not agree.
    """
    if len(changes) != len(runs) - 1:
        raise ValueError(
            f"depth_profiles: {len(runs)} runs and changes of {len(changes)}; expected changes of all "
            f"runs but the first"
        )
    for run in runs[1:]:
        check_pair(runs[0], run)
    depth_profiles(
        path,
        [run.label for run in runs],
        runs[0].blocks,
        [_depth_measure(runs, changes, name) for name in shared_measures(runs)],
        title,
        _depth_note(runs, footnote),
        [_divergence(run) for run in runs] if any(run.divergence is not None for run in runs) else (),
        [run.cka for run in runs] if any(run.cka is not None for run in runs) else (),
    )


def _depth_measure(runs: Sequence[DepthRun], changes: Sequence[Sequence[Change]], name: str) -> DepthMeasure:
    measure = MEASURES[name]
    lines = []
    for run, found in zip(runs, [[], *changes]):
        changed = {one.block for one in found if one.measure == name and one.verdict == "changed"}
        heads = None if measure.summed else measure.factor * run.measures[name].mean(0)
        places = [place for place, block in enumerate(run.blocks) if block in changed]
        lines.append(_depth_line(run.by_block(name) * measure.factor, heads, places))
    even = measure.factor * runs[0].uniform[name] if name in runs[0].uniform else None
    return DepthMeasure(f"{measure.title} ({measure.unit})", lines, even)


def _divergence(run: DepthRun) -> DepthLine | None:
    return None if run.divergence is None else _depth_line(run.divergence.mean(-1), run.divergence.mean(0))


def _depth_line(values: np.ndarray, heads: np.ndarray | None, changed: Sequence[int] = ()) -> DepthLine:
    """Average values (N, L) over images."""
    means = [single(column) for column in values.T]
    mean, low, high = np.array([(one.mean, one.low, one.high) for one in means]).T
    return DepthLine(mean, low, high, heads, changed)


def draw_depth_heads(
    path: str | Path, before: DepthRun, after: DepthRun, changes: Sequence[Change], title: str, footnote: str = ""
) -> None:
    """Draw attention by block and head, before and after fine-tuning; no summed measures.

    path: the file to write.
    before, after: the two runs.
    changes: `depth_changes(before, after, by_head=True)`.
    title, footnote: above and below the matrices.

    Raises ValueError when the runs do not agree.
    """
    check_pair(before, after)
    names = [name for name in shared_measures([before, after]) if not MEASURES[name].summed]
    depth_heads(
        path,
        (before.label, after.label),
        before.blocks,
        [_head_measure(before, after, changes, name) for name in names],
        title,
        _depth_note([before, after], footnote),
        None if after.divergence is None else after.divergence.mean(0),
    )


def _head_measure(before: DepthRun, after: DepthRun, changes: Sequence[Change], name: str) -> HeadMeasure:
    measure = MEASURES[name]
    first, second = (measure.factor * run.measures[name].mean(0) for run in (before, after))
    changed = np.zeros(first.shape, dtype=bool)
    for one in changes:
        if one.measure == name and one.verdict == "changed":
            changed[before.blocks.index(one.block), one.head] = True
    smallest = measure.factor * after.smallest(name)
    return HeadMeasure(f"{measure.title} ({measure.unit})", first, second, changed, smallest)


def _depth_note(runs: Sequence[DepthRun], footnote: str) -> str:
    """Return what the measures are, the rule for a change, and the footnote."""
    named = [name for name in shared_measures(runs) if name.startswith("on_")]
    return f"{READING_ROW}{'; the rest is on patches' * (named == ['on_itself'])}. {RULE} {footnote}"
