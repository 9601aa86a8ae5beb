"""What figures are stacked of besides their panels: paragraphs, keys. A block: (height in pixels, draw(pen, top))."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from matplotlib.artist import Artist
from matplotlib.font_manager import FontProperties

from report.figures.canvas import INK, Pen, font, line_height, literal, text_width, wrap
from report.figures.grid import MARGIN, PAD

Block = tuple[float, Callable[[Pen, float], None]]

KEY = font(9.5)
KEY_ROW = 22  # pixels
HANDLE = 56  # pixels of a sample with the space around it


def paragraph(text: str, width: float, properties: FontProperties, colour: str = INK, below: float = PAD) -> Block:
    """`text`, wrapped between the margins of a figure `width` pixels wide; '' takes no room."""
    lines = wrap(text, width - 2 * MARGIN, properties)
    height = round(len(lines) * line_height(properties) + below) if lines else 0
    return height, lambda pen, top: pen.lines(MARGIN, top, lines, properties, colour=colour)


def key(entries: Mapping[str, Artist], width: float, below: float = PAD) -> Block:
    """Label -> a sample of what it stands for, made in the house's style, in as many columns as the longest leaves."""
    room = width - 2 * MARGIN
    columns = max(1, int(room // (HANDLE + max(text_width(label, KEY) for label in entries))))
    rows = -(-len(entries) // columns)

    def draw(pen: Pen, top: float) -> None:
        labels = [literal(label) for label in entries]
        pen.figure.legend(
            entries.values(),
            labels,
            loc="upper left",
            prop=KEY,
            ncols=columns,
            borderaxespad=0,
            borderpad=0,
            bbox_to_anchor=(MARGIN / pen.width, 1 - top / pen.height),
        )

    return rows * KEY_ROW + below, draw
