"""The picture of a comparison: a row per image, the photo, and for each run the heatmaps of two classes.

Letters: H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from common.tables import percent
from report.figures.canvas import CORRECT, WRONG
from report.figures.grid import Cell, grid
from report.figures.heatmap_cells import colour_scale, heatmap_cell
from report.figures.overlay import normalise

FRAMES = {None: None, "correct": CORRECT, "wrong": WRONG}


@dataclass(frozen=True)
class GridRun:
    """The columns of one run.

    head: above its two columns.
    target_heads: above each of them (see `target_heads`).
    """

    head: str
    target_heads: tuple[str, str]


@dataclass(frozen=True)
class HeatCell:
    """One run's heatmap of one class.

    pixels: (H, W, 3) uint8, the photo as the run's model sees it.
    heat: (H, W) relevance, not yet scaled.
    caption: below it (see `heat_caption`).
    frame: "correct" or "wrong" prediction; None draws no frame.
    is_zero: whether the map is zero everywhere, which the caption then says.
    """

    pixels: np.ndarray
    heat: np.ndarray
    caption: str
    frame: Literal["correct", "wrong"] | None = None
    is_zero: bool = False


@dataclass(frozen=True)
class GridRow:
    """One image.

    photo: (H, W, 3) uint8.
    caption: below it (see `photo_caption`).
    cells: a pair of heatmaps per run.
    """

    photo: np.ndarray
    caption: str
    cells: Sequence[tuple[HeatCell, HeatCell]]


@dataclass(frozen=True)
class GridStyle:
    """How heatmaps are coloured.

    normalise: scale every heatmap by its own maximum, or all heatmaps of an image by one ("shared").
    colour_map: matplotlib's name; None chooses by `signed`.
    signed: whether maps have evidence against the target.
    """

    normalise: Literal["heatmap", "shared"] = "heatmap"
    colour_map: str | None = None
    signed: bool = False


def comparison_grid(
    path: str | Path,
    runs: Sequence[GridRun],
    rows: Sequence[GridRow],
    style: GridStyle,
    title: str,
    footnote: str = "",
) -> None:
    """Draw a row per image and two heatmaps per run.

    path: the file to write.
    runs: from the left.
    rows: from the top.
    style: how heatmaps are coloured.
    title, footnote: above and below the grid (see `grid_note`).

    Raises ValueError without rows, or when a row has not a pair of heatmaps for each run.
    """
    maximum = "its own maximum" if style.normalise == "heatmap" else "the maximum over an image's heatmaps"
    grid(
        path,
        [[Cell(row.photo, caption=row.caption), *_heat_cells(row, style)] for row in rows],
        headers=[("", 1)] + [(run.head, 2) for run in runs],
        subheaders=["image"] + [head for run in runs for head in run.target_heads],
        title=title,
        scales=[colour_scale(style.signed, style.colour_map, maximum)],
        footnote=footnote,
    )


def _heat_cells(row: GridRow, style: GridStyle) -> list[Cell]:
    cells = [cell for pair in row.cells for cell in pair]
    heats = _scaled([cell.heat for cell in cells], style)
    return [
        heatmap_cell(cell.pixels, heat, cell.caption, style.signed, style.colour_map, cell.is_zero, FRAMES[cell.frame])
        for cell, heat in zip(cells, heats)
    ]


def _scaled(heats: Sequence[np.ndarray], style: GridStyle) -> list[np.ndarray]:
    """Return heatmaps in [0, 1]; runs may have different image sizes."""
    if style.normalise == "heatmap":
        return [normalise(heat, signed=style.signed) for heat in heats]
    together = normalise(np.concatenate([heat.ravel() for heat in heats])[None], signed=style.signed)[0]
    parts = np.split(together, np.cumsum([heat.size for heat in heats])[:-1])
    return [part.reshape(heat.shape) for part, heat in zip(parts, heats)]


# ---- words


def target_heads(own_classes: bool, distractors: bool, runner_up: bool = False) -> tuple[str, str]:
    """Return the headings of a run's two columns.

    own_classes: whether the run's model has classes of its own, and not those of the data.
    distractors: whether the second column shows the distractor's class for images that have a distractor.
    runner_up: whether the second column shows the runner-up.
    """
    if runner_up:
        return "predicted class" if own_classes else "true class", "runner-up class"
    if own_classes:
        return "predicted class", "random class"
    return "true class", "distractor's or random class" if distractors else "random class"


def grid_note(own_classes: Sequence[bool], distractors: bool, runner_up: bool = False) -> str:
    """Return what the frames and the classes under the heatmaps are, as far as the picture has them.

    own_classes, distractors, runner_up: as in `target_heads`, the first per run.
    """
    note = ["Under each heatmap: the class explained and the run's probability of it."]
    if not all(own_classes):
        note.append("Frames: blue, the run predicts the true class; orange, it does not (its prediction is named).")
        note.append(_second_note(distractors, runner_up))
    if any(own_classes):
        note.append(
            "A model with classes of its own is explained for its predicted class and for "
            + ("its runner-up." if runner_up else "a random one of its others.")
        )
    return " ".join(note)


def _second_note(distractors: bool, runner_up: bool) -> str:
    if runner_up:
        return "The runner-up is the run's most probable class but the true one."
    random = "a random class, drawn uniformly from all but the true one, the same for every run."
    if distractors:
        return f"Second column: the class of the unused equipment (distractor) where there is some, elsewhere {random}"
    return f"Second column: {random}"


def photo_caption(true: str, unused: str | None = None, image: str | None = None) -> str:
    """Return the text below a photo.

    true: the true class.
    unused: the class whose equipment lies unused in the image.
    image: the image's name, which images that were picked by name are looked up by.
    """
    return "\n".join([*([image] if image else []), true, *([f"unused: {unused}"] if unused else [])])


def heat_caption(class_name: str, probability: float, predicted: str | None = None) -> str:
    """Return the text below a heatmap.

    class_name: the class explained.
    probability: that the run gives it, 0 to 1.
    predicted: the class predicted instead of the true one, named below the true class's heatmap.
    """
    return f"{class_name} {percent(probability)}" + (f"\npredicted: {predicted}" if predicted else "")
