"""A value per block and head as a coloured matrix, inside given axes.

Letters: L layers (blocks, and attention pooling where there is one), h heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from report.figures.canvas import INK

SEQUENTIAL_COLOURS, DIFFERENCE_COLOURS = "Blues", "RdBu_r"


def block_matrix(
    axes: Axes,
    values: np.ndarray,
    blocks: Sequence[str],
    colours: str,
    limits: tuple[float, float],
    marked: np.ndarray | None = None,
) -> None:
    """Draw a row per block, the first at the top, and a column per head.

    axes: where to draw.
    values: (L, h).
    blocks: L names.
    colours: matplotlib's name of a colour map.
    limits: the values at its two ends.
    marked: (L, h) bool, which values get a dot.
    """
    axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest")
    if marked is not None:
        rows, columns = np.nonzero(marked)
        axes.scatter(columns, rows, s=20, color=INK, edgecolors="white", linewidths=0.8)
    axes.grid(False)
    axes.spines[["right", "top"]].set_visible(True)
    axes.set_xticks(range(0, values.shape[1], tick_step(values.shape[1], axes, 20)))
    axes.set_yticks(range(len(blocks)), blocks)
    axes.tick_params(length=0)
    axes.set(xlabel="head", ylabel="block")


def tick_step(count: int, axes: Axes, pixels: int) -> int:
    """Return the step between the named ones of `count` places on the x axis that leaves a name `pixels`."""
    return -(-count * pixels // round(axes.get_window_extent().width))
