"""Paired differences as raincloud plots: density, quartiles, a dot per image, and the mean with its interval.

Source: Allen et al. 2019, Raincloud plots, Wellcome Open Research 4. Letters: S training seeds, N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy import stats

from report.figures.blocks import CAPTION, HEADER, MARGIN, PAD, ROW_GAP, SMALL, TITLE, Block, key, paragraph, stack
from report.figures.canvas import INK, PALETTE, QUIET, Pen, figure_style, line_height, literal, wrap

WIDTH, NAMES, FACTS = 1100, 210, 236  # pixels: the figure, the names left of the axes, the facts right of them
CLOUD = 118  # pixels of one comparison
AXIS = 46  # pixels below the axes for numbers and label
# Heights within a comparison, in shares of CLOUD from its middle, upwards.
DENSITY, BOX, RAIN, MEAN = (0.08, 0.46), 0.02, (-0.24, -0.05), -0.36


@dataclass(frozen=True)
class Cloud:
    """One comparison of two methods by one metric, first minus second.

    label: which methods.
    differences: (N,) averaged over seeds; NaN where an image has no value.
    mean, low, high: mean over images and its 95 % interval; NaN where there is none.
    seeds: each training seed's mean difference.
    facts: texts beside it, so that nobody has to read numbers off an axis; each starts on a line of its own.
    """

    label: str
    differences: np.ndarray
    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]
    facts: Sequence[str] = ()


@dataclass(frozen=True)
class Metric:
    """A panel of comparisons by one metric.

    title: what is measured.
    unit: of the differences, the label of the x axis.
    clouds: from the top.
    """

    title: str
    unit: str
    clouds: Sequence[Cloud]


@figure_style()
def rainclouds(path: str | Path, metrics: Sequence[Metric], title: str, note: str = "") -> None:
    """Draw every metric as a panel with an axis of its own, 1100 pixels wide, its comparisons one below the other.

    path: the file to write.
    metrics: a panel each; a label stands for the same comparison, and has the same colour, in every panel.
    title, note: above and below the panels.

    Raises ValueError without metrics.
    """
    if not metrics:
        raise ValueError("rainclouds: expected at least one metric, got none")
    labels = list(dict.fromkeys(cloud.label for metric in metrics for cloud in metric.clouds))
    colours = {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}
    several = any(len(cloud.seeds) > 1 for metric in metrics for cloud in metric.clouds)
    stack(
        path,
        WIDTH,
        [
            paragraph(title, WIDTH, TITLE, below=ROW_GAP),
            key(_entries(several), WIDTH, below=ROW_GAP),
            *(_panel(metric, colours) for metric in metrics),
            paragraph(note, WIDTH, SMALL, QUIET),
        ],
    )


def _entries(several: bool) -> dict[str, Artist]:
    entries: dict[str, Artist] = {
        "density over images": Patch(facecolor=QUIET, alpha=0.35),
        "quartiles and median": Patch(facecolor="white", edgecolor=QUIET),
        "an image": Line2D([], [], color=QUIET, marker="o", markersize=4, linestyle=""),
        "mean and its 95 % interval over images": Line2D([], [], color=INK, marker="D", markersize=5, linewidth=3),
    }
    return entries | ({"a training seed's mean": _seed_marker([], [])} if several else {})


def _seed_marker(x: Sequence[float], y: Sequence[float]) -> Line2D:
    return Line2D(x, y, color=INK, marker="|", markersize=11, markeredgewidth=1.6, linestyle="")


def _panel(metric: Metric, colours: dict[str, str]) -> Block:
    heading = wrap(metric.title, WIDTH - 2 * MARGIN, HEADER)
    above = len(heading) * line_height(HEADER) + PAD
    names = [wrap(cloud.label, NAMES - ROW_GAP, CAPTION) for cloud in metric.clouds]
    facts = [[line for fact in cloud.facts for line in wrap(fact, FACTS - ROW_GAP, SMALL)] for cloud in metric.clouds]
    lines = max((len(texts) for texts in (*names, *facts)), default=0)
    row = max(CLOUD, round(lines * line_height(CAPTION)) + PAD)

    def draw(pen: Pen, top: float) -> None:
        pen.lines(MARGIN, top, heading, HEADER)
        left, right = MARGIN + NAMES, WIDTH - MARGIN - FACTS
        axes = pen.axes(left, top + above, right - left, row * len(metric.clouds))
        for index, (cloud, name, texts) in enumerate(zip(metric.clouds, names, facts)):
            middle = top + above + (index + 0.5) * row
            pen.lines(MARGIN, middle - len(name) * line_height(CAPTION) / 2, name, CAPTION)
            pen.lines(right + ROW_GAP, middle - len(texts) * line_height(SMALL) / 2, texts, SMALL)
            _cloud(axes, cloud, -index, colours[cloud.label])
        _finish(axes, metric)

    return above + row * len(metric.clouds) + AXIS + ROW_GAP, draw


def _cloud(axes: Axes, cloud: Cloud, middle: float, colour: str) -> None:
    values = np.asarray(cloud.differences, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) > 2 and np.ptp(values) > 1e-12 * np.abs(values).max():
        places = np.linspace(values.min(), values.max(), 256)
        density = stats.gaussian_kde(values)(places)
        bottom, top = (middle + height for height in DENSITY)
        axes.fill_between(
            places, bottom, bottom + (top - bottom) * density / density.max(), color=colour, alpha=0.35, linewidth=0
        )
    if len(values):
        axes.boxplot(
            values,
            positions=[middle + BOX],
            orientation="horizontal",
            widths=0.09,
            showfliers=False,
            whis=0,
            showcaps=False,
            manage_ticks=False,
            medianprops={"color": INK, "linewidth": 1.6},
            boxprops={"color": colour, "linewidth": 1.4},
            whiskerprops={"linewidth": 0},
        )
        axes.scatter(
            values,
            middle + RAIN[0] + (RAIN[1] - RAIN[0]) * _spread(values),
            s=9,
            color=colour,
            alpha=0.45,
            linewidths=0,
        )
    if np.isfinite(cloud.mean):
        axes.plot([cloud.low, cloud.high], [middle + MEAN] * 2, color=INK, linewidth=3, solid_capstyle="butt")
        axes.plot([cloud.mean], [middle + MEAN], color=INK, marker="D", markersize=5, linestyle="")
    if len(cloud.seeds) > 1:
        axes.add_line(_seed_marker(cloud.seeds, [middle + MEAN] * len(cloud.seeds)))


def _spread(values: np.ndarray) -> np.ndarray:
    """Return heights in [0, 1] that spread neighbours evenly and reproducibly: the golden ratio's sequence."""
    heights = np.empty(len(values))
    heights[np.argsort(values, kind="stable")] = (np.arange(len(values)) * 0.6180339887498949) % 1
    return heights


def _finish(axes: Axes, metric: Metric) -> None:
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    axes.set_ylim(-len(metric.clouds) + 0.5, 0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.set_xlabel(literal(metric.unit))
    low, high = axes.dataLim.intervalx
    room = 0.04 * (high - low) or 1.0  # all differences zero: an axis of some width around it
    axes.set_xlim(min(low, 0) - room, max(high, 0) + room)
