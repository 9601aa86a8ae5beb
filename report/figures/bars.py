"""Means with intervals by group: bars from zero, or points around a reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from report.figures.blocks import legend_below
from report.figures.canvas import INK, MARKERS, PALETTE, Pen, font, line_height, literal, picture, wrap

TITLE, NAME = font(13, bold=True), font(9.5)
PANEL_HEIGHT = 340  # pixels


def bars(
    path: str | Path,
    title: str,
    groups: Mapping[str, Mapping[str, tuple[float, float, float]]],
    ylabel: str,
    reference: float | None = None,
    reference_label: str = "area share",
) -> None:
    """Draw means with intervals: a group per place on the x axis, a colour and marker per series.

    path: the file to write.
    title: above the panel.
    groups: group -> series -> (mean, low, high); series stand in order of first appearance, and a missing one or a
        NaN leaves its place empty.
    ylabel: what the values are, with their unit.
    reference: with it points are drawn, as distance from the reference line is what counts; without it bars from zero.
    reference_label: the legend's name of the line.

    Raises ValueError without groups.
    """
    if not groups:
        raise ValueError("bars: expected at least one group, got none")
    series = list(dict.fromkeys(name for group in groups.values() for name in group))
    width = max(560, 90 + max(110, 46 * len(series)) * len(groups) + 24)
    titles = wrap(title, width - 48, TITLE)
    ticks = [wrap(name, (width - 114) / len(groups) - 10, NAME) for name in groups]
    legend_lines = 1 + (sum(len(name) for name in series) * 8 + 60 * len(series)) // (width - 60)
    top = 36 + len(titles) * line_height(TITLE)
    height = top + PANEL_HEIGHT + 22 + max(map(len, ticks)) * line_height(NAME) + 24 * (legend_lines + 1)
    with picture(path, width, height) as figure:
        pen = Pen(figure, width, round(height))
        pen.lines(24, 18, titles, TITLE)
        axes = pen.axes(90, top, width - 114, PANEL_HEIGHT)
        for index, name in enumerate(series):
            shift = (index - (len(series) - 1) / 2) * 0.8 / len(series)
            values = np.array([group.get(name, (np.nan,) * 3) for group in groups.values()], dtype=np.float64)
            _means(axes, np.arange(len(groups)) + shift, values, name, index, 0.8 / len(series), reference is None)
        if reference is not None:
            axes.axhline(reference, color=INK, linewidth=1.2, linestyle="--", label=literal(reference_label), zorder=1)
        _set_axes(axes, ["\n".join(map(literal, lines)) for lines in ticks], ylabel)
        legend_below(figure, max(1, -(-(len(series) + (reference is not None)) // legend_lines)))


def _set_axes(axes: Axes, names: list[str], ylabel: str) -> None:
    """Name the groups and give every second one a background."""
    axes.set_xticks(range(len(names)), names, fontsize=9.5)
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    axes.set_xlim(-0.5, len(names) - 0.5)
    for group in range(1, len(names), 2):
        axes.axvspan(group - 0.5, group + 0.5, color="#f4f4f4", zorder=0, linewidth=0)
    axes.grid(False, axis="x")
    axes.set_ylabel(literal(ylabel))


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
