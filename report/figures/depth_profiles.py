"""What fine-tuning changed at which depth, as figures: profiles over the blocks, and matrices of blocks and heads.

Letters: N images, L layers (blocks, and attention pooling where there is one), h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from evaluation.statistics.depth import MEASURES, RULE, Change, DepthRun, check_pair, shared_measures
from evaluation.statistics.paired import single
from report.figures.canvas import INK, MARKERS, PALETTE, QUIET, Pen, line_height, text_width, wrap
from report.figures.grid import BAR, CELL_TITLE, HEADER, MARGIN, PAD, ROW_GAP, SMALL, TITLE, stack
from report.figures.layers import DIFFERENCE_COLOURS, SHARE_COLOURS, every, heat
from report.figures.text_blocks import Block, key, paragraph

COLUMNS, WIDTH, PANEL_HEIGHT, BESIDE = 2, 1100, 210, 64  # pixels of depth profiles
HEAD_WIDTH, BAR_LENGTH = 1000, 130  # pixels of head matrices

READING = (
    "Reading row: the attention of what the head reads, which is the class token or, where tokens are pooled, the mean "
    "over those that pooling reads. Attention on itself: of each such token on itself"
)


# ---- profiles: a line a run over the blocks


def depth_profiles(
    path: str | Path, runs: Sequence[DepthRun], changes: Sequence[Sequence[Change]], title: str, footnote: str = ""
) -> None:
    """Every measure by block: mean over images with its 95 % interval as a band, a line a run, a dot a head.

    runs: the first is the one before fine-tuning. changes: `depth_changes` of each further run to the first, by block.
    Raises ValueError when these do not agree.
    """
    if len(changes) != len(runs) - 1:
        raise ValueError(
            f"depth_profiles: {len(runs)} runs and changes of {len(changes)}; expected changes of all "
            f"runs but the first"
        )
    for run in runs[1:]:
        check_pair(runs[0], run)
    panels = [_measure_panel(runs, changes, name) for name in shared_measures(runs)]
    panels += [_divergence_panel(runs)] if any(run.divergence is not None for run in runs) else []
    panels += [_cka_panel(runs)] if any(run.cka is not None for run in runs) else []
    note = f"Line and band: mean over images, its 95 % interval. Dots: single heads. {_reading(runs)} {RULE} {footnote}"
    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    stack(
        path,
        WIDTH,
        [
            paragraph(title, WIDTH, TITLE),
            key(_samples(runs), WIDTH, ROW_GAP),
            *map(_panel_row, rows),
            _note(note, WIDTH),
        ],
    )


def _reading(runs: Sequence[DepthRun]) -> str:
    named = [name for name in shared_measures(runs) if name.startswith("on_")]
    return f"{READING}{'; the rest is on patches' * (named == ['on_itself'])}."


def _note(text: str, width: int) -> Block:
    return paragraph(text.replace("*", "").strip(), width, SMALL, QUIET)


def _samples(runs: Sequence[DepthRun]) -> dict[str, Artist]:
    samples = {run.label: Line2D([], [], **_line(index)) for index, run in enumerate(runs)}
    filled = Line2D([], [], color=QUIET, marker="o", markersize=6, linestyle="none")
    return samples | {"changed": filled, "even attention": Line2D([], [], color=INK, linestyle="--", linewidth=1)}


def _line(index: int) -> dict[str, Any]:
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 6,
        "markerfacecolor": "white",
    }


def _measure_panel(runs: Sequence[DepthRun], changes: Sequence[Sequence[Change]], name: str):
    measure = MEASURES[name]

    def draw(axes: Axes) -> None:
        for index, (run, found) in enumerate(zip(runs, [[], *changes])):
            heads = None if measure.summed else run.measures[name]
            means = _profile(axes, index, len(runs), run.by_block(name) * measure.factor, heads, measure.factor)
            changed = {one.block for one in found if one.measure == name and one.verdict == "changed"}
            marked = [i for i, block in enumerate(run.blocks) if block in changed]
            filled = {"markerfacecolor": _line(index)["color"], "linestyle": "none"}
            axes.plot(marked, means[marked], **_line(index) | filled)
        if name in runs[0].uniform:
            axes.axhline(measure.factor * runs[0].uniform[name], color=INK, linestyle="--", linewidth=1, zorder=1)
        _blocks_below(axes, runs[0].blocks)

    return f"{measure.title} ({measure.unit})", draw


def _profile(
    axes: Axes, index: int, runs: int, values: np.ndarray, heads: np.ndarray | None, factor: float = 1
) -> np.ndarray:
    """Draw values (N, L) of a run, and the means of its heads (N, L, h) beside its own, which are returned (L,)."""
    means = [single(column) for column in values.T]
    mean, low, high = np.array([(one.mean, one.low, one.high) for one in means]).T
    places, colour = np.arange(len(mean)), PALETTE[index % len(PALETTE)]
    axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.vlines(places, low, high, color=colour, alpha=0.6, linewidth=1)  # a lone block has no band
    if heads is not None:
        apart = 0.4 * ((index + 0.5) / runs - 0.5)
        dots = factor * heads.mean(0)
        axes.scatter(np.repeat(places + apart, dots.shape[1]), dots, s=6, color=colour, alpha=0.5, linewidths=0)
    axes.plot(places, mean, **_line(index))
    return mean


def _divergence_panel(runs: Sequence[DepthRun]):
    def draw(axes: Axes) -> None:
        for index, run in enumerate(runs):
            if run.divergence is not None:
                _profile(axes, index, len(runs), run.divergence.mean(-1), run.divergence)
        axes.set_ylim(bottom=0)
        _blocks_below(axes, runs[0].blocks)

    return f"Reading row: divergence from {runs[0].label} (Jensen-Shannon, 0 to 1)", draw


def _cka_panel(runs: Sequence[DepthRun]):
    def draw(axes: Axes) -> None:
        for index, run in enumerate(runs):
            if run.cka is not None:
                axes.plot(run.cka, **_line(index))
        axes.axhline(1, color=QUIET, linewidth=1, zorder=1)
        least = min(np.nanmin(run.cka, initial=1.0) for run in runs if run.cka is not None)
        axes.set_ylim(min(0.9, least - 0.02), 1.01)  # what hardly differs shall look so
        _blocks_below(axes, ("in", *runs[0].blocks))
        axes.set_xlabel("tokens after block (in: before the first)")

    return f"Features: likeness to {runs[0].label} (linear CKA, 1: the same)", draw


def _blocks_below(axes: Axes, names: Sequence[str]) -> None:
    step = every(len(names), axes, 24)
    axes.set_xticks(range(0, len(names), step), names[::step])
    axes.set(xlim=(-0.5, len(names) - 0.5), xlabel="block")


def _panel_row(panels: Sequence[tuple]) -> Block:
    room = (WIDTH - 2 * MARGIN) // COLUMNS
    heads = [wrap(heading, room - BESIDE, CELL_TITLE) for heading, _ in panels]
    above = max(map(len, heads)) * line_height(CELL_TITLE) + PAD

    def draw(pen: Pen, top: float) -> None:
        for column, ((_, fill), lines) in enumerate(zip(panels, heads)):
            left = MARGIN + 46 + column * room
            pen.lines(left, top + above - PAD - len(lines) * line_height(CELL_TITLE), lines, CELL_TITLE)
            fill(pen.axes(left, top + above, room - BESIDE, PANEL_HEIGHT))

    return round(above + PANEL_HEIGHT + 62), draw


# ---- matrices: a row a block, a column a head


def depth_heads(
    path: str | Path, before: DepthRun, after: DepthRun, changes: Sequence[Change], title: str, footnote: str = ""
) -> None:
    """Attention by block and head, means over images: before, after, and after minus before. No summed measures.

    Both runs share a scale; that of their difference is symmetric about zero. A dot marks heads that changed by RULE,
    with `changes` by head, as `depth_changes(..., by_head=True)` gives them. The last row is the reading row's
    divergence. Raises ValueError when the runs do not agree.
    """
    check_pair(before, after)
    room = (HEAD_WIDTH - 2 * MARGIN) // 3
    names = [name for name in shared_measures([before, after]) if not MEASURES[name].summed]
    blocks = [_matrix_row(before, after, changes, name, room) for name in names]
    if after.divergence is not None:
        blocks.append(_divergence_row(before, after, room))
    note = f"Dot: the head changed. {_reading([before, after])} {RULE} {footnote}"
    stack(path, HEAD_WIDTH, [paragraph(title, HEAD_WIDTH, TITLE, below=ROW_GAP), *blocks, _note(note, HEAD_WIDTH)])


@dataclass(frozen=True)
class _Matrix:
    """values (L, h), drawn between limits; marked: which of them have a dot (L, h)."""

    heading: str
    values: np.ndarray
    colours: str
    limits: tuple[float, float]
    marked: np.ndarray | None = None


def _matrix_row(before: DepthRun, after: DepthRun, changes: Sequence[Change], name: str, room: int) -> Block:
    measure = MEASURES[name]
    means = [measure.factor * run.measures[name].mean(0) for run in (before, after)]
    known = np.stack(means)[np.isfinite(means)]
    limits = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    difference = means[1] - means[0]
    # Differences too small to count stay pale, however small all of them are.
    most = max(np.nanmax(np.abs(difference), initial=0.0), measure.factor * after.smallest(name))
    marked = np.zeros(difference.shape, dtype=bool)
    for one in changes:
        if one.measure == name and one.verdict == "changed":
            marked[before.blocks.index(one.block), one.head] = True
    pictures = [_Matrix(run.label, values, SHARE_COLOURS, limits) for run, values in zip((before, after), means)]
    heading = f"{after.label} minus {before.label}"
    pictures.append(_Matrix(heading, difference, DIFFERENCE_COLOURS, (-most, most), marked))
    return _matrices(f"{measure.title} ({measure.unit})", before.blocks, pictures, room)


def _divergence_row(before: DepthRun, after: DepthRun, room: int) -> Block:
    values = after.divergence.mean(0)
    picture = _Matrix(f"{after.label} against {before.label}", values, SHARE_COLOURS, (0.0, float(values.max()) or 1.0))
    return _matrices("Divergence of the reading row (Jensen-Shannon, 0 to 1)", before.blocks, [picture], room)


def _matrices(heading: str, blocks: Sequence[str], pictures: Sequence[_Matrix], room: int) -> Block:
    """Matrices side by side, each under its heading and its colour bar."""
    width, row = room - 76, float(np.clip(240 / len(blocks), 15, 24))
    heads = [wrap(one.heading, room - 30, CELL_TITLE) for one in pictures]
    lines, bar = max(map(len, heads)) * line_height(CELL_TITLE), line_height(SMALL) + PAD
    above = line_height(HEADER) + PAD + lines + bar

    def draw(pen: Pen, top: float) -> None:
        pen.lines(MARGIN, top, [heading], HEADER)
        for column, (one, head) in enumerate(zip(pictures, heads)):
            left = MARGIN + 46 + column * room
            pen.lines(left, top + above - bar - len(head) * line_height(CELL_TITLE), head, CELL_TITLE)
            _colour_bar(pen, left, top + above - bar, one)
            axes = pen.axes(left, top + above, width, row * len(blocks))
            heat(axes, one.values, blocks, one.colours, one.limits, one.marked)

    return round(above + row * len(blocks) + 58), draw


def _colour_bar(pen: Pen, left: float, top: float, matrix: _Matrix) -> None:
    signed = matrix.colours == DIFFERENCE_COLOURS
    first, last = (f"{end:{'+' if signed else ''}.2g}".replace("-", "\N{MINUS SIGN}") for end in matrix.limits)
    strip = matplotlib.colormaps[matrix.colours](np.linspace(0, 1, BAR[0]), bytes=True)[None, :, :3]
    bar = left + text_width(first, SMALL) + PAD
    pen.lines(left, top, [first], SMALL)
    pen.image(bar, top + (line_height(SMALL) - BAR[1]) / 2, BAR_LENGTH, BAR[1], strip, "nearest")
    pen.lines(bar + BAR_LENGTH + PAD, top, [last], SMALL)
