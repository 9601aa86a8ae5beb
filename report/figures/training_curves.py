"""Training curves: loss and accuracy by epoch, or of a linear probe by penalty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from report.figures.blocks import legend_below
from report.figures.canvas import INK, PALETTE, QUIET, Pen, font, line_height, picture, wrap

# Prefix in the history -> the legend's name, colour, line, marker.
SPLITS = {
    "train": ("training", PALETTE[0], "-", "o"),
    "held_out": ("held out of training", PALETTE[2], "--", "s"),
    "val": ("validation", PALETTE[1], "-.", "^"),
    "val_shuffled": ("validation, surfaces shuffled", PALETTE[3], ":", "D"),
}
PANELS = (("loss", 1.0, "loss"), ("accuracy", 100.0, "accuracy (%)"))  # name, factor, label
TITLE = font(13, bold=True)
WIDTH, PANEL_WIDTH, PANEL_HEIGHT, LEGEND_HEIGHT = 1100, 470, 340, 56  # pixels


def training_curves(path: str | Path, history: Sequence[Mapping[str, Any]], chosen: int | None, title: str) -> None:
    """Draw loss and accuracy (%) by epoch or by penalty, 1100 x about 480 pixels.

    path: the file to write.
    history: a record per epoch with `epoch`, or per penalty with `penalty`, and, as far as known, `SPLIT_loss` and
        `SPLIT_accuracy` (a fraction) for the splits train, held_out, val, val_shuffled. Splits that no record has are
        not drawn.
    chosen: number of the chosen record, counted from 1, marked by a line; None marks none.
    title: above the panels.

    Raises ValueError without records.
    """
    if not history:
        raise ValueError("training_curves: expected at least one record, got none")
    titles = wrap(title, WIDTH - 48, TITLE)
    top = 24 + len(titles) * line_height(TITLE) + 16
    height = top + PANEL_HEIGHT + 52 + LEGEND_HEIGHT
    along = "epoch" if "epoch" in history[0] else "penalty"
    places = [record[along] for record in history]
    with picture(path, WIDTH, height) as figure:
        pen = Pen(figure, WIDTH, round(height))
        pen.lines(24, 18, titles, TITLE)
        for column, (kind, scale, label) in enumerate(PANELS):
            axes = pen.axes(76 + column * 540, top, PANEL_WIDTH, PANEL_HEIGHT)
            _curves(axes, places, history, kind, scale)
            axes.set(xlabel=along, ylabel=label)
            _set_x_axis(axes, along, places)
            axes.set_ylim(bottom=0 if kind == "loss" else None)
            if chosen is not None:
                place = places[chosen - 1]
                axes.axvline(place, color=INK, linewidth=1, label=f"chosen {along} ({place:.2g})", zorder=1)
        legend_below(figure)


def _set_x_axis(axes: Axes, along: str, places: Sequence[float]) -> None:
    """Count epochs; show penalties as powers of ten, the largest first, as they were tried."""
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
