"""What fine-tuning changed at which depth: profiles over the blocks, and matrices of blocks and heads.

Letters: L layers (blocks, and attention pooling where there is one), h heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from report.figures.block_matrix import DIFFERENCE_COLOURS, SEQUENTIAL_COLOURS, block_matrix, tick_step
from report.figures.blocks import (
    BAR,
    CELL_TITLE,
    HEADER,
    MARGIN,
    PAD,
    ROW_GAP,
    SMALL,
    TITLE,
    Block,
    key,
    paragraph,
    stack,
)
from report.figures.canvas import INK, MARKERS, PALETTE, QUIET, Pen, figure_style, line_height, text_width, wrap

COLUMNS, WIDTH, PANEL_HEIGHT, BESIDE = 2, 1100, 210, 64  # pixels of depth profiles
HEAD_WIDTH, BAR_LENGTH = 1000, 130  # pixels of head matrices

_Panel = tuple[str, Callable[[Axes], None]]  # a heading and what fills the axes


@dataclass(frozen=True)
class DepthLine:
    """One run's values of one measure by block, in the unit shown.

    mean, low, high: (L,) mean over images and its 95 % interval.
    heads: (L, h) means of single heads, drawn as dots; None draws none.
    changed: indices of the blocks that changed from the first run, drawn as filled markers.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    heads: np.ndarray | None = None
    changed: Sequence[int] = ()


@dataclass(frozen=True)
class DepthMeasure:
    """A panel: one measure of every run.

    title: the measure with its unit.
    lines: one per run; None where the run lacks it.
    even: the measure's value for even attention, a dashed line; None where there is none.
    """

    title: str
    lines: Sequence[DepthLine | None]
    even: float | None = None


@dataclass(frozen=True)
class HeadMeasure:
    """One measure by block and head, before and after fine-tuning: means over images in the unit shown.

    title: the measure with its unit.
    before, after: (L, h).
    changed: (L, h) bool, which heads changed.
    smallest: the smallest difference that counts: the scale of differences never ends before it.
    """

    title: str
    before: np.ndarray
    after: np.ndarray
    changed: np.ndarray
    smallest: float


# ---- profiles: a line per run over the blocks


@figure_style()
def depth_profiles(
    path: str | Path,
    labels: Sequence[str],
    blocks: Sequence[str],
    measures: Sequence[DepthMeasure],
    title: str,
    note: str = "",
    divergence: Sequence[DepthLine | None] = (),
    similarity: Sequence[np.ndarray | None] = (),
) -> None:
    """Draw every measure by block: mean over images with its 95 % interval as a band, a line per run, a dot per head.

    path: the file to write.
    labels: the runs' names; the first is the run before fine-tuning.
    blocks: L names.
    measures: a panel each.
    title, note: above and below the panels.
    divergence: per run, of the reading row from that of the first run, Jensen-Shannon, 0 to 1; None for the first.
        () draws no panel.
    similarity: per run, linear CKA (L + 1,) to the first run of the tokens that enter the first layer and that leave
        each; None for the first. () draws no panel.

    Raises ValueError unless every panel has an entry per run, and every line a value per block.
    """
    for lines in [*(one.lines for one in measures), *([divergence] if divergence else [])]:
        _check_lines(lines, labels, blocks)
    if similarity:
        _check_lines(similarity, labels, ("in", *blocks))
    panels = [_measure_panel(one, blocks) for one in measures]
    panels += [_divergence_panel(divergence, labels[0], blocks)] if divergence else []
    panels += [_similarity_panel(similarity, labels[0], blocks)] if similarity else []
    text = f"Line and band: mean over images, its 95 % interval. Dots: single heads. {note}"
    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    stack(
        path,
        WIDTH,
        [
            paragraph(title, WIDTH, TITLE),
            key(_samples(labels), WIDTH, ROW_GAP),
            *map(_panel_row, rows),
            _note(text, WIDTH),
        ],
    )


def _check_lines(lines: Sequence[DepthLine | np.ndarray | None], labels: Sequence[str], blocks: Sequence[str]) -> None:
    counts = {len(line.mean if isinstance(line, DepthLine) else line) for line in lines if line is not None}
    if len(lines) != len(labels) or counts - {len(blocks)}:
        raise ValueError(
            f"depth_profiles: a panel has {len(lines)} lines of {sorted(counts)} values; expected a line for each of "
            f"{len(labels)} runs and a value for each of {', '.join(blocks)}"
        )


def _note(text: str, width: int) -> Block:
    return paragraph(text.replace("*", "").strip(), width, SMALL, QUIET)


def _samples(labels: Sequence[str]) -> dict[str, Artist]:
    samples: dict[str, Artist] = {
        label: Line2D([], [], linewidth=1.5, **_style(index)) for index, label in enumerate(labels)
    }
    samples["changed"] = Line2D([], [], color=QUIET, marker="o", markersize=6, linestyle="none")
    samples["even attention"] = Line2D([], [], color=INK, linestyle="--", linewidth=1)
    return samples


def _style(index: int) -> dict[str, Any]:
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 6,
        "markerfacecolor": "white",
    }


def _measure_panel(measure: DepthMeasure, blocks: Sequence[str]) -> _Panel:
    def draw(axes: Axes) -> None:
        for index, line in enumerate(measure.lines):
            if line is None:
                continue
            _profile(axes, index, len(measure.lines), line)
            filled = {"markerfacecolor": _style(index)["color"], "linestyle": "none"}
            marked = list(line.changed)
            axes.plot(marked, line.mean[marked], **_style(index) | filled)
        if measure.even is not None:
            axes.axhline(measure.even, color=INK, linestyle="--", linewidth=1, zorder=1)
        _blocks_below(axes, blocks)

    return measure.title, draw


def _profile(axes: Axes, index: int, runs: int, line: DepthLine) -> None:
    """Draw the line of a run, and its heads' means as dots beside it."""
    places, colour = np.arange(len(line.mean)), PALETTE[index % len(PALETTE)]
    axes.fill_between(places, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    axes.vlines(places, line.low, line.high, color=colour, alpha=0.6, linewidth=1)  # a lone block has no band
    if line.heads is not None:
        apart = 0.4 * ((index + 0.5) / runs - 0.5)
        heads = line.heads.shape[1]
        axes.scatter(np.repeat(places + apart, heads), line.heads, s=6, color=colour, alpha=0.5, linewidths=0)
    axes.plot(places, line.mean, **_style(index))


def _divergence_panel(lines: Sequence[DepthLine | None], first: str, blocks: Sequence[str]) -> _Panel:
    def draw(axes: Axes) -> None:
        for index, line in enumerate(lines):
            if line is not None:
                _profile(axes, index, len(lines), line)
        axes.set_ylim(bottom=0)
        _blocks_below(axes, blocks)

    return f"Reading row: divergence from {first} (Jensen-Shannon, 0 to 1)", draw


def _similarity_panel(values: Sequence[np.ndarray | None], first: str, blocks: Sequence[str]) -> _Panel:
    def draw(axes: Axes) -> None:
        for index, value in enumerate(values):
            if value is not None:
                axes.plot(value, **_style(index))
        axes.axhline(1, color=QUIET, linewidth=1, zorder=1)
        least = min(np.nanmin(value, initial=1.0) for value in values if value is not None)
        axes.set_ylim(min(0.9, least - 0.02), 1.01)  # small differences shall look small
        _blocks_below(axes, ("in", *blocks))
        axes.set_xlabel("tokens after block (in: before the first)")

    return f"Features: similarity to {first} (linear CKA, 1: the same)", draw


def _blocks_below(axes: Axes, names: Sequence[str]) -> None:
    step = tick_step(len(names), axes, 24)
    axes.set_xticks(range(0, len(names), step), names[::step])
    axes.set(xlim=(-0.5, len(names) - 0.5), xlabel="block")


def _panel_row(panels: Sequence[_Panel]) -> Block:
    room = (WIDTH - 2 * MARGIN) // COLUMNS
    heads = [wrap(heading, room - BESIDE, CELL_TITLE) for heading, _ in panels]
    above = max(map(len, heads)) * line_height(CELL_TITLE) + PAD

    def draw(pen: Pen, top: float) -> None:
        for column, ((_, fill), lines) in enumerate(zip(panels, heads)):
            left = MARGIN + 46 + column * room
            pen.lines(left, top + above - PAD - len(lines) * line_height(CELL_TITLE), lines, CELL_TITLE)
            fill(pen.axes(left, top + above, room - BESIDE, PANEL_HEIGHT))

    return round(above + PANEL_HEIGHT + 62), draw


# ---- matrices: a row per block, a column per head


@figure_style()
def depth_heads(
    path: str | Path,
    labels: tuple[str, str],
    blocks: Sequence[str],
    measures: Sequence[HeadMeasure],
    title: str,
    note: str = "",
    divergence: np.ndarray | None = None,
) -> None:
    """Draw attention by block and head, means over images: before, after, and after minus before, a row per measure.

    Both runs share a scale; that of their difference is symmetric about zero. A dot marks heads that changed.

    path: the file to write.
    labels: the names of the runs before and after.
    blocks: L names.
    measures: a row of matrices each.
    title, note: above and below the matrices.
    divergence: (L, h) of the reading row, Jensen-Shannon, 0 to 1, the last row; None draws none.

    Raises ValueError unless all matrices have the same shape, with a row per block.
    """
    matrices = [matrix for one in measures for matrix in (one.before, one.after, one.changed)]
    shapes = {matrix.shape for matrix in [*matrices, *([] if divergence is None else [divergence])]}
    if len(shapes) != 1 or next(iter(shapes))[:1] != (len(blocks),):
        raise ValueError(
            f"depth_heads: matrices have shapes {sorted(shapes)}; expected one, (blocks, heads), with a row for each "
            f"of {len(blocks)} blocks"
        )
    room = (HEAD_WIDTH - 2 * MARGIN) // 3
    rows = [_matrix_row(one, labels, blocks, room) for one in measures]
    if divergence is not None:
        rows.append(_divergence_row(divergence, labels, blocks, room))
    text = f"Dot: the head changed. {note}"
    stack(path, HEAD_WIDTH, [paragraph(title, HEAD_WIDTH, TITLE, below=ROW_GAP), *rows, _note(text, HEAD_WIDTH)])


@dataclass(frozen=True)
class _Matrix:
    """values (L, h), drawn between limits; marked: which of them have a dot (L, h)."""

    heading: str
    values: np.ndarray
    colours: str
    limits: tuple[float, float]
    marked: np.ndarray | None = None


def _matrix_row(measure: HeadMeasure, labels: tuple[str, str], blocks: Sequence[str], room: int) -> Block:
    means = [measure.before, measure.after]
    known = np.stack(means)[np.isfinite(means)]
    limits = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    difference = measure.after - measure.before
    # Differences too small to count stay pale, however small all of them are.
    most = max(np.nanmax(np.abs(difference), initial=0.0), measure.smallest)
    pictures = [_Matrix(label, values, SEQUENTIAL_COLOURS, limits) for label, values in zip(labels, means)]
    heading = f"{labels[1]} minus {labels[0]}"
    pictures.append(_Matrix(heading, difference, DIFFERENCE_COLOURS, (-most, most), measure.changed))
    return _matrices(measure.title, blocks, pictures, room)


def _divergence_row(values: np.ndarray, labels: tuple[str, str], blocks: Sequence[str], room: int) -> Block:
    limits = (0.0, float(values.max()) or 1.0)
    picture = _Matrix(f"{labels[1]} against {labels[0]}", values, SEQUENTIAL_COLOURS, limits)
    return _matrices("Divergence of the reading row (Jensen-Shannon, 0 to 1)", blocks, [picture], room)


def _matrices(heading: str, blocks: Sequence[str], pictures: Sequence[_Matrix], room: int) -> Block:
    """Return matrices side by side, each under its heading and its colour bar."""
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
            block_matrix(axes, one.values, blocks, one.colours, one.limits, one.marked)

    return round(above + row * len(blocks) + 58), draw


def _colour_bar(pen: Pen, left: float, top: float, matrix: _Matrix) -> None:
    signed = matrix.colours == DIFFERENCE_COLOURS
    first, last = (f"{end:{'+' if signed else ''}.2g}".replace("-", "\N{MINUS SIGN}") for end in matrix.limits)
    strip = matplotlib.colormaps[matrix.colours](np.linspace(0, 1, BAR[0]), bytes=True)[None, :, :3]
    bar = left + text_width(first, SMALL) + PAD
    pen.lines(left, top, [first], SMALL)
    pen.image(bar, top + (line_height(SMALL) - BAR[1]) / 2, BAR_LENGTH, BAR[1], strip, "nearest")
    pen.lines(bar + BAR_LENGTH + PAD, top, [last], SMALL)
