"""The confusion matrix of one split, readable for three classes and for a hundred.

Letters: N images, C classes of the model, K of them drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.font_manager import FontProperties

from common.tables import percent
from report.figures.blocks import BAR, CELL_TITLE, MARGIN, PAD, ROW_GAP, SMALL, TITLE, Block, paragraph, stack
from report.figures.canvas import INK, QUIET, WRONG, Pen, figure_style, font, line_height, text_width, wrap

MOST_CLASSES = 200  # beyond, a picture could not be read at full size: only the classes confused most are drawn
NAMED_ON_BOTH_SIDES = 25  # more classes than these have their names on all four sides, as eyes lose a long row
PERCENT_FROM = 68  # pixels of a cell from which it has room for its percentage
SMALLEST_CELL, LARGEST_CELL = 18, 96  # pixels; cells grow beyond where names and numbers ask for it
MATRIX = 780  # pixels of the whole matrix, as far as its cells allow
NAMES = 300  # pixels of a name before it is broken into lines; twice that where lines would make many cells larger
CORNER = ["predicted \N{RIGHTWARDS ARROW}", "true \N{DOWNWARDS ARROW}"]
SMALLEST_WIDTH = 760  # pixels, room for title and scales

# Errors are loud from the first one on, what is right is quiet. Zero is white.
RIGHT = LinearSegmentedColormap.from_list("right", ["#eef4f9", "#a9c8e0"])
ERRORS = LinearSegmentedColormap.from_list("errors", ["#fddcc4", "#f5a06a", WRONG, "#7d2c00"])
NOTHING, NO_IMAGE, LINE, TENTH_LINE = "#ffffff", "#ececec", "#e6e6e6", "#b4b4b4"


@dataclass(frozen=True)
class Counts:
    """The numbers of the drawn classes.

    names: K class names.
    counts: (K, K) images, a row per true class, a column per predicted one.
    images: (K,) all images of a true class, also those taken for classes that are not drawn.
    left_out: confused images that no cell shows.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    images: np.ndarray
    left_out: int

    @property
    def shares(self) -> np.ndarray:
        """Return the shares (K, K) of a true class's images; 0 where it has none."""
        return self.counts / np.maximum(self.images, 1)[:, None]

    @property
    def largest_error(self) -> float:
        """Return the largest share off the diagonal."""
        return float(np.where(np.eye(len(self.names), dtype=bool), 0, self.shares).max())


@figure_style()
def confusion_matrix(
    path: str | Path, labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], title: str
) -> None:
    """Draw a row per true class and a column per predicted one, in the order of the names.

    Colours are shares of a true class's images, on one scale for the diagonal and another for errors; numbers are
    images. Of more than MOST_CLASSES classes those confused most are drawn, and the figure says so.

    path: the file to write.
    labels, predicted: (N,) classes, 0 to C - 1.
    class_names: C names.
    title: above the matrix.

    Raises ValueError without images, or when shapes or classes do not agree.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    _check(labels, predicted, len(class_names))
    shown = _most_confused(labels, predicted, len(class_names))
    found = _count(labels, predicted, shown, class_names)
    matrix = Matrix(found)
    errors, said = int((labels != predicted).sum()), _left_out(found, len(class_names))
    stack(
        path,
        matrix.width,
        [
            paragraph(title, matrix.width, TITLE),
            paragraph(
                f"{len(labels):,} images, {errors:,} of them taken for another class. Rows: the true class. Columns: "
                f"the class predicted. Numbers: images.{said}",
                matrix.width,
                SMALL,
                QUIET,
                below=ROW_GAP,
            ),
            _scales(found),
            matrix.block(),
        ],
    )


def _check(labels: np.ndarray, predicted: np.ndarray, classes: int) -> None:
    """Raise ValueError unless both are (N,) classes of at least one image."""
    if labels.shape != predicted.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(
            "confusion_matrix: expected labels and predicted classes of the same images, (N,) each and at least one, "
            f"got shapes {labels.shape} and {predicted.shape}"
        )
    for values in (labels, predicted):
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= classes:
            raise ValueError(
                f"confusion_matrix: expected whole numbers from 0 to {classes - 1} for classes, got {values.dtype} "
                f"from {values.min()} to {values.max()}"
            )


def _most_confused(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the classes to draw, ascending: all, or MOST_CLASSES that take part in most errors; ties by index."""
    wrong = labels != predicted
    part = np.bincount(labels[wrong], minlength=classes) + np.bincount(predicted[wrong], minlength=classes)
    return np.sort(np.argsort(-part, kind="stable")[:MOST_CLASSES])


def _count(labels: np.ndarray, predicted: np.ndarray, shown: np.ndarray, class_names: Sequence[str]) -> Counts:
    place = np.full(len(class_names), -1)
    place[shown] = np.arange(len(shown))
    rows, columns = place[labels], place[predicted]
    inside = (rows >= 0) & (columns >= 0)
    counts = np.zeros((len(shown), len(shown)), dtype=np.int64)
    np.add.at(counts, (rows[inside], columns[inside]), 1)
    images = np.bincount(labels, minlength=len(class_names))[shown]
    left_out = int((~inside & (labels != predicted)).sum())
    return Counts(tuple(class_names[i] for i in shown), counts, images, left_out)


def _left_out(found: Counts, classes: int) -> str:
    """Return what the figure says about classes without images and classes that are not drawn."""
    said = ""
    if not found.images.all():
        said += " A grey row: no image of that class."
    if len(found.names) < classes:
        said += (
            f" Of {classes:,} classes the {len(found.names)} are drawn that take part in most errors (errors "
            f"without a cell: {found.left_out:,}). Shares are of all images of a true class."
        )
    return said


def _scales(found: Counts) -> Block:
    """Return the two colour scales with their ends named."""
    scales = [("right, share of the true class's images", RIGHT, "0 %", "100 %")]
    if found.largest_error:
        scales.append(
            (
                "taken for another class, share of the true class's images",
                ERRORS,
                "above 0 %",
                percent(found.largest_error),
            )
        )
    line, label_height = line_height(SMALL), line_height(SMALL) + PAD

    def draw(pen: Pen, top: float) -> None:
        left = float(MARGIN)
        for text, colours, first, last in scales:
            bar = round(left + text_width(first, SMALL) + PAD)
            strip = colours(np.linspace(0, 1, BAR[0]), bytes=True)[None, :, :3]
            pen.lines(left, top, [text], SMALL)
            pen.lines(left, top + label_height, [first], SMALL)
            pen.image(bar, round(top + label_height + (line - BAR[1]) / 2), *BAR, strip, "nearest")
            pen.lines(bar + BAR[0] + PAD, top + label_height, [last], SMALL)
            left += max(text_width(text, SMALL), bar + BAR[0] + PAD + text_width(last, SMALL) - left) + 2 * ROW_GAP

    return round(label_height + line + ROW_GAP), draw


class Matrix:
    """The matrix with its names, measured: cells fit the longest name's lines and the widest number."""

    def __init__(self, found: Counts) -> None:
        self.found, self.classes = found, len(found.names)
        self.both_sides = self.classes > NAMED_ON_BOTH_SIDES
        self.names = [wrap(name, NAMES * (1 + self.both_sides), SMALL) for name in found.names]
        self.cell, self.number = self._cell()
        self.side = self.cell * self.classes
        longest = max((text_width(line, SMALL) for lines in self.names for line in lines), default=0)
        self.room = round(max(longest, *(text_width(line, CELL_TITLE) for line in CORNER)) + 2 * PAD)
        self.width = max(SMALLEST_WIDTH, 2 * MARGIN + self.side + self.room * (1 + self.both_sides))

    def _cell(self) -> tuple[int, FontProperties]:
        """Return the side of a cell in pixels, and the font of its number."""
        lines = max(map(len, self.names)) * line_height(SMALL)
        side = max(int(np.clip(MATRIX // self.classes, SMALLEST_CELL, LARGEST_CELL)), int(np.ceil(lines)))
        number = font(10.5 if side > 30 else 9 if side > 22 else 7.5)
        widest = text_width("0" * len(str(self.found.counts.max())), number)
        return max(side, int(np.ceil(widest)) + 4), number

    def block(self) -> Block:
        """Return the cells, with names left and above, of a large matrix also right and below."""
        left, above = MARGIN + self.room, self.room
        colours = self._colours()

        def draw(pen: Pen, top: float) -> None:
            corner = round(top) + above - PAD - len(CORNER) * line_height(CELL_TITLE)
            pen.lines(left - PAD, corner, CORNER, CELL_TITLE, "right", QUIET)
            pen.image(left, round(top) + above, self.side + 1, self.side + 1, self._picture(colours), "nearest")
            self._numbers(pen, left, round(top) + above, colours)
            for place, lines in enumerate(self.names):
                self._name(pen, lines, left, round(top) + above, (place + 0.5) * self.cell)

        return above + self.side + (self.room if self.both_sides else PAD), draw

    def _colours(self) -> np.ndarray:
        """Return the colours (K, K, 3) of the cells, 0 to 1."""
        shares, diagonal = self.found.shares, np.eye(self.classes, dtype=bool)
        colours = ERRORS(shares / (self.found.largest_error or 1))[..., :3]
        colours[shares == 0] = to_rgb(NOTHING)
        colours[diagonal] = RIGHT(shares[diagonal])[:, :3]
        colours[self.found.images == 0] = to_rgb(NO_IMAGE)
        return colours

    def _picture(self, colours: np.ndarray) -> np.ndarray:
        """Return (side + 1, side + 1, 3) uint8, a line around each cell; of many, every tenth line is stronger."""
        pixels = np.full((self.side + 1, self.side + 1, 3), 255, np.uint8)
        pixels[:-1, :-1] = np.round(255 * colours).astype(np.uint8).repeat(self.cell, 0).repeat(self.cell, 1)
        for place in range(self.classes + 1):
            strong = place % 10 == 0 and self.both_sides or place in (0, self.classes)
            line = np.round(255 * np.array(to_rgb(TENTH_LINE if strong else LINE))).astype(np.uint8)
            pixels[place * self.cell] = np.minimum(pixels[place * self.cell], line)
            pixels[:, place * self.cell] = np.minimum(pixels[:, place * self.cell], line)
        return pixels

    def _numbers(self, pen: Pen, left: float, top: float, colours: np.ndarray) -> None:
        """Write counts into the cells that are not empty, and on the diagonal of every class with images."""
        written = self.found.counts > 0
        written |= np.eye(self.classes, dtype=bool) & (self.found.images > 0)[:, None]
        for row, column in np.argwhere(written):
            lines = [str(self.found.counts[row, column])]
            if self.cell >= PERCENT_FROM:
                lines.append(percent(self.found.shares[row, column]))
            dark = colours[row, column] @ (0.299, 0.587, 0.114) < 0.45
            start = top + (row + 0.5) * self.cell - len(lines) * line_height(self.number) / 2
            pen.lines(left + (column + 0.5) * self.cell, start, lines, self.number, "center", "white" if dark else INK)

    def _name(self, pen: Pen, lines: Sequence[str], left: float, top: float, middle: float) -> None:
        start = top + middle - len(lines) * line_height(SMALL) / 2
        pen.lines(left - PAD, start, lines, SMALL, "right")
        _upright(pen, left + middle, top - PAD, lines, "left")
        if self.both_sides:
            pen.lines(left + self.side + PAD, start, lines, SMALL)
            _upright(pen, left + middle, top + self.side + PAD, lines, "right")


def _upright(pen: Pen, middle: float, y: float, lines: Sequence[str], align: str) -> None:
    """Write lines that are read upwards, the first at the left, beginning (align "left") or ending ("right") at `y`."""
    for index, line in enumerate(lines):
        x = middle + (index + 0.5 - len(lines) / 2) * line_height(SMALL)
        pen.figure.text(
            x / pen.width,
            1 - y / pen.height,
            line,
            fontproperties=SMALL,
            color=INK,
            rotation=90,
            rotation_mode="anchor",
            horizontalalignment=align,
            verticalalignment="center_baseline",
            parse_math=False,
        )
