"""Colours, fonts, text measurement and saving, shared by all figures: the same content gives the same bytes.

Figures are matplotlib `Figure` objects on the Agg canvas, never pyplot, whose global state would be the caller's.
Sizes are in pixels of the PNG; DOTS_PER_INCH turns letter sizes (points) into pixels.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from common.files import atomic

DOTS_PER_INCH = 100
MOST_PIXELS = 2**16 - 1  # Agg's limit for each side of a picture

# Okabe and Ito's colours, told apart with every common colour blindness; yellow is too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CORRECT, WRONG = "#0072B2", "#D55E00"
INK, QUIET = "#1a1a1a", "#5c5c5c"

# The user's matplotlibrc must not change figures that are promised to be the same bytes everywhere.
STYLE: dict[Any, Any] = {
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.unicode_minus": True,
    "figure.constrained_layout.use": False,
    "figure.dpi": DOTS_PER_INCH,
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "image.composite_image": False,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.bbox": None,
    "savefig.dpi": "figure",
    "savefig.facecolor": "white",
    "svg.hashsalt": "report",
    "text.color": INK,
    "text.usetex": False,
    "xtick.color": QUIET,
    "xtick.labelsize": 9,
    "ytick.color": QUIET,
    "ytick.labelsize": 9,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Replace all of the user's matplotlib settings by STYLE.

    Also a decorator: for functions that make artists before their picture exists.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


@contextmanager
def picture(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure, and save it as a PNG when the block ends without an error.

    path: the file to write.
    width, height: of the picture, pixels.

    Raises ValueError, before anything is drawn, when a side is over MOST_PIXELS.
    """
    width, height = round(width), round(height)
    if max(width, height) > MOST_PIXELS:
        raise ValueError(
            f"{Path(path).name}: a picture of {width} x {height} pixels cannot be drawn, a side has at most "
            f"{MOST_PIXELS}; draw fewer rows or smaller cells"
        )
    with figure_style():
        figure = Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
        FigureCanvasAgg(figure)
        yield figure
        with atomic(path) as temporary:
            # matplotlib would write its own version into the file: other bytes after an update.
            figure.savefig(temporary, format="png", metadata={"Software": None})


class Pen:
    """Draw in pixels from the top left corner, where matplotlib counts fractions from the bottom left."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def lines(
        self,
        x: float,
        top: float,
        lines: Sequence[str],
        properties: FontProperties,
        align: str = "left",
        colour: str = INK,
    ) -> None:
        """Write lines of text, one below the other; `align`: which part of a line stands at `x`."""
        for index, line in enumerate(lines):
            y = top + (index + 0.5) * line_height(properties)
            self.figure.text(
                x / self.width,
                1 - y / self.height,
                line,
                fontproperties=properties,
                color=colour,
                horizontalalignment=align,
                verticalalignment="center_baseline",
                parse_math=False,
            )

    def rule(self, left: float, right: float, y: float) -> None:
        """Draw a horizontal line."""
        level = 1 - y / self.height
        self.figure.add_artist(Line2D([left / self.width, right / self.width], [level] * 2, color=QUIET, linewidth=1))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes."""
        return self.figure.add_axes(self._box(left, top, width, height))

    def image(
        self, left: float, top: float, width: float, height: float, image: np.ndarray, interpolation: str
    ) -> None:
        """Draw an image `(H, W, 3)`, stretched to the given size."""
        axes = self.axes(left, top, width, height)
        axes.imshow(image, interpolation=interpolation, aspect="auto")
        axes.set_axis_off()

    def bar(self, left: float, top: float, width: float, height: float, colour: str) -> None:
        """Draw a filled rectangle."""
        x, y, across, up = self._box(left, top, width, height)
        self.figure.add_artist(Rectangle((x, y), across, up, facecolor=colour, linewidth=0))

    def frame(self, left: float, top: float, width: float, height: float, colour: str, thick: float) -> None:
        """Draw a frame around a box: its inner edge, `thick` pixels from the outer one, touches the box."""
        x, y, across, up = self._box(left - thick / 2, top - thick / 2, width + thick, height + thick)
        points = thick * 72 / self.figure.dpi
        self.figure.add_artist(
            Rectangle((x, y), across, up, fill=False, edgecolor=colour, linewidth=points, joinstyle="miter")
        )

    def _box(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        return left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height


def font(size: float, bold: bool = False) -> FontProperties:
    """Return the font of all figures at a size in points."""
    return FontProperties(family=["DejaVu Sans"], size=size, weight="bold" if bold else "normal")


@lru_cache(maxsize=1)
def _measure() -> RendererAgg:
    return RendererAgg(8, 8, DOTS_PER_INCH)


@lru_cache(maxsize=4096)
def text_width(text: str, properties: FontProperties) -> float:
    """Return the pixels from the first to the last letter of one line."""
    return _measure().get_text_width_height_descent(text, properties, False)[0]


def line_height(properties: FontProperties) -> float:
    """Return the pixels from one line to the next, as matplotlib sets several lines."""
    return 1.35 * properties.get_size_in_points() * DOTS_PER_INCH / 72


def wrap(text: str, width: float, properties: FontProperties) -> list[str]:
    """Break `text` into lines of at most `width` pixels; nothing is left out, and '' gives no line.

    Breaks stand at its own line breaks, at spaces, and within a word only where the word alone is too wide. A number
    stays with its percent sign, as do words joined by no-break spaces.
    """
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    lines: list[str] = []
    for paragraph in text.splitlines():
        words = paragraph.split(" ")
        while words:
            if not words[0] and len(words) > 1:  # a space too many
                del words[0]
                continue
            if text_width(words[0], properties) > width:
                *full, words[0] = _pieces(words[0], width, properties)
                lines.extend(full)
            fit = _fitting(words, width, properties)
            lines.append(" ".join(words[:fit]))
            words = words[fit:]
    return lines


def _fitting(words: list[str], width: float, properties: FontProperties) -> int:
    """Return how many words fit on a line: at least one. Halving the range measures few lines, which is slow."""
    more = range(2, len(words) + 1)
    return 1 + bisect_right(more, width, key=lambda count: text_width(" ".join(words[:count]), properties))


def _pieces(word: str, width: float, properties: FontProperties) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and text_width(pieces[-1] + letter, properties) > width:
            # Behind a mark where there is one, so that a method's settings stay whole.
            end = max(pieces[-1].rfind(mark) for mark in ",:;/_-") + 1 or len(pieces[-1])
            pieces[-1:] = [pieces[-1][:end], pieces[-1][end:]]
        pieces[-1] += letter
    return pieces


def literal(text: str) -> str:
    """Escape `text` for places where matplotlib always reads $...$ as a formula, such as legends."""
    return str(text).replace("$", r"\$")
