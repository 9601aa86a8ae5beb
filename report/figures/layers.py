"""Relevance by block and head: one image's maps as a matrix, and the shares of several runs with their statistics.

Letters: N images, K targets, L layers (blocks, and attention pooling where there is one), h heads.
A share is a head's part of the relevance of all heads of an image, in magnitudes; over blocks and heads shares sum to
1. What a head's relevance is differs between methods, and so does whether all heads' is the map: the caller's words say
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from PIL import Image
from tqdm import tqdm

from common.tables import percent
from evaluation.statistics.paired import single
from report.figures.canvas import INK, MARKERS, PALETTE, QUIET, Pen, line_height, text_width, wrap
from report.figures.grid import (
    BAR,
    CAPTION,
    CELL_TITLE,
    GAP,
    GROUP_GAP,
    HEADER,
    MARGIN,
    PAD,
    ROW_GAP,
    SMALL,
    TITLE,
    Cell,
    Layout,
    Scale,
    stack,
)
from report.figures.text_blocks import Block, key, paragraph

SHARE_COLOURS, DIFFERENCE_COLOURS = "Blues", "RdBu_r"
ALL = "all"  # in the column `head`: a whole block
BETWEEN = 4  # pixels between the cells of a matrix
SMALLEST_CELL, LARGEST_CELL = 56, 112  # pixels
PREVIEW = 176  # side of the image above a matrix, pixels
NAMES, NUMBERS, BARS = 70, 64, 84  # columns left of a matrix, pixels
FIGURE_WIDTH, SMALLEST_PANEL, BESIDE_PANEL = 1100, 200, 66  # pixels of layers.png
SMALLEST_DIFFERENCE = 0.01  # the end of the scale where no share differs: a percentage point
MEAN, LOW, HIGH = 0, 1, 2  # along the last axis of LayerMeans


# ---- one image: the relevance of each head of each block


def head_matrix(
    path: str | Path,
    preview: Sequence[Cell],
    cells: np.ndarray,
    shares: np.ndarray,
    blocks: Sequence[str],
    title: str,
    scale: Scale,
    footnote: str = "",
) -> None:
    """Write a PNG with a row a block, the first at the top, a column a head, and a last column for all heads.

    preview: the image and its whole map, shown above. cells: pictures (L, h + 1, H, W, 3) uint8, the last of a row
    for all heads. shares (L,): each block's part of all heads' relevance, 0 to 1, as number and bar; NaN is shown
    as a dash. blocks: their names. Raises ValueError when these do not agree.
    """
    layers, columns = cells.shape[:2]
    if not len(shares) == len(blocks) == layers:
        raise ValueError(
            f"head_matrix: {layers} rows of cells, {len(shares)} shares, {len(blocks)} names of blocks; "
            f"expected one of each a block"
        )
    side = int(np.clip(720 // columns, SMALLEST_CELL, LARGEST_CELL))
    start = MARGIN + NAMES + NUMBERS + BARS + GAP
    lefts = [start + i * (side + BETWEEN) for i in range(columns - 1)]
    lefts.append(lefts[-1] + side + GROUP_GAP if lefts else start)
    width = max(lefts[-1] + side, 2 * (MARGIN + PREVIEW + GAP)) + MARGIN
    layout = Layout(lefts, width, side)
    above = Layout([MARGIN + i * (PREVIEW + GAP) for i in range(len(preview))], width, PREVIEW)
    blocks_of_picture = [
        layout.head(title, [scale]),
        above.row(preview),
        _matrix_heads(layout, columns - 1),
        _matrix(lefts, side, cells, shares, blocks),
    ]
    if footnote:
        blocks_of_picture.append(layout.foot(footnote))
    stack(path, width, blocks_of_picture)


def _matrix_heads(layout: Layout, heads: int) -> Block:
    height, columns = layout.column_heads([("head", heads), ("all", 1)], [*map(str, range(heads)), ""])
    words = wrap("share of all heads' relevance", NUMBERS + BARS, CAPTION)

    def draw(pen: Pen, top: float) -> None:
        columns(pen, top)
        bottom = top + height - ROW_GAP / 2
        pen.lines(MARGIN, bottom - line_height(CAPTION), ["block"], CAPTION, colour=QUIET)
        pen.lines(MARGIN + NAMES, bottom - len(words) * line_height(CAPTION), words, CAPTION, colour=QUIET)

    return height, draw


def _matrix(lefts: Sequence[int], side: int, cells: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> Block:
    rows, columns, pixel_rows, pixel_columns, _ = cells.shape
    scale = side / max(pixel_rows, pixel_columns)
    cell_height, cell_width = max(1, round(pixel_rows * scale)), max(1, round(pixel_columns * scale))
    step = cell_height + BETWEEN
    # One picture of all cells: axes for each of some hundred cells would take seconds.
    together = np.full((rows * step - BETWEEN, lefts[-1] + side - lefts[0], 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * step, lefts[column] - lefts[0] + (side - cell_width) // 2
            small = Image.fromarray(cells[row, column]).resize((cell_width, cell_height), Image.Resampling.LANCZOS)
            together[top : top + cell_height, left : left + cell_width] = small
    largest = np.nanmax(shares, initial=0.0) or 1.0

    def draw(pen: Pen, top: float) -> None:
        pen.image(lefts[0], top, together.shape[1], together.shape[0], together, "nearest")
        for row, (name, share) in enumerate(zip(names, shares)):
            middle = top + row * step + cell_height / 2
            text = middle - line_height(CAPTION) / 2
            pen.lines(MARGIN, text, [name], CELL_TITLE)
            part = "< 0.1 %" if 0 < share < 5e-4 else percent(share)
            pen.lines(MARGIN + NAMES + NUMBERS - PAD, text, [part], CAPTION, "right")
            pen.bar(MARGIN + NAMES + NUMBERS, middle - 7, np.nan_to_num(share) / largest * BARS, 14, PALETTE[0])

    return rows * step + ROW_GAP, draw


# ---- many images, several runs: shares with their statistics


@dataclass(frozen=True)
class LayerMeans:
    """A run's mean shares over images, each as [mean, low, high] of its 95 % interval (fractions, float64).

    blocks: L names. by_block: (K, L, 3). by_head: (K, L, h, 3). images: N.
    """

    label: str
    blocks: tuple[str, ...]
    by_block: np.ndarray
    by_head: np.ndarray
    images: int


def layer_means(label: str, blocks: Sequence[str], shares: np.ndarray) -> LayerMeans:
    """Mean over images of shares (N, K, L, h), or of their differences between two runs, with `single`'s intervals.

    Images with NaN (no relevance at all) are dropped, as `single` does. Raises ValueError unless `blocks` are L names.
    """
    if shares.ndim != 4 or shares.shape[2] != len(blocks):
        raise ValueError(
            f"layer_means: shares have shape {shares.shape}, with {len(blocks)} names of blocks; expected "
            f"(images, targets, {len(blocks)}, heads)"
        )
    columns = np.concatenate([shares.sum(-1, keepdims=True), shares], axis=-1)
    found = [
        single(column)
        for column in tqdm(
            columns.reshape(len(shares), -1).T, desc=f"intervals {label}", delay=2, leave=False, disable=None
        )
    ]
    means = np.array([(one.mean, one.low, one.high) for one in found]).reshape(*columns.shape[1:], 3)
    return LayerMeans(label, tuple(blocks), means[:, :, 0], means[:, :, 1:], len(shares))


def layer_rows(runs: Sequence[LayerMeans], targets: Sequence[str]) -> list[dict[str, Any]]:
    """Rows for a CSV: run, target, block, head ("all": the whole block), images, share, low, high (fractions)."""
    rows = []
    for run in runs:
        by_head = np.concatenate([run.by_block[:, :, None], run.by_head], axis=2)
        for (target, block, head), values in zip(np.ndindex(by_head.shape[:3]), by_head.reshape(-1, 3)):
            share, low, high = map(float, values)
            rows.append(
                {
                    "run": run.label,
                    "target": targets[target],
                    "block": run.blocks[block],
                    "head": head - 1 if head else ALL,
                    "images": run.images,
                    "share": share,
                    "low": low,
                    "high": high,
                }
            )
    return rows


def layer_profiles(
    path: str | Path,
    runs: Sequence[LayerMeans],
    difference: LayerMeans | None,
    targets: Sequence[str],
    title: str,
    footnote: str = "",
) -> None:
    """Shares by block as lines with bands, a panel a target; below, shares by block and head as a matrix a run.

    difference: the last run's shares less the first's, image by image, as `layer_means` gives them; drawn beside the
    runs on a scale of its own, symmetric about zero. None where the runs' heads cannot be set against each other.
    targets: a heading for each of K.
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
    """Largest magnitude, or another number where there is none to draw."""
    return max((float(np.nanmax(np.abs(array), initial=0.0)) for array in arrays), default=0.0) or otherwise


def _style(index: int) -> dict[str, Any]:
    """Colour and marker of a run, the same in the key and in every panel."""
    return {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)], "markersize": 5}


def _profiles(runs: Sequence[LayerMeans], targets: Sequence[str], width: int) -> Block:
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


def _profile(axes: Axes, runs: Sequence[LayerMeans], target: int) -> None:
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
    places = range(0, len(names), every(len(names), axes, 24))
    axes.set_xticks(places, [names[place] for place in places])
    axes.set_xlim(-0.5, len(names) - 0.5)


def every(count: int, axes: Axes, pixels: int) -> int:
    """Of `count` places along the x axis, name each so many-th, so that a name has `pixels`."""
    return -(-count * pixels // round(axes.get_window_extent().width))


def _colour_bars(
    runs: Sequence[LayerMeans],
    difference: LayerMeans | None,
    limits: tuple[float, ...],
    lefts: Sequence[int],
    width: int,
) -> Block:
    """What the matrices below say, in words and colours: shares on the left, differences above their own column."""
    room = (lefts[-1] - MARGIN if difference else width) - MARGIN - GAP
    bars = [(MARGIN, room, SHARE_COLOURS, "0 %", percent(limits[0]), "share of all heads' relevance, mean over images")]
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
    runs: Sequence[LayerMeans],
    difference: LayerMeans | None,
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
                heat(axes, values[..., MEAN], run.blocks, DIFFERENCE_COLOURS, (-limit, limit), told_apart)
            else:
                heat(axes, values[..., MEAN], run.blocks, SHARE_COLOURS, (0, limit))

    return round(above + row * deepest + 50), draw


def heat(
    axes: Axes,
    values: np.ndarray,
    blocks: Sequence[str],
    colours: str,
    limits: tuple[float, float],
    marked: np.ndarray | None = None,
) -> None:
    """Draw values (L, h) as colours, a row a block and a column a head, with a dot where `marked` (L, h)."""
    axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest")
    if marked is not None:
        axes.scatter(*np.nonzero(marked)[::-1], s=20, color=INK, edgecolors="white", linewidths=0.8)
    axes.grid(False)
    axes.spines[["right", "top"]].set_visible(True)
    axes.set_xticks(range(0, values.shape[1], every(values.shape[1], axes, 20)))
    axes.set_yticks(range(len(blocks)), blocks)
    axes.tick_params(length=0)
    axes.set(xlabel="head", ylabel="block")
