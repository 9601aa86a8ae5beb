"""What fine-tuning changed at which depth: profiles of attention, relevance and features over the blocks.

Letters: L layers (blocks, and attention pooling where there is one), h heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from report.figures.block_matrix import tick_step
from report.figures.blocks import (
    CELL_TITLE,
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
from report.figures.canvas import INK, MARKERS, PALETTE, QUIET, Pen, figure_style, line_height, wrap

COLUMNS = 2
WIDTH, PANEL_HEIGHT, BESIDE = 1100, 210, 64  # pixels

_Panel = tuple[str, Callable[[Axes], None]]  # a heading and what fills the axes


@dataclass(frozen=True)
class DepthLine:
    """One run's values of one measure by block, in the unit shown.

    mean, low, high: (L,) mean over images and its 95 % interval.
    heads: (L, h) means of single heads, drawn as dots; None draws none.
    changed: indices of the blocks that changed from the first run, drawn as filled markers.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    heads: np.ndarray | None = None
    changed: Sequence[int] = ()


@dataclass(frozen=True)
class DepthMeasure:
    """A panel: one measure of every run.

    title: the measure with its unit.
    lines: one per run; None where the run lacks it.
    even: the measure's value for even attention, a dashed line; None where there is none.
    """

    title: str
    lines: Sequence[DepthLine | None]
    even: float | None = None


@figure_style()
def depth_profiles(
    path: str | Path,
    labels: Sequence[str],
    blocks: Sequence[str],
    measures: Sequence[DepthMeasure],
    title: str,
    note: str = "",
    divergence: Sequence[DepthLine | None] = (),
    similarity: Sequence[np.ndarray | None] = (),
) -> None:
    """Draw every measure by block: mean over images with its 95 % interval as a band, a line per run, a dot per head.

    path: the file to write.
    labels: the runs' names; the first is the run before fine-tuning.
    blocks: L names.
    measures: a panel each.
    title, note: above and below the panels.
    divergence: per run, of the reading row from that of the first run, Jensen-Shannon, 0 to 1; None for the first.
        () draws no panel.
    similarity: per run, linear CKA (L + 1,) to the first run of the tokens that enter the first layer and that leave
        each; None for the first. () draws no panel.

    Raises ValueError unless every panel has an entry per run, and every line a value per block.
    """
    for lines in [*(one.lines for one in measures), *([divergence] if divergence else [])]:
        _check_lines(lines, labels, blocks)
    if similarity:
        _check_lines(similarity, labels, ("in", *blocks))
    panels = [_measure_panel(one, blocks) for one in measures]
    panels += [_divergence_panel(divergence, labels[0], blocks)] if divergence else []
    panels += [_similarity_panel(similarity, labels[0], blocks)] if similarity else []
    text = f"Line and band: mean over images, its 95 % interval. Dots: single heads. {note}"
    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    stack(
        path,
        WIDTH,
        [
            paragraph(title, WIDTH, TITLE),
            key(_samples(labels), WIDTH, ROW_GAP),
            *map(_panel_row, rows),
            paragraph(text.replace("*", "").strip(), WIDTH, SMALL, QUIET),
        ],
    )


def _check_lines(lines: Sequence[DepthLine | np.ndarray | None], labels: Sequence[str], blocks: Sequence[str]) -> None:
    counts = {len(line.mean if isinstance(line, DepthLine) else line) for line in lines if line is not None}
    if len(lines) != len(labels) or counts - {len(blocks)}:
        raise ValueError(
            f"depth_profiles: a panel has {len(lines)} lines of {sorted(counts)} values; expected a line for each of "
            f"{len(labels)} runs and a value for each of {', '.join(blocks)}"
        )


def _samples(labels: Sequence[str]) -> dict[str, Artist]:
    samples: dict[str, Artist] = {
        label: Line2D([], [], linewidth=1.5, **_style(index)) for index, label in enumerate(labels)
    }
    samples["changed"] = Line2D([], [], color=QUIET, marker="o", markersize=6, linestyle="none")
    samples["even attention"] = Line2D([], [], color=INK, linestyle="--", linewidth=1)
    return samples


def _style(index: int) -> dict[str, Any]:
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 6,
        "markerfacecolor": "white",
    }


def _measure_panel(measure: DepthMeasure, blocks: Sequence[str]) -> _Panel:
    def draw(axes: Axes) -> None:
        for index, line in enumerate(measure.lines):
            if line is None:
                continue
            _profile(axes, index, len(measure.lines), line)
            filled = {"markerfacecolor": _style(index)["color"], "linestyle": "none"}
            marked = list(line.changed)
            axes.plot(marked, line.mean[marked], **_style(index) | filled)
        if measure.even is not None:
            axes.axhline(measure.even, color=INK, linestyle="--", linewidth=1, zorder=1)
        _blocks_below(axes, blocks)

    return measure.title, draw


def _profile(axes: Axes, index: int, runs: int, line: DepthLine) -> None:
    """Draw the line of a run, and its heads' means as dots beside it."""
    places, colour = np.arange(len(line.mean)), PALETTE[index % len(PALETTE)]
    axes.fill_between(places, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    axes.vlines(places, line.low, line.high, color=colour, alpha=0.6, linewidth=1)  # a lone block has no band
    if line.heads is not None:
        apart = 0.4 * ((index + 0.5) / runs - 0.5)
        heads = line.heads.shape[1]
        axes.scatter(np.repeat(places + apart, heads), line.heads, s=6, color=colour, alpha=0.5, linewidths=0)
    axes.plot(places, line.mean, **_style(index))


def _divergence_panel(lines: Sequence[DepthLine | None], first: str, blocks: Sequence[str]) -> _Panel:
    def draw(axes: Axes) -> None:
        for index, line in enumerate(lines):
            if line is not None:
                _profile(axes, index, len(lines), line)
        axes.set_ylim(bottom=0)
        _blocks_below(axes, blocks)

    return f"Reading row: divergence from {first} (Jensen-Shannon, 0 to 1)", draw


def _similarity_panel(values: Sequence[np.ndarray | None], first: str, blocks: Sequence[str]) -> _Panel:
    def draw(axes: Axes) -> None:
        for index, value in enumerate(values):
            if value is not None:
                axes.plot(value, **_style(index))
        axes.axhline(1, color=QUIET, linewidth=1, zorder=1)
        least = min(np.nanmin(value, initial=1.0) for value in values if value is not None)
        axes.set_ylim(min(0.9, least - 0.02), 1.01)  # small differences shall look small
        _blocks_below(axes, ("in", *blocks))
        axes.set_xlabel("tokens after block (in: before the first)")

    return f"Features: similarity to {first} (linear CKA, 1: the same)", draw


def _blocks_below(axes: Axes, names: Sequence[str]) -> None:
    step = tick_step(len(names), axes, 24)
    axes.set_xticks(range(0, len(names), step), names[::step])
    axes.set(xlim=(-0.5, len(names) - 0.5), xlabel="block")


def _panel_row(panels: Sequence[_Panel]) -> Block:
    room = (WIDTH - 2 * MARGIN) // COLUMNS
    heads = [wrap(heading, room - BESIDE, CELL_TITLE) for heading, _ in panels]
    above = max(map(len, heads)) * line_height(CELL_TITLE) + PAD

    def draw(pen: Pen, top: float) -> None:
        for column, ((_, fill), lines) in enumerate(zip(panels, heads)):
            left = MARGIN + 46 + column * room
            pen.lines(left, top + above - PAD - len(lines) * line_height(CELL_TITLE), lines, CELL_TITLE)
            fill(pen.axes(left, top + above, room - BESIDE, PANEL_HEIGHT))

    return round(above + PANEL_HEIGHT + 62), draw
