"""Verdicts of several claims: a panel per claim, a row per data set or pair of methods, seeds and interval in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from report.figures.blocks import (
    CAPTION,
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
from report.figures.canvas import INK, PALETTE, QUIET, Pen, figure_style, line_height, literal, wrap

WIDTH, NAMES, VERDICTS = 1100, 220, 276  # pixels: the figure, names left of the axes, verdicts right of them
ROW, AXIS = 52, 26  # pixels of one row, and below the axes for numbers
CLAIMED = "#e9f3ee"
COLOURS = {"claimed": PALETTE[2], "reverse": PALETTE[1], "undecided": QUIET, None: QUIET}


@dataclass(frozen=True)
class Verdict:
    """One claim about two methods, judged: their difference, first less second, in the panel's unit.

    difference, low, high: mean over images and its 95 % interval; NaN where there is none.
    seeds: each training seed's difference.
    word: the verdict as it is written.
    side: of zero that the verdict names, which chooses the colour; None where nothing was judged.
    facts: texts below the word, each starting on a line of its own.
    """

    difference: float
    low: float
    high: float
    seeds: tuple[float, ...]
    word: str
    side: Literal["claimed", "reverse", "undecided"] | None = None
    facts: Sequence[str] = ()


@dataclass(frozen=True)
class Panel:
    """One claim, made about each row's two methods.

    heading: what is compared.
    unit: of the differences; '' where they have none.
    claimed_sign: 1 or -1, the sign of the difference by the claim.
    rows: name -> verdict, from the top.
    """

    heading: str
    unit: str
    claimed_sign: int
    rows: Mapping[str, Verdict]


@figure_style()
def verdict_overview(path: str | Path, panels: Sequence[Panel], title: str, note: str = "") -> None:
    """Draw claims as dots and whiskers, 1100 pixels wide.

    path: the file to write.
    panels: from the top.
    title, note: above and below the panels.

    Raises ValueError without panels.
    """
    if not panels:
        raise ValueError("verdict_overview: expected at least one claim, got none")
    stack(
        path,
        WIDTH,
        [
            paragraph(title, WIDTH, TITLE, below=ROW_GAP),
            key(_entries(), WIDTH, below=ROW_GAP),
            *map(_panel, panels),
            paragraph(note, WIDTH, SMALL, QUIET),
        ],
    )


def _entries() -> dict[str, Artist]:
    return {
        "mean difference, its 95 % interval over images, coloured by verdict": Line2D([], [], color=QUIET, linewidth=5),
        "a training seed's difference": _seeds([], []),
        "the side that the claim is on": Patch(facecolor=CLAIMED, edgecolor="#c8ddd2"),
    }


def _seeds(x: Sequence[float], y: Sequence[float]) -> Line2D:
    return Line2D(x, y, color=INK, marker="o", markersize=6, markerfacecolor="white", linestyle="")


def _panel(panel: Panel) -> Block:
    rows = list(panel.rows.values())
    heading = wrap(panel.heading, WIDTH - 2 * MARGIN, HEADER)
    differing = "first less second method of the row" + (f" ({panel.unit})" if panel.unit else "")
    label = wrap(differing, WIDTH - 2 * MARGIN - NAMES - VERDICTS, CAPTION)
    above = len(heading) * line_height(HEADER) + PAD
    names = [wrap(name, NAMES - ROW_GAP, CAPTION) for name in panel.rows]
    texts = [_texts(row) for row in rows]
    row_height = max(ROW, *map(_height, texts), *(round(len(name) * line_height(CAPTION)) for name in names)) + PAD

    def draw(pen: Pen, top: float) -> None:
        pen.lines(MARGIN, top, heading, HEADER)
        left, right = MARGIN + NAMES, WIDTH - MARGIN - VERDICTS
        axes = pen.axes(left, top + above, right - left, row_height * len(rows))
        for index, (row, name, (word, facts)) in enumerate(zip(rows, names, texts)):
            middle = top + above + (index + 0.5) * row_height
            pen.lines(MARGIN, middle - len(name) * line_height(CAPTION) / 2, name, CAPTION)
            start = middle - _height((word, facts)) / 2
            pen.lines(right + ROW_GAP, start, word, CELL_TITLE, colour=COLOURS[row.side])
            pen.lines(right + ROW_GAP, start + len(word) * line_height(CELL_TITLE), facts, SMALL)
            _row(axes, row, -index)
        _finish(axes, panel, label)

    return above + row_height * len(rows) + AXIS + len(label) * line_height(CAPTION) + ROW_GAP, draw


def _texts(row: Verdict) -> tuple[list[str], list[str]]:
    """Return the lines of the verdict, and the lines below it."""
    room = VERDICTS - ROW_GAP
    return wrap(row.word, room, CELL_TITLE), [line for fact in row.facts for line in wrap(fact, room, SMALL)]


def _height(lines: tuple[list[str], list[str]]) -> int:
    return round(len(lines[0]) * line_height(CELL_TITLE) + len(lines[1]) * line_height(SMALL))


def _row(axes: Axes, row: Verdict, middle: float) -> None:
    axes.plot([row.low, row.high], [middle + 0.1] * 2, color=COLOURS[row.side], linewidth=7, solid_capstyle="butt")
    if np.isfinite(row.difference):
        axes.plot([row.difference] * 2, [middle - 0.04, middle + 0.24], color=INK, linewidth=2, solid_capstyle="butt")
    axes.add_line(_seeds(row.seeds, [middle - 0.22] * len(row.seeds)))


def _finish(axes: Axes, panel: Panel, label: Sequence[str]) -> None:
    low, high = axes.dataLim.intervalx
    low, high = min(low, 0), max(high, 0)
    room = 0.06 * (high - low) or 1.0  # all differences zero: an axis of some width around it
    low, high = low - 2 * room, high + 2 * room  # the claimed side is seen even where no difference lies
    axes.axvspan(0, high if panel.claimed_sign > 0 else low, color=CLAIMED, linewidth=0, zorder=0)
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    axes.set(xlim=(low, high), ylim=(-len(panel.rows) + 0.5, 0.5))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.set_xlabel("\n".join(map(literal, label)))
