"""Layout shared by all figures: margins and letter sizes, and blocks that are stacked from the top to the bottom.

A block is a pair: its height in pixels, and a function `draw(pen, top)` that draws it from `top` pixels on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from report.figures.canvas import INK, Pen, font, line_height, literal, picture, text_width, wrap

Block = tuple[float, Callable[[Pen, float], None]]

MARGIN = 24  # pixels around the whole picture
ROW_GAP = 16
PAD = 6  # between an image and its text
BAR = (240, 14)  # a colour bar, pixels

TITLE, HEADER, SUBHEADER = font(15, bold=True), font(12, bold=True), font(10.5)
CELL_TITLE, CAPTION, SMALL = font(10.5, bold=True), font(10.5), font(9.5)

KEY = font(9.5)
KEY_ROW = 22  # pixels
HANDLE = 56  # pixels of a sample with the space around it


def stack(path: str | Path, width: int, blocks: Sequence[Block]) -> None:
    """Write a PNG of blocks, one below the other.

    path: the file to write.
    width: of the picture, pixels.
    blocks: from the top to the bottom.
    """
    height = 2 * MARGIN + sum(block_height for block_height, _ in blocks)
    with picture(path, width, height) as figure:
        top: float = MARGIN
        for block_height, draw in blocks:
            draw(Pen(figure, width, round(height)), top)
            top += block_height


def paragraph(text: str, width: float, properties: FontProperties, colour: str = INK, below: float = PAD) -> Block:
    """Return `text` as a block, wrapped between the margins of a figure `width` pixels wide; '' takes no room."""
    lines = wrap(text, width - 2 * MARGIN, properties)
    height = round(len(lines) * line_height(properties) + below) if lines else 0
    return height, lambda pen, top: pen.lines(MARGIN, top, lines, properties, colour=colour)


def key(entries: Mapping[str, Artist], width: float, below: float = PAD) -> Block:
    """Return a legend as a block, in as many columns as its longest label leaves.

    entries: label -> a sample of what it stands for, made inside `figure_style`.
    width: of the figure, pixels.
    below: pixels left free below the legend.
    """
    room = width - 2 * MARGIN
    columns = max(1, int(room // (HANDLE + max(text_width(label, KEY) for label in entries))))
    rows = -(-len(entries) // columns)

    def draw(pen: Pen, top: float) -> None:
        labels = [literal(label) for label in entries]
        pen.figure.legend(
            list(entries.values()),
            labels,
            loc="upper left",
            prop=KEY,
            ncols=columns,
            borderaxespad=0,
            borderpad=0,
            bbox_to_anchor=(MARGIN / pen.width, 1 - top / pen.height),
        )

    return rows * KEY_ROW + below, draw


def legend_below(figure: Figure, columns: int = 5) -> None:
    """Draw one legend below all axes of a figure; a label that several axes share stands once."""
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    if entries:
        figure.legend(list(entries.values()), list(entries), loc="lower center", ncols=min(columns, len(entries)))
