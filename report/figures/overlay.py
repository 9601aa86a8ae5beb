"""Heatmaps as colours over a photo: to [0, 1], to colours, blended with the pixels that the model saw.

Letters: H x W pixels.
"""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

# Perceptually uniform; the second for maps with evidence against the target.
DEFAULT_COLOUR_MAP = "inferno"
SIGNED_COLOUR_MAP = "RdBu_r"
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def normalise(heat: ArrayLike, shared: bool | int | tuple[int, ...] = False, signed: bool = False) -> np.ndarray:
    """Scale heatmaps to [0, 1], each by its own range or by one shared over other axes.

    heat: (..., H, W), floating point; other numbers are taken as float64.
    shared: False scales each heatmap by its own maximum; True scales all by one; an axis or several (1 for targets of
        (B, K, H, W)) scale by one maximum over these.
    signed: False maps 0 to 0, the maximum to 1 and negative values to 0; True maps 0 to 0.5 and the largest magnitude
        to 0 or 1, for a diverging colour map.

    Returns an array of the shape and type of `heat`. A heatmap without anything to show becomes 0 (0.5 if signed).
    """
    given = np.asarray(heat)
    given = given if np.issubdtype(given.dtype, np.floating) else given.astype(np.float64)
    values = given if signed else np.maximum(given, 0)
    largest = np.abs(values).max(axis=_normalised_axes(values.ndim, shared), keepdims=True)
    scaled = np.where(largest > 0, values / np.where(largest > 0, largest, 1), 0)
    return (scaled + 1) / 2 if signed else scaled


def _normalised_axes(dimensions: int, shared: bool | int | tuple[int, ...]) -> tuple[int, ...]:
    if shared is True:
        return tuple(range(dimensions))
    extra = () if shared is False else (shared,) if isinstance(shared, int) else tuple(shared)
    return tuple({axis % dimensions for axis in (*extra, -2, -1)})


def colour(heat: np.ndarray, colour_map: str = DEFAULT_COLOUR_MAP) -> np.ndarray:
    """Return the colours (H, W, 3), float in [0, 1], of heat (H, W) in [0, 1].

    colour_map: matplotlib's name.
    """
    return matplotlib.colormaps[colour_map](np.clip(heat, 0, 1))[..., :3]


def overlay(
    image: Any, heat: ArrayLike, colour_map: str = DEFAULT_COLOUR_MAP, alpha: float = 0.55, grey: bool = False
) -> np.ndarray:
    """Blend a heatmap over the pixels that the model saw.

    image: (H, W, 3), uint8 or float in [0, 1], array or PIL image.
    heat: (H, W) in [0, 1].
    colour_map: matplotlib's name.
    alpha: the heatmap's share, 0 to 1.
    grey: take the colours out of the image first, as under a diverging colour map a photo's own red and blue would
        pass for evidence.

    Returns uint8 (H, W, 3).
    Raises ValueError when shapes do not agree or alpha is out of range.
    """
    pixels, heat = _to_float(image), np.asarray(heat)
    if pixels.shape != (*heat.shape, 3):
        raise ValueError(
            f"image has shape {pixels.shape}, heat {heat.shape}; expected (H, W, 3) and (H, W). "
            "Resize maps with to_heatmap(maps, (H, W))."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; expected 0 to 1.")
    if grey:
        pixels = (pixels @ LUMA)[..., None]
    blended = (1 - alpha) * pixels + alpha * colour(heat, colour_map)
    return np.round(np.clip(blended, 0, 1) * 255).astype(np.uint8)


def _to_float(image: Any) -> np.ndarray:
    """Return an image's values as floats in [0, 1]."""
    if isinstance(image, Image.Image):
        image = image.convert("RGB")
    image = np.asarray(image)
    return image / 255 if image.dtype == np.uint8 else image.astype(np.float64)
