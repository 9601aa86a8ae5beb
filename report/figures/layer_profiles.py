"""Relevance by block and head of several runs: profiles over the blocks, and a matrix of shares per run.

Letters: K targets, L layers (blocks, and attention pooling where there is one), h heads.
A share is a head's part of the relevance of all heads of an image, in magnitudes; shares sum to 1 over blocks and
heads. What a head's relevance is differs between relevance methods, and so does whether the heads add up to the map:
the footnote says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from common.tables import percent
from report.figures.block_matrix import DIFFERENCE_COLOURS, SEQUENTIAL_COLOURS, block_matrix, tick_step
from report.figures.blocks import (
    BAR,
    CELL_TITLE,
    HEADER,
    MARGIN,
    PAD,
    SMALL,
    TITLE,
    Block,
    key,
    paragraph,
    stack,
)
from report.figures.canvas import MARKERS, PALETTE, QUIET, Pen, figure_style, line_height, text_width, wrap
from report.figures.grid import GAP
from report.inputs import LayerShares

FIGURE_WIDTH, SMALLEST_PANEL, BESIDE_PANEL = 1100, 200, 66  # pixels
SMALLEST_DIFFERENCE = 0.01  # the end of the scale where no share differs: a percentage point
MEAN, LOW, HIGH = 0, 1, 2  # along the last axis of shares


@figure_style()
def layer_profiles(
    path: str | Path,
    runs: Sequence[LayerShares],
    difference: LayerShares | None,
    targets: Sequence[str],
    title: str,
    footnote: str = "",
) -> None:
    """Draw shares by block as lines with bands, a panel per target, and below them a matrix of heads per run.

    path: the file to write.
    runs: mean shares of each run.
    difference: the mean difference of the last run's shares to the first's, image by image; drawn beside the runs on a
        scale of its own, symmetric about zero. None where the runs' heads do not correspond.
    targets: a heading for each of K.
    title, footnote: above and below the panels.
    """
    shown = [*runs, *([difference] if difference else [])]
    width = max(FIGURE_WIDTH, 2 * MARGIN + len(shown) * (SMALLEST_PANEL + BESIDE_PANEL))
    panel = (width - 2 * MARGIN) // len(shown) - BESIDE_PANEL
    lefts = [MARGIN + BESIDE_PANEL - 16 + i * (panel + BESIDE_PANEL) for i in range(len(shown))]
    limits = (
        _largest([run.by_head[..., MEAN] for run in runs]),
        _largest([difference.by_head[..., MEAN]], SMALLEST_DIFFERENCE) if difference else SMALLEST_DIFFERENCE,
    )
    heading = "Share of all heads' relevance by block (%): mean over images and its 95 % interval"
    blocks = [
        paragraph(title, width, TITLE),
        paragraph(heading, width, HEADER),
        key({run.label: Line2D([], [], linewidth=1.8, **_style(index)) for index, run in enumerate(runs)}, width),
        _profiles(runs, targets, width),
        _colour_bars(runs, difference, limits, lefts, width),
        *(_matrices(runs, difference, index, target, limits, lefts, panel) for index, target in enumerate(targets)),
        paragraph(footnote, width, SMALL, QUIET, below=0),
    ]
    stack(path, width, blocks)


def _largest(arrays: Sequence[np.ndarray], otherwise: float = 1.0) -> float:
    """Return the largest magnitude, or `otherwise` where there is none to draw."""
    return max((float(np.nanmax(np.abs(array), initial=0.0)) for array in arrays), default=0.0) or otherwise


def _style(index: int) -> dict[str, Any]:
    """Return colour and marker of a run, the same in the key and in every panel."""
    return {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)], "markersize": 5}


def _profiles(runs: Sequence[LayerShares], targets: Sequence[str], width: int) -> Block:
    room = (width - 2 * MARGIN) // len(targets)
    above, panel_height, below = line_height(CELL_TITLE) + PAD, 270, 52

    def draw(pen: Pen, top: float) -> None:
        highest = 105 * max(1e-9, _largest([run.by_block for run in runs]))
        for index, target in enumerate(targets):
            left = MARGIN + 50 + index * room
            pen.lines(left, top, [target], CELL_TITLE)
            axes = pen.axes(left, top + above, room - 66, panel_height)
            _profile(axes, runs, index)
            axes.set(xlabel="block", ylim=(0, highest))

    return round(above + panel_height + below), draw


def _profile(axes: Axes, runs: Sequence[LayerShares], target: int) -> None:
    # Runs of other depths share the axis: a block stands at its number, and a run's line ends where it has none.
    names = list(dict.fromkeys(name for run in sorted(runs, key=lambda run: -len(run.blocks)) for name in run.blocks))
    for index, run in enumerate(runs):
        values = np.full((len(names), 3), np.nan)
        values[[names.index(name) for name in run.blocks]] = 100 * run.by_block[target]
        mean, low, high = values.T
        style = _style(index)
        axes.fill_between(range(len(names)), low, high, color=style["color"], alpha=0.2, linewidth=0)
        axes.vlines(range(len(names)), low, high, color=style["color"], alpha=0.6, linewidth=1)  # of a lone block, too
        axes.plot(mean, **style)
    places = range(0, len(names), tick_step(len(names), axes, 24))
    axes.set_xticks(places, [names[place] for place in places])
    axes.set_xlim(-0.5, len(names) - 0.5)


def _colour_bars(
    runs: Sequence[LayerShares],
    difference: LayerShares | None,
    limits: tuple[float, ...],
    lefts: Sequence[int],
    width: int,
) -> Block:
    """Return the colour bars of the matrices: shares on the left, differences above their own column."""
    room = (lefts[-1] - MARGIN if difference else width) - MARGIN - GAP
    bars = [
        (MARGIN, room, SEQUENTIAL_COLOURS, "0 %", percent(limits[0]), "share of all heads' relevance, mean over images")
    ]
    if difference:
        points = np.format_float_positional(100 * limits[1], 2, fractional=False, trim="-")
        bars.append(
            (
                lefts[-1] - 20,
                width - MARGIN - lefts[-1] + 20,
                DIFFERENCE_COLOURS,
                f"-{points}",
                f"+{points}",
                "percentage points; dot: the 95 % interval of the paired difference excludes 0",
            )
        )
    words = [wrap(text, room, SMALL) for _, room, *_, text in bars]
    head, line = line_height(HEADER) + PAD, line_height(SMALL)

    def draw(pen: Pen, top: float) -> None:
        pen.lines(MARGIN, top, ["Share of all heads' relevance by block and head"], HEADER)
        for (left, room, colours, first, last, _), text in zip(bars, words):
            first = first.replace("-", "\N{MINUS SIGN}")
            bar = left + text_width(first, SMALL) + PAD
            length = min(BAR[0], room - text_width(first, SMALL) - text_width(last, SMALL) - 2 * PAD)
            strip = matplotlib.colormaps[colours](np.linspace(0, 1, BAR[0]), bytes=True)[None, :, :3]
            pen.lines(left, top + head, [first], SMALL)
            pen.image(bar, top + head + (line - BAR[1]) / 2, length, BAR[1], strip, "nearest")
            pen.lines(bar + length + PAD, top + head, [last], SMALL)
            pen.lines(left, top + head + line, text, SMALL, colour=QUIET)

    return round(head + line * (1 + max(map(len, words))) + PAD), draw


def _matrices(
    runs: Sequence[LayerShares],
    difference: LayerShares | None,
    target: int,
    name: str,
    limits: tuple[float, ...],
    lefts: Sequence[int],
    panel: int,
) -> Block:
    shown = [*runs, *([difference] if difference else [])]
    heads = [wrap(run.label, panel, CELL_TITLE) for run in shown]
    deepest = max(len(run.blocks) for run in shown)
    row = float(np.clip(288 / deepest, 15, 26))
    above = line_height(HEADER) + max(map(len, heads)) * line_height(CELL_TITLE) + PAD

    def draw(pen: Pen, top: float) -> None:
        pen.lines(MARGIN, top, [name], HEADER)
        for run, left, lines in zip(shown, lefts, heads):
            pen.lines(left, top + above - PAD - len(lines) * line_height(CELL_TITLE), lines, CELL_TITLE)
            axes = pen.axes(left, top + above, panel, row * len(run.blocks))
            values, limit = 100 * run.by_head[target], 100 * limits[run is difference]
            if run is difference:
                told_apart = (values[..., LOW] > 0) | (values[..., HIGH] < 0)
                block_matrix(axes, values[..., MEAN], run.blocks, DIFFERENCE_COLOURS, (-limit, limit), told_apart)
            else:
                block_matrix(axes, values[..., MEAN], run.blocks, SEQUENTIAL_COLOURS, (0, limit))

    return round(above + row * deepest + 50), draw
