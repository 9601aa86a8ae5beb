"""All verdicts in one picture: a panel a claim, a row a data set, each seed's difference and the images' interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from evaluation.statistics.claims import Claim
from evaluation.statistics.verdicts import ONE_SEED
from report.figures.canvas import INK, PALETTE, QUIET, Pen, house_style, line_height, literal, wrap
from report.figures.grid import CAPTION, CELL_TITLE, HEADER, MARGIN, PAD, ROW_GAP, SMALL, TITLE, stack
from report.figures.text_blocks import Block, key, paragraph

WIDTH, NAMES, VERDICTS = 1100, 220, 276  # pixels: the figure, data sets left of the axes, verdicts right of them
ROW, AXIS = 52, 26  # pixels of one data set, and below the axes for numbers
CLAIMED = "#e9f3ee"
COLOURS = {"supported": PALETTE[2], "not supported": PALETTE[1], "undecided": QUIET}


@house_style()
def verdict_overview(path: str | Path, claims: Mapping[str, Sequence[Claim]], title: str, note: str = "") -> None:
    """Draw claims as dots and whiskers, 1100 pixels wide: name of a row, for both methods' names -> its claims.

    Claims with one letter stand in one panel, in the order of their first appearance; each panel has the unit of its
    claim. Raises ValueError without claims.
    """
    panels: dict[str, dict[str, Claim]] = {}
    for name, stated in claims.items():
        for claim in stated:
            panels.setdefault(claim.letter, {})[name] = claim
    if not panels:
        raise ValueError("verdict_overview: expected at least one claim, got none")
    one_seed = all(len(claim.measured.seeds.differences) == 1 for rows in panels.values() for claim in rows.values())
    stack(
        path,
        WIDTH,
        [
            paragraph(title, WIDTH, TITLE, below=ROW_GAP),
            key(_entries(), WIDTH, below=ROW_GAP),
            *(_panel(letter, rows) for letter, rows in panels.items()),
            paragraph(f"{ONE_SEED.capitalize()}. {note}" if one_seed else note, WIDTH, SMALL, QUIET),
        ],
    )


def _entries() -> dict:
    return {
        "mean difference, its 95 % interval over images, coloured by verdict": Line2D([], [], color=QUIET, linewidth=5),
        "a training seed's difference": _seeds([], []),
        "the side that the claim is on": Patch(facecolor=CLAIMED, edgecolor="#c8ddd2"),
    }


def _seeds(x, y) -> Line2D:
    return Line2D(x, y, color=INK, marker="o", markersize=6, markerfacecolor="white", linestyle="")


def _panel(letter: str, rows: Mapping[str, Claim]) -> Block:
    wording = next(iter(rows.values())).wording
    unit = "points" if wording.points else wording.measure
    heading = wrap(
        f"({letter}) {wording.topic}" + (f" ({wording.measure})" if wording.measure else ""), WIDTH - 2 * MARGIN, HEADER
    )
    differing = "first less second method of the row" + (f" ({unit})" if unit else "")
    label = wrap(differing, WIDTH - 2 * MARGIN - NAMES - VERDICTS, CAPTION)
    above = len(heading) * line_height(HEADER) + PAD
    names = [wrap(name, NAMES - ROW_GAP, CAPTION) for name in rows]
    verdicts = [_verdict(claim) for claim in rows.values()]
    row = max(ROW, *map(_height, verdicts), *(round(len(name) * line_height(CAPTION)) for name in names)) + PAD

    def draw(pen: Pen, top: float) -> None:
        pen.lines(MARGIN, top, heading, HEADER)
        left, right = MARGIN + NAMES, WIDTH - MARGIN - VERDICTS
        axes = pen.axes(left, top + above, right - left, row * len(rows))
        for index, (claim, name, (word, figures)) in enumerate(zip(rows.values(), names, verdicts)):
            middle = top + above + (index + 0.5) * row
            pen.lines(MARGIN, middle - len(name) * line_height(CAPTION) / 2, name, CAPTION)
            start = middle - _height((word, figures)) / 2
            pen.lines(right + ROW_GAP, start, word, CELL_TITLE, colour=_colour(claim))
            pen.lines(right + ROW_GAP, start + len(word) * line_height(CELL_TITLE), figures, SMALL)
            _row(axes, claim, -index)
        _finish(axes, list(rows.values()), label)

    return above + row * len(rows) + AXIS + len(label) * line_height(CAPTION) + ROW_GAP, draw


def _verdict(claim: Claim) -> tuple[list[str], list[str]]:
    """The verdict, and below it the figures behind it."""
    word = claim.judgement.word if claim.judgement else "not judged"
    texts = [f"{claim.difference}, {claim.measured.n} images", claim.beside]
    return [word], [line for text in texts for line in wrap(text, VERDICTS - ROW_GAP, SMALL)]


def _height(lines: tuple[list[str], list[str]]) -> int:
    return round(len(lines[0]) * line_height(CELL_TITLE) + len(lines[1]) * line_height(SMALL))


def _colour(claim: Claim) -> str:
    return COLOURS[claim.judgement.word] if claim.judgement else QUIET


def _row(axes: Axes, claim: Claim, middle: float) -> None:
    m, scale = claim.measured, claim.scale
    axes.plot(
        [scale * m.low, scale * m.high], [middle + 0.1] * 2, color=_colour(claim), linewidth=7, solid_capstyle="butt"
    )
    if np.isfinite(m.difference):
        axes.plot(
            [scale * m.difference] * 2, [middle - 0.04, middle + 0.24], color=INK, linewidth=2, solid_capstyle="butt"
        )
    each = scale * np.array(m.seeds.differences)
    axes.add_line(_seeds(each, [middle - 0.22] * len(each)))


def _finish(axes: Axes, rows: Sequence[Claim], label: Sequence[str]) -> None:
    low, high = axes.dataLim.intervalx
    low, high = min(low, 0), max(high, 0)
    room = 0.06 * (high - low) or 1.0  # all differences zero: an axis of some width around it
    low, high = low - 2 * room, high + 2 * room  # the claimed side is seen even where no difference lies
    axes.axvspan(0, high if rows[0].sign > 0 else low, color=CLAIMED, linewidth=0, zorder=0)
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    axes.set(xlim=(low, high), ylim=(-len(rows) + 0.5, 0.5))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.set_xlabel("\n".join(map(literal, label)))
