"""Confused classes: pairs of classes that models take for one another, with a value per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from common.tables import number
from report.figures.blocks import CAPTION, MARGIN, PAD, ROW_GAP, SMALL, TITLE, Block, key, paragraph, stack
from report.figures.canvas import INK, MARKERS, PALETTE, QUIET, Pen, figure_style, line_height, literal, wrap

WIDTH, NAMES, FIGURES = 1100, 330, 176  # pixels: the figure, the pairs left of the axes, the numbers right of them
ROW, AXIS = 44, 46  # pixels of one pair, and below the axes for numbers and label


@dataclass(frozen=True)
class Confusion:
    """A true class and the one it is taken for.

    true, predicted: the two classes.
    images: how many images the values are about.
    confused: how often any method takes the one for the other.
    values: method -> (mean, low, high) over these images; NaN bounds where there is no interval.
    """

    true: str
    predicted: str
    images: int
    confused: int
    values: Mapping[str, tuple[float, float, float]]

    @property
    def spread(self) -> float:
        """Return the largest difference between two methods' means; NaN where fewer than two have one."""
        means = [mean for mean, *_ in self.values.values() if np.isfinite(mean)]
        return float(np.ptp(means)) if len(means) > 1 else float("nan")


def most_different(pairs: Sequence[Confusion], most: int = 12, fewest_images: int = 3) -> list[Confusion]:
    """Return the pairs whose spread is largest, largest first; pairs without a spread are left out.

    pairs: to choose from.
    most: how many to return.
    fewest_images: leave out pairs with fewer, as a single image's maps say little about a pair of classes.
    """
    seen = [pair for pair in pairs if pair.images >= fewest_images and np.isfinite(pair.spread)]
    return sorted(seen, key=lambda pair: -pair.spread)[:most]


@figure_style()
def confusion_pairs(path: str | Path, pairs: Sequence[Confusion], measure: str, title: str, note: str = "") -> None:
    """Draw a row per pair and in it a marker with its interval per method.

    path: the file to write.
    pairs: from the top (see `most_different`).
    measure: what the values are, with their unit: the label of the x axis.
    title, note: above and below the rows.

    Raises ValueError without pairs.
    """
    if not pairs:
        raise ValueError("confusion_pairs: expected at least one pair of classes, got none")
    methods = list(dict.fromkeys(method for pair in pairs for method in pair.values))
    styles: dict[str, dict[str, Any]] = {
        method: {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
        for i, method in enumerate(methods)
    }
    foot = (
        "Whiskers: 95 % interval of the mean over a pair's images, where there is one. Pairs chosen because they "
        f"differ most here would differ less on new images. {note}"
    )
    stack(
        path,
        WIDTH,
        [
            paragraph(title, WIDTH, TITLE, below=ROW_GAP),
            key(
                {method: Line2D([], [], linestyle="", markersize=7, **style) for method, style in styles.items()},
                WIDTH,
                below=ROW_GAP,
            ),
            _rows(pairs, styles, measure),
            paragraph(foot.strip(), WIDTH, SMALL, QUIET),
        ],
    )


def _rows(pairs: Sequence[Confusion], styles: Mapping[str, dict[str, Any]], measure: str) -> Block:
    names = [wrap(f"{pair.true}, taken for {pair.predicted}", NAMES - ROW_GAP, CAPTION) for pair in pairs]
    row = max(ROW, 15 * len(styles), *(round(len(name) * line_height(CAPTION)) for name in names)) + PAD
    head = 2 * line_height(SMALL) + PAD

    def draw(pen: Pen, top: float) -> None:
        left, right = MARGIN + NAMES, WIDTH - MARGIN - FIGURES
        pen.lines(right + ROW_GAP, top, ["largest difference;", "images (confused)"], SMALL, colour=QUIET)
        axes = pen.axes(left, top + head, right - left, row * len(pairs))
        for index, (pair, name) in enumerate(zip(pairs, names)):
            middle = top + head + (index + 0.5) * row
            pen.lines(MARGIN, middle - len(name) * line_height(CAPTION) / 2, name, CAPTION)
            figures = [number(pair.spread), f"{pair.images} ({pair.confused})"]
            pen.lines(right + ROW_GAP, middle - line_height(SMALL), figures, SMALL)
            for place, (method, style) in enumerate(styles.items()):
                mean, low, high = pair.values.get(method, (np.nan,) * 3)
                height = -index + 0.6 * (0.5 - (place + 0.5) / len(styles))
                axes.plot([low, high], [height] * 2, color=style["color"], linewidth=1.6)
                axes.plot([mean], [height], linestyle="", markersize=7, **style)
            axes.axhline(-index - 0.5, color=QUIET, linewidth=0.4)
        axes.set_ylim(-len(pairs) + 0.5, 0.5)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(7))
        axes.tick_params(axis="x", labelcolor=INK)
        axes.set_xlabel(literal(measure))

    return head + row * len(pairs) + AXIS + ROW_GAP, draw
