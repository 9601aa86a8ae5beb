"""What fine-tuning changed at which depth: matrices of attention by block and head, before, after and their difference.

Letters: L layers (blocks, and attention pooling where there is one), h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from report.figures.block_matrix import DIFFERENCE_COLOURS, SEQUENTIAL_COLOURS, block_matrix
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
    paragraph,
    stack,
)
from report.figures.canvas import QUIET, Pen, figure_style, line_height, text_width, wrap

WIDTH, BAR_LENGTH = 1000, 130  # pixels


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
    room = (WIDTH - 2 * MARGIN) // 3
    rows = [_matrix_row(one, labels, blocks, room) for one in measures]
    if divergence is not None:
        rows.append(_divergence_row(divergence, labels, blocks, room))
    text = f"Dot: the head changed. {note}".replace("*", "").strip()
    foot = paragraph(text, WIDTH, SMALL, QUIET)
    stack(path, WIDTH, [paragraph(title, WIDTH, TITLE, below=ROW_GAP), *rows, foot])


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
