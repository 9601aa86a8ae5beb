"""What speaks for one or more classes in one image, by one or more relevance methods; and by block and head.

Letters: K targets, L layers (blocks, and attention pooling where there is one), h heads, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from common.tables import percent
from report.figures.grid import Cell, Scale, grid
from report.figures.head_matrix import head_matrix
from report.figures.heatmap_cells import colour_map_of, colour_scale, heatmap_cell
from report.figures.overlay import normalise as to_unit_range
from report.figures.overlay import overlay

READING = (
    "Colours show where within a block, the bars how much of all heads' relevance (sums of magnitudes over patches "
    "and heads) a block has: compare blocks by the bars. Blocks and heads count from 0, as in timm; block 0 is next to "
    "the image."
)
EVERY_CLASS = "every class"  # what a method that knows no class explains
HEADS_ALPHA = 0.75  # share of the heatmap in pictures of heads


@dataclass(frozen=True)
class MethodFacts:
    """What a figure has to know of a relevance method.

    name: of the method.
    label: the name with the options that change it, as the figure shows it.
    signed: whether maps have evidence against the target.
    uses_target: whether maps differ between classes.
    """

    name: str
    label: str
    signed: bool
    uses_target: bool


@dataclass(frozen=True)
class Photo:
    """One image and the classes explained.

    name: the title of the picture.
    pixels: (H, W, 3) uint8, as the model sees them.
    caption: below the photo (see `most_probable_caption`).
    targets: K class names, in the order of columns.
    target_captions: K texts below their heatmaps (see `probability_caption`).
    """

    name: str
    pixels: np.ndarray
    caption: str
    targets: Sequence[str]
    target_captions: Sequence[str]


@dataclass(frozen=True)
class MethodRow:
    """One method's heatmaps.

    method: which.
    heats: (K, H, W) relevance, not yet scaled; (1, H, W) of a method that knows no class.
    is_zero: for each of them, whether the map is zero everywhere, which the caption then says.
    """

    method: MethodFacts
    heats: np.ndarray
    is_zero: Sequence[bool]


@dataclass(frozen=True)
class HeadHeats:
    """One target's relevance by block and head, not yet scaled.

    whole: (H, W) the map.
    heads: (L, h, H, W).
    all_heads: (L, H, W) the sum over a block's heads.
    shares: (L,) each block's part of the relevance of all heads, in magnitudes, 0 to 1.
    blocks: L names.
    """

    whole: np.ndarray
    heads: np.ndarray
    all_heads: np.ndarray
    shares: np.ndarray
    blocks: Sequence[str]


# ---- a row per method


def class_heatmaps(
    path: str | Path,
    photo: Photo,
    rows: Sequence[MethodRow],
    run_label: str,
    normalise: Literal["heatmap", "shared"] = "heatmap",
    colour_map: str | None = None,
) -> None:
    """Draw a row per method and a column per class, beside the photo.

    Beside the one map of a method that knows no class, places stay empty.

    path: the file to write.
    photo: the image and the classes.
    rows: from the top.
    run_label: the run that is explained.
    normalise: scale every heatmap by its own maximum, or all of a method by one ("shared").
    colour_map: matplotlib's name; None chooses by the sign of each method's maps.

    Raises ValueError without rows.
    """
    methods = [row.method for row in rows]
    targets = targets_of_methods(photo.targets, methods)
    known = any(method.uses_target for method in methods)
    cells = [_row(photo, row, normalise, colour_map, photo.caption * (row is rows[0])) for row in rows]
    grid(
        path,
        [row + [None] * (1 + len(targets) - len(row)) for row in cells],
        headers=[("", 1), (f"what speaks for a class, {run_label}" if known else run_label, len(targets))],
        subheaders=["image", *(targets if known else [EVERY_CLASS])],
        title=photo.name,
        scales=_scales(methods, normalise, colour_map),
    )


def targets_of_methods(targets: Sequence[str], methods: Sequence[MethodFacts]) -> list[str]:
    """Return the targets that methods tell apart: the first, for all, where none of the methods knows classes."""
    return list(targets if any(method.uses_target for method in methods) else targets[:1])


def _row(photo: Photo, row: MethodRow, normalise: str, colour_map: str | None, caption: str) -> list[Cell | None]:
    method = row.method
    heats = to_unit_range(row.heats, shared=normalise == "shared", signed=method.signed)
    captions = photo.target_captions if method.uses_target else ["knows no class:\none map for all"]
    return [
        Cell(photo.pixels, method.label, caption),
        *(
            heatmap_cell(photo.pixels, heat, below, method.signed, colour_map, bool(zero))
            for heat, below, zero in zip(heats, captions, row.is_zero)
        ),
    ]


def _scales(methods: Sequence[MethodFacts], normalise: str, colour_map: str | None) -> list[Scale]:
    """Return a colour bar for unsigned maps and one for signed ones, if drawn; two bars name their methods."""
    maximum = "its own maximum" if normalise == "heatmap" else "the maximum over a method's heatmaps"
    kinds = {signed: [method.name for method in methods if method.signed is signed] for signed in (False, True)}
    scales = {", ".join(kind): colour_scale(signed, colour_map, maximum) for signed, kind in kinds.items() if kind}
    if len(scales) == 1:
        return list(scales.values())
    return [replace(scale, label=f"{names}: {scale.label}") for names, scale in scales.items()]


def probability_caption(class_name: str, probability: float) -> str:
    """Return a class and its probability (0 to 1)."""
    return f"{class_name} {percent(probability)}"


def most_probable_caption(class_names: Sequence[str], probability: np.ndarray, most: int = 5) -> str:
    """Return the most probable classes, a line each.

    class_names: of all classes.
    probability: of each of them, 0 to 1.
    most: how many to name.
    """
    best = np.argsort(-probability)[:most]
    return "\n".join([f"top {len(best)}:", *(probability_caption(class_names[i], probability[i]) for i in best)])


# ---- a row per block


def head_heatmaps(
    path: str | Path,
    photo: Photo,
    target: int,
    method: MethodFacts,
    heats: HeadHeats,
    run_label: str,
    adds_up: bool,
    note: str,
    colour_map: str | None = None,
) -> None:
    """Draw one target's relevance by block and head, each over the grey photo.

    A block's heads share a scale, and blocks do not: between blocks, sums differ by factors of hundreds.

    path: the file to write.
    photo: the image and the classes.
    target: which of the photo's targets.
    method: the relevance method.
    heats: its relevance.
    run_label: the run that is explained.
    adds_up: whether the relevance of all heads adds up to the map.
    note: what a head's relevance is, by this method.
    colour_map: matplotlib's name; None chooses by the sign of the maps.
    """
    name = photo.targets[target] if method.uses_target else EVERY_CLASS
    caption = photo.target_captions[target] if method.uses_target else EVERY_CLASS

    def coloured(values: np.ndarray, shared: bool | int) -> np.ndarray:
        """Return (L, h, H, W) as colours over the grey photo, (L, h, H, W, 3) uint8."""
        scaled = to_unit_range(values, shared, method.signed)
        colours = colour_map_of(method.signed, colour_map)
        return np.stack(
            [[overlay(photo.pixels, heat, colours, HEADS_ALPHA, grey=True) for heat in row] for row in scaled]
        )

    cells = [coloured(heats.heads, 1), coloured(heats.all_heads[:, None], False)]
    whole = coloured(heats.whole[None, None], False)[0, 0]
    head_matrix(
        path,
        [Cell(photo.pixels, caption="image"), Cell(whole, caption=f"the whole map\n{caption}")],
        np.concatenate(cells, axis=1),
        heats.shares,
        heats.blocks,
        f"{heads_title(adds_up)} for {name}: {method.label}, {run_label}, {photo.name}",
        replace(colour_scale(method.signed, colour_map, ""), label=heads_label(method.signed)),
        footnote=f"{note} {READING}",
    )


def heads_title(adds_up: bool) -> str:
    """Return what a picture of heads shows; adds_up: whether the relevance of all heads adds up to the map."""
    return "What each head adds to the map" if adds_up else "What relevance each head carries away"


def heads_label(signed: bool) -> str:
    """Return what the colours of heads mean; signed: whether maps have evidence against the target."""
    kind, largest = ("relevance against and for the class", "largest magnitude") if signed else ("relevance", "maximum")
    return f"{kind}, each block's heads scaled by their {largest}; all heads, and the whole map, each by its own"
