"""One image's relevance by block and head: a matrix of pictures with each block's share.

Letters: L layers (blocks, and attention pooling where there is one), h heads, H x W pixels.
A share is a block's part of the relevance of all heads, in magnitudes; shares sum to 1 over blocks. What a head's
relevance is differs between relevance methods, and so does whether the heads add up to the map: the footnote says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.tables import percent
from report.figures.blocks import CAPTION, CELL_TITLE, MARGIN, PAD, ROW_GAP, Block, stack
from report.figures.canvas import PALETTE, QUIET, Pen, line_height, wrap
from report.figures.grid import GAP, GROUP_GAP, Cell, Layout, Scale

BETWEEN = 4  # pixels between the cells of a matrix
SMALLEST_CELL, LARGEST_CELL = 56, 112  # pixels
PREVIEW = 176  # side of the image above a matrix, pixels
NAMES, NUMBERS, BARS = 70, 64, 84  # columns left of a matrix, pixels


def head_matrix(
    path: str | Path,
    preview: Sequence[Cell],
    cells: np.ndarray,
    shares: np.ndarray,
    blocks: Sequence[str],
    title: str,
    scale: Scale,
    footnote: str = "",
) -> None:
    """Draw a row per block, the first at the top, a column per head, and a last column for all heads.

    path: the file to write.
    preview: the image and its whole map, shown above.
    cells: pictures (L, h + 1, H, W, 3) uint8, the last of a row for all heads.
    shares: (L,) each block's share, 0 to 1, as number and bar; NaN is shown as a dash.
    blocks: L names.
    title, footnote: above and below the matrix.
    scale: the colour bar.

    Raises ValueError when cells, shares and blocks do not agree.
    """
    layers, columns = cells.shape[:2]
    if not len(shares) == len(blocks) == layers:
        raise ValueError(
            f"head_matrix: {layers} rows of cells, {len(shares)} shares, {len(blocks)} names of blocks; "
            f"expected one of each a block"
        )
    side = int(np.clip(720 // columns, SMALLEST_CELL, LARGEST_CELL))
    start = MARGIN + NAMES + NUMBERS + BARS + GAP
    lefts = [start + i * (side + BETWEEN) for i in range(columns - 1)]
    lefts.append(lefts[-1] + side + GROUP_GAP if lefts else start)
    width = max(lefts[-1] + side, 2 * (MARGIN + PREVIEW + GAP)) + MARGIN
    layout = Layout(lefts, width, side)
    above = Layout([MARGIN + i * (PREVIEW + GAP) for i in range(len(preview))], width, PREVIEW)
    blocks_of_picture = [
        layout.head(title, [scale]),
        above.row(preview),
        _matrix_heads(layout, columns - 1),
        _matrix(lefts, side, cells, shares, blocks),
    ]
    if footnote:
        blocks_of_picture.append(layout.foot(footnote))
    stack(path, width, blocks_of_picture)


def _matrix_heads(layout: Layout, heads: int) -> Block:
    height, columns = layout.column_heads([("head", heads), ("all", 1)], [*map(str, range(heads)), ""])
    words = wrap("share of all heads' relevance", NUMBERS + BARS, CAPTION)

    def draw(pen: Pen, top: float) -> None:
        columns(pen, top)
        bottom = top + height - ROW_GAP / 2
        pen.lines(MARGIN, bottom - line_height(CAPTION), ["block"], CAPTION, colour=QUIET)
        pen.lines(MARGIN + NAMES, bottom - len(words) * line_height(CAPTION), words, CAPTION, colour=QUIET)

    return height, draw


def _matrix(lefts: Sequence[int], side: int, cells: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> Block:
    rows, columns, pixel_rows, pixel_columns, _ = cells.shape
    scale = side / max(pixel_rows, pixel_columns)
    cell_height, cell_width = max(1, round(pixel_rows * scale)), max(1, round(pixel_columns * scale))
    step = cell_height + BETWEEN
    # One picture of all cells: axes for each of some hundred cells would take seconds.
    together = np.full((rows * step - BETWEEN, lefts[-1] + side - lefts[0], 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * step, lefts[column] - lefts[0] + (side - cell_width) // 2
            small = Image.fromarray(cells[row, column]).resize((cell_width, cell_height), Image.Resampling.LANCZOS)
            together[top : top + cell_height, left : left + cell_width] = small
    largest = np.nanmax(shares, initial=0.0) or 1.0

    def draw(pen: Pen, top: float) -> None:
        pen.image(lefts[0], top, together.shape[1], together.shape[0], together, "nearest")
        for row, (name, share) in enumerate(zip(names, shares)):
            middle = top + row * step + cell_height / 2
            text = middle - line_height(CAPTION) / 2
            pen.lines(MARGIN, text, [name], CELL_TITLE)
            part = "< 0.1 %" if 0 < share < 5e-4 else percent(share)
            pen.lines(MARGIN + NAMES + NUMBERS - PAD, text, [part], CAPTION, "right")
            pen.bar(MARGIN + NAMES + NUMBERS, middle - 7, np.nan_to_num(share) / largest * BARS, 14, PALETTE[0])

    return rows * step + ROW_GAP, draw
