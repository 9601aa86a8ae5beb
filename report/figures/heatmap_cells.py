"""Heatmaps over photos as cells of a grid, and the colour bar that belongs to them."""

from __future__ import annotations

import numpy as np

from report.figures.grid import Cell, Scale
from report.figures.overlay import DEFAULT_COLOUR_MAP, SIGNED_COLOUR_MAP, overlay

ZERO_MAP = "\n(the map is 0)"  # below a heatmap that would pass for a dark picture


def colour_map_of(signed: bool, colour_map: str | None = None) -> str:
    """Return matplotlib's name of a heatmap's colours.

    signed: whether maps have evidence against the target.
    colour_map: the user's choice; None chooses by `signed`.
    """
    return colour_map or (SIGNED_COLOUR_MAP if signed else DEFAULT_COLOUR_MAP)


def colour_scale(signed: bool, colour_map: str | None, maximum: str) -> Scale:
    """Return the colour bar of heatmaps and the words beside it.

    signed, colour_map: as in `colour_map_of`.
    maximum: what heatmaps were scaled by, in words.
    """
    if signed:
        return Scale(
            colour_map_of(signed, colour_map),
            f"relevance against and for the class, each heatmap scaled by {maximum} (of magnitudes)",
            ("against", "for"),
        )
    return Scale(colour_map_of(signed, colour_map), f"relevance, each heatmap from 0 to {maximum}", ("0", "max"))


def heatmap_cell(
    pixels: np.ndarray,
    heat: np.ndarray,
    caption: str,
    signed: bool,
    colour_map: str | None = None,
    is_zero: bool = False,
    frame: str | None = None,
) -> Cell:
    """Return a heatmap over the photo as a cell; under a signed heatmap the photo is grey.

    pixels: (H, W, 3) uint8.
    heat: (H, W) in [0, 1].
    caption: below the heatmap.
    signed, colour_map: as in `colour_map_of`.
    is_zero: whether the map is zero everywhere, which the caption then says.
    frame: colour of a frame; None draws none.
    """
    picture = overlay(pixels, heat, colour_map_of(signed, colour_map), grey=signed)
    return Cell(picture, caption=caption + ZERO_MAP * is_zero, colour=frame)
