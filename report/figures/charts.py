"""Figures as PNG: the grid of heatmaps (see grid.py), relevance by block and head (layers.py), training curves, means
with intervals. Figures of a study's statistics stand in rainclouds.py, removal.py, overview.py, confusions.py.

Colours are told apart with every common colour blindness, and marker or line style repeats what colour says.
The same content gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator

from report.figures.canvas import (
    CORRECT,
    INK,
    MARKERS,
    PALETTE,
    QUIET,
    WRONG,
    font,
    line_height,
    literal,
    picture,
    wrap,
)
from report.figures.grid import Cell, grid
from report.figures.layers import head_matrix, layer_profiles

__all__ = [
    "CORRECT",
    "MARKERS",
    "PALETTE",
    "WRONG",
    "Cell",
    "bars",
    "grid",
    "head_matrix",
    "layer_profiles",
    "training_curves",
]

# Prefix in the history -> what the legend calls it, its colour, its line.
SPLITS = {
    "train": ("training", PALETTE[0], "-", "o"),
    "held_out": ("held out of training", PALETTE[2], "--", "s"),
    "val": ("validation", PALETTE[1], "-.", "^"),
    "val_shuffled": ("validation, surfaces shuffled", PALETTE[3], ":", "D"),
}
TITLE, NOTE = font(13, bold=True), font(9.5)


def training_curves(path: str | Path, history: Sequence[Mapping[str, Any]], chosen: int | None, title: str) -> None:
    """Loss and accuracy (%) by epoch, or of a probe by penalty, 1100 x about 480 pixels, the chosen one marked by a
    line.

    history: a record an epoch with `epoch`, or a penalty with `penalty`, and, as far as known, `SPLIT_loss` and
    `SPLIT_accuracy` (a fraction) for SPLIT in train, held_out, val, val_shuffled. What no record has is not drawn.
    chosen: counts records from 1. Raises ValueError without records.
    """
    if not history:
        raise ValueError("training_curves: expected at least one record, got none")
    width, panel_height, legend_height = 1100, 340, 56
    titles = wrap(title, width - 48, TITLE)
    top = 24 + len(titles) * line_height(TITLE) + 16
    height = top + panel_height + 52 + legend_height
    along = "epoch" if "epoch" in history[0] else "penalty"
    places = [record[along] for record in history]
    with picture(path, width, height) as figure:
        _heading(figure, titles)
        for column, (kind, scale, label) in enumerate((("loss", 1, "loss"), ("accuracy", 100, "accuracy (%)"))):
            axes = _panel(figure, 76 + column * 540, top, 470, panel_height)
            _curves(axes, places, history, kind, scale)
            axes.set(xlabel=along, ylabel=label)
            _along(axes, along, places)
            axes.set_ylim(bottom=0 if kind == "loss" else None)
            if chosen is not None:
                place = places[chosen - 1]
                axes.axvline(place, color=INK, linewidth=1, label=f"chosen {along} ({place:.2g})", zorder=1)
        _legend(figure)


def _along(axes: Axes, along: str, places: Sequence[float]) -> None:
    """Epochs are counted; penalties are powers of ten, the largest first, as they were tried."""
    if along == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(places[0] - 0.5, places[-1] + 0.5)
    else:
        axes.set_xscale("log")
        axes.set_xlim(1.4 * max(places), min(places) / 1.4)


def _curves(axes: Axes, places: Sequence[float], history: Sequence[Mapping[str, Any]], kind: str, scale: float) -> None:
    for split, (label, colour, line, marker) in SPLITS.items():
        values = scale * _column(history, f"{split}_{kind}")
        if np.isfinite(values).any():
            every = max(1, len(places) // 12)
            axes.plot(places, values, line, color=colour, marker=marker, markersize=5, markevery=every, label=label)
    if not axes.lines:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color=QUIET)


def _column(history: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    values = [record.get(name) for record in history]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def bars(
    path: str | Path,
    title: str,
    groups: Mapping[str, Mapping[str, tuple[float, float, float]]],
    ylabel: str,
    reference: float | None = None,
    reference_label: str = "area share",
) -> None:
    """Means with intervals, a group on the x axis, a colour and marker a series.

    groups: group -> series -> (mean, low, high); series stand in order of first appearance, and a missing one or a
    NaN leaves its place empty. Without `reference` bars from zero are drawn; with it points, as distance from the
    reference line is what counts. Raises ValueError without groups.
    """
    if not groups:
        raise ValueError("bars: expected at least one group, got none")
    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    group_width = max(110, 46 * len(series))
    width = max(560, 90 + group_width * len(groups) + 24)
    titles = wrap(title, width - 48, TITLE)
    ticks = [wrap(name, (width - 114) / len(groups) - 10, NOTE) for name in groups]
    legend_lines = 1 + (sum(len(name) for name in series) * 8 + 60 * len(series)) // (width - 60)
    top = 36 + len(titles) * line_height(TITLE)
    below = 22 + max(map(len, ticks)) * line_height(NOTE) + 24 * (legend_lines + 1)
    with picture(path, width, top + 340 + below) as figure:
        _heading(figure, titles)
        axes = _panel(figure, 90, top, width - 114, 340)
        for index, name in enumerate(series):
            shift = (index - (len(series) - 1) / 2) * 0.8 / len(series)
            values = np.array([group.get(name, (np.nan,) * 3) for group in groups.values()], dtype=np.float64)
            _means(axes, np.arange(len(groups)) + shift, values, name, index, 0.8 / len(series), reference is None)
        if reference is not None:
            axes.axhline(reference, color=INK, linewidth=1.2, linestyle="--", label=literal(reference_label), zorder=1)
        axes.set_xticks(range(len(groups)), ["\n".join(map(literal, lines)) for lines in ticks], fontsize=9.5)
        axes.tick_params(axis="x", length=0, labelcolor=INK)
        axes.set_xlim(-0.5, len(groups) - 0.5)
        for group in range(1, len(groups), 2):
            axes.axvspan(group - 0.5, group + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
        axes.grid(False, axis="x")
        axes.set_ylabel(literal(ylabel))
        _legend(figure, max(1, -(-(len(series) + (reference is not None)) // legend_lines)))


def _means(axes: Axes, x: np.ndarray, values: np.ndarray, name: str, index: int, width: float, solid: bool) -> None:
    mean, low, high = values.T
    colour = PALETTE[index % len(PALETTE)]
    # An interval that could not be computed is not drawn; its mean is.
    errors = np.nan_to_num(np.stack([mean - low, high - mean])).clip(min=0)
    if solid:
        axes.bar(x, mean, width * 0.9, yerr=errors, color=colour, ecolor=INK, capsize=3, label=literal(name))
        return
    marker = MARKERS[index % len(MARKERS)]
    axes.errorbar(x, mean, errors, fmt=marker, color=colour, markersize=7, capsize=4, label=literal(name))


def _panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes in pixels from the top left corner of the figure."""
    across, down = figure.get_size_inches() * figure.dpi
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def _heading(figure: Figure, lines: Sequence[str]) -> None:
    _lines(figure, 24, 18, lines, TITLE)


def _lines(
    figure: Figure, left: float, top: float, lines: Sequence[str], properties: FontProperties, colour: str = INK
) -> None:
    """Texts in pixels from the top left corner of the figure, one below the other."""
    across, down = figure.get_size_inches() * figure.dpi
    for index, line in enumerate(lines):
        y = 1 - (top + (index + 0.5) * line_height(properties)) / down
        figure.text(
            left / across, y, line, fontproperties=properties, color=colour, va="center_baseline", parse_math=False
        )


def _legend(figure: Figure, columns: int = 5) -> None:
    """One legend below all panels, where it can hide nothing; a label that two panels share stands once."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    if entries:
        figure.legend(entries.values(), entries.keys(), loc="lower center", ncols=min(columns, len(entries)))
