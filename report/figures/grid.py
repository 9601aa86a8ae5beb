"""A grid of pictures with texts: rows of cells under column headings, with a colour bar per scale.

Rows grow with their captions, so that long class names are wrapped and never clipped or run into a neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from report.figures.blocks import (
    BAR,
    CAPTION,
    CELL_TITLE,
    HEADER,
    MARGIN,
    PAD,
    ROW_GAP,
    SMALL,
    SUBHEADER,
    TITLE,
    Block,
    stack,
)
from report.figures.canvas import QUIET, Pen, line_height, text_width, wrap

GAP = 14  # pixels between columns of one group
GROUP_GAP = 34  # pixels between groups of columns
FRAME = 4  # pixels of a coloured frame, drawn around the image and never over it


@dataclass(frozen=True)
class Cell:
    """One picture of the grid.

    image: (H, W, 3) uint8, any size.
    title, caption: texts above and below it, wrapped.
    colour: of a frame around the image, for example for a right or wrong prediction; None draws none.
    """

    image: np.ndarray
    title: str = ""
    caption: str = ""
    colour: str | None = None


@dataclass(frozen=True)
class Scale:
    """A colour bar.

    colour_map: matplotlib's name of its colours.
    label: what they measure.
    limits: the words at its two ends.
    """

    colour_map: str = "inferno"
    label: str = "relevance, per heatmap: 0 to its maximum"
    limits: tuple[object, object] = (0, 1)


def grid(
    path: str | Path,
    rows: Sequence[Sequence[Cell | None]],
    headers: Sequence[tuple[str, int]],
    subheaders: Sequence[str],
    title: str,
    scales: Sequence[Scale] = (Scale(),),
    footnote: str = "",
    cell_pixels: int = 224,
) -> None:
    """Write the grid as a PNG of exactly the size its cells and texts need.

    path: the file to write.
    rows: cells from the left; the place of None stays empty.
    headers: (text, columns spanned) per group, from the left; the text may be "".
    subheaders: a text per column, may be "".
    title: above the grid.
    scales: a colour bar each, one below the other.
    footnote: below the grid.
    cell_pixels: the longer side of every image: shown pixel for pixel where it has that size, scaled by nearest
        neighbour at whole multiples, bicubic otherwise.

    Raises ValueError when columns do not agree or an image is not (H, W, 3) uint8.
    """
    columns = len(subheaders)
    _check(rows, headers, columns)
    lefts, width = _columns(headers, cell_pixels)
    layout = Layout(lefts, width, cell_pixels)
    blocks = [
        layout.head(title, scales),
        layout.column_heads(headers, subheaders),
        *(layout.row(row) for row in rows),
    ]
    if footnote:
        blocks.append(layout.foot(footnote))
    stack(path, width, blocks)


def _check(rows: Sequence[Sequence[Cell | None]], headers: Sequence[tuple[str, int]], columns: int) -> None:
    spanned = sum(span for _, span in headers)
    if not rows or not columns:
        raise ValueError("grid: expected at least one row and one column")
    if spanned != columns or any(len(row) != columns for row in rows):
        raise ValueError(
            f"grid: {columns} subheaders, headers over {spanned} columns, rows of "
            f"{sorted({len(row) for row in rows})} cells; expected the same number of columns everywhere"
        )
    for image in (cell.image for row in rows for cell in row if cell is not None):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"grid: expected images (H, W, 3) uint8, got {image.shape} {image.dtype}")


def _columns(headers: Sequence[tuple[str, int]], cell: int) -> tuple[list[int], int]:
    """Return the left edge of each column and the picture's width, pixels."""
    lefts, x = [], MARGIN
    for _, span in headers:
        lefts += [x + i * (cell + GAP) for i in range(span)]
        x = lefts[-1] + cell + GROUP_GAP
    return lefts, x - GROUP_GAP + MARGIN


class Layout:
    """Make the blocks of a picture with columns.

    lefts: left edge of each column, pixels.
    width: of the picture, pixels.
    cell: the side of a cell, pixels.
    """

    def __init__(self, lefts: Sequence[int], width: int, cell: int) -> None:
        self.lefts, self.width, self.cell = lefts, width, cell

    def head(self, title: str, scales: Sequence[Scale]) -> Block:
        """Return title and colour bars, their ends named, with their labels beside them, or below if narrow."""
        titles = wrap(title, self.width - 2 * MARGIN, TITLE)
        firsts, lasts = ([text_width(str(scale.limits[end]), SMALL) + PAD for scale in scales] for end in (0, 1))
        bar_left = MARGIN + round(max(firsts))
        label_left = bar_left + BAR[0] + max(lasts) + 3 * PAD
        beside = all(text_width(scale.label, SMALL) <= self.width - MARGIN - label_left for scale in scales)
        labels = [[scale.label] if beside else wrap(scale.label, self.width - 2 * MARGIN, SMALL) for scale in scales]
        above, line = len(titles) * line_height(TITLE) + 2 * PAD, line_height(SMALL)
        steps = [PAD + line * (1 if beside else 1 + len(lines)) for lines in labels]

        def draw(pen: Pen, top: float) -> None:
            pen.lines(MARGIN, top, titles, TITLE)
            top += above
            for scale, lines, step in zip(scales, labels, steps):
                self._bar(pen, scale, bar_left, round(top))
                pen.lines(
                    label_left if beside else MARGIN, round(top) + line * (not beside), lines, SMALL, colour=QUIET
                )
                top += step

        return round(above + sum(steps) - PAD + 2 * ROW_GAP), draw

    def _bar(self, pen: Pen, scale: Scale, left: int, top: int) -> None:
        first, last = map(str, scale.limits)
        colours = matplotlib.colormaps[scale.colour_map](np.linspace(0, 1, BAR[0]), bytes=True)[None, :, :3]
        pen.lines(left - PAD, top, [first], SMALL, "right")
        pen.image(left, top + round((line_height(SMALL) - BAR[1]) / 2), *BAR, colours, "nearest")
        pen.lines(left + BAR[0] + PAD, top, [last], SMALL)

    def column_heads(self, headers: Sequence[tuple[str, int]], subheaders: Sequence[str]) -> Block:
        """Return headers over groups of columns, and subheaders over columns."""
        spans, column = [], 0
        for text, span in headers:
            left, right = self.lefts[column], self.lefts[column + span - 1] + self.cell
            spans.append((left, right, wrap(text, right - left, HEADER)))
            column += span
        subs = [wrap(text, self.cell, SUBHEADER) for text in subheaders]
        head_height = max(len(lines) for *_, lines in spans) * line_height(HEADER) + PAD
        height = head_height + PAD + max(map(len, subs)) * line_height(SUBHEADER) + ROW_GAP

        def draw(pen: Pen, top: float) -> None:
            for left, right, lines in spans:
                # Heads stand on their rule, whatever the number of lines.
                start = top + head_height - PAD - len(lines) * line_height(HEADER)
                pen.lines((left + right) / 2, start, lines, HEADER, "center")
                if lines:
                    pen.rule(left, right, top + head_height)
            for left, lines in zip(self.lefts, subs):
                pen.lines(left + self.cell / 2, top + head_height + PAD, lines, SUBHEADER, "center", QUIET)

        return round(height), draw

    def row(self, cells: Sequence[Cell | None]) -> Block:
        """Return one row of cells with their texts, as high as the longest text."""
        present = [(left, cell) for left, cell in zip(self.lefts, cells) if cell is not None]
        titles = [wrap(cell.title, self.cell, CELL_TITLE) for _, cell in present]
        captions = [wrap(cell.caption, self.cell, CAPTION) for _, cell in present]
        title_lines = max(map(len, titles), default=0)
        above = round(title_lines * line_height(CELL_TITLE) + PAD if title_lines else FRAME)
        below = max(map(len, captions), default=0) * line_height(CAPTION) + PAD
        height = above + self.cell + below + ROW_GAP

        def draw(pen: Pen, top: float) -> None:
            for (left, cell), title, caption in zip(present, titles, captions):
                middle = left + self.cell / 2
                start = top + above - PAD - len(title) * line_height(CELL_TITLE)
                pen.lines(middle, start, title, CELL_TITLE, "center")
                self._image(pen, cell, left, round(top) + above)
                pen.lines(middle, top + above + self.cell + PAD, caption, CAPTION, "center")

        return round(height), draw

    def _image(self, pen: Pen, cell: Cell, left: int, top: int) -> None:
        image_height, image_width = cell.image.shape[:2]
        scale = self.cell / max(image_height, image_width)
        width, height = max(1, round(image_width * scale)), max(1, round(image_height * scale))
        left, top = left + (self.cell - width) // 2, top + (self.cell - height) // 2
        interpolation = "nearest" if scale == round(scale) else "bicubic" if scale > 1 else "antialiased"
        pen.image(left, top, width, height, cell.image, interpolation)
        if cell.colour:
            pen.frame(left, top, width, height, cell.colour, FRAME)

    def foot(self, text: str) -> Block:
        """Return the footnote."""
        lines = wrap(text, self.width - 2 * MARGIN, SMALL)
        height = round(len(lines) * line_height(SMALL))
        return height, lambda pen, top: pen.lines(MARGIN, top, lines, SMALL, colour=QUIET)
