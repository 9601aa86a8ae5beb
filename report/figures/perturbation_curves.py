"""Perturbation curves: how probability falls as patches are removed in the order of a relevance map.

Letters: S training seeds, N images, T steps of removal from none to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from scipy import stats

from report.figures.blocks import CELL_TITLE, MARGIN, PAD, ROW_GAP, SMALL, TITLE, Block, key, paragraph, stack
from report.figures.canvas import MARKERS, PALETTE, QUIET, Pen, figure_style, line_height, wrap

WIDTH, PANEL_HEIGHT = 1100, 360  # pixels
BESIDE, BELOW = 62, 54  # left of a panel for the numbers of its axis, below it for axis and label
PANELS = (
    ("morf", "Most relevant patches first (MoRF): lower is better"),
    ("lerf", "Least relevant patches first (LeRF): higher is better"),
)


@dataclass(frozen=True)
class RunCurves:
    """One method's probabilities (0 to 1) of the target at each step, (S, N, T) each.

    label: the method's name.
    morf, lerf: the most and the least relevant patches removed first.
    random: with the same model, patches removed in random order; None where this was not measured.
    """

    label: str
    morf: np.ndarray
    lerf: np.ndarray
    random: np.ndarray | None = None


@figure_style()
def removal_curves(
    path: str | Path,
    fractions: np.ndarray,
    runs: Sequence[RunCurves],
    title: str,
    target: str = "the true class",
    note: str = "",
) -> None:
    """Draw mean probability (%) against the share of patches removed (%).

    A panel per order, a line and band per run; random orders are lines alone, as their bands would hide the others'.
    Bands are 95 % intervals of the mean over images at each step (see `mean_band`).

    path: the file to write.
    fractions: (T,) share removed, ascending.
    runs: the curves, with the same seeds and images.
    title: above the panels.
    target: whose probability it is, the label of the y axis.
    note: a sentence for the foot, such as the imputation of removed patches.

    Raises ValueError without runs, or when shapes do not agree.
    """
    _check(fractions, runs)
    entries = {run.label: Line2D([], [], color=colour, marker=marker) for run, colour, marker in _styled(runs)}
    if any(run.random is not None for run in runs):
        entries["dashed, no marker: the same model, patches in random order"] = Line2D([], [], color=QUIET, ls="--")
    seeds, images = runs[0].morf.shape[:2]
    foot = (
        f"Lines: mean over {images} images"
        + (f", each averaged over {seeds} training seeds" if seeds > 1 else "")
        + f". Bands: 95 % interval over images, at each share by itself. {note}"
    )
    stack(
        path,
        WIDTH,
        [
            paragraph(title, WIDTH, TITLE, below=ROW_GAP),
            key(entries, WIDTH, below=ROW_GAP),
            _panels(fractions, runs, target),
            paragraph(foot.strip(), WIDTH, SMALL, QUIET),
        ],
    )


def mean_band(curves: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean over images and its interval at each step, (T,) each: mean, low, high.

    Seeds are averaged image by image first, and an image with a value that is not finite is left out. Interval:
    Student's t over images, cut to the range of a probability; NaN for fewer than two images.

    curves: (S, N, T).
    confidence: of the interval.
    """
    curves = np.asarray(curves, dtype=np.float64).mean(0)
    curves = curves[np.isfinite(curves).all(1)]
    if len(curves) < 2:
        missing = np.full(curves.shape[1], np.nan)
        return curves[0] if len(curves) else missing, missing, missing
    mean = curves.mean(0)
    half = stats.t.ppf(0.5 + confidence / 2, len(curves) - 1) * stats.sem(curves)
    return mean, np.clip(mean - half, 0, 1), np.clip(mean + half, 0, 1)


def _panels(fractions: np.ndarray, runs: Sequence[RunCurves], target: str) -> Block:
    panel = (WIDTH - 2 * MARGIN) // 2 - BESIDE
    headings = [wrap(heading, panel, CELL_TITLE) for _, heading in PANELS]
    above = max(map(len, headings)) * line_height(CELL_TITLE) + PAD

    def draw(pen: Pen, top: float) -> None:
        for index, (order, _) in enumerate(PANELS):
            left = MARGIN + BESIDE + index * (panel + BESIDE)
            pen.lines(left, top, headings[index], CELL_TITLE)
            axes = pen.axes(left, top + above, panel, PANEL_HEIGHT)
            for run, colour, marker in _styled(runs):
                _curve(axes, fractions, getattr(run, order), colour, marker=marker, markersize=5)
                if run.random is not None:
                    axes.plot(
                        100 * fractions, 100 * mean_band(run.random)[0], color=colour, linestyle="--", linewidth=1.3
                    )
            axes.set(xlabel="patches removed (%)", xlim=(100 * fractions[0] - 2, 100 * fractions[-1] + 2))
        first, second = pen.figure.axes
        first.set_ylabel(f"probability of {target} (%)")
        for axes in (first, second):  # one scale, so that both orders can be set against each other
            axes.set_ylim(0, 1.05 * max(other.dataLim.ymax for other in (first, second)))

    return above + PANEL_HEIGHT + BELOW, draw


def _curve(axes: Axes, fractions: np.ndarray, curves: np.ndarray, colour: str, **line: Any) -> None:
    mean, low, high = (100 * values for values in mean_band(curves))
    axes.fill_between(100 * fractions, low, high, color=colour, alpha=0.16, linewidth=0)
    axes.plot(100 * fractions, mean, color=colour, **line)


def _styled(runs: Sequence[RunCurves]) -> list[tuple[RunCurves, str, str]]:
    return [(run, PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, run in enumerate(runs)]


def _check(fractions: np.ndarray, runs: Sequence[RunCurves]) -> None:
    if not runs:
        raise ValueError("removal_curves: expected at least one run, got none")
    shape = (*np.shape(runs[0].morf)[:2], len(fractions))
    for run in runs:
        for name in ("morf", "lerf", "random"):
            curves = getattr(run, name)
            if curves is not None and np.shape(curves) != shape:
                raise ValueError(
                    f"removal_curves: expected {name} of {run.label} as (n_seeds, n_images, n_steps) = "
                    f"{shape}, got {np.shape(curves)}"
                )
