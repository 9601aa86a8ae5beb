"""Token maps to heatmaps: to pixels, to [0, 1], to colours over the photo.

Letters: B images, K targets, gh x gw patches, H x W pixels.
"""

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# Perceptually uniform; the second for maps with evidence against the target.
DEFAULT_COLOUR_MAP = "inferno"
SIGNED_COLOUR_MAP = "RdBu_r"
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def to_heatmap(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear upsampling (align_corners=False), (B, K, gh, gw) -> (B, K, H, W) for size (H, W).

    Values stay within each map's own range; patch centres keep their place.
    """
    if maps.dim() != 4:
        raise ValueError(f"maps have shape {tuple(maps.shape)}; expected (B, K, grid_h, grid_w).")
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def normalise(heat, shared: bool | int | tuple[int, ...] = False, signed: bool = False):
    """Heatmaps (..., H, W) to [0, 1], each by its own range or by one shared over other axes.

    heat: tensor or array. shared: False, each heatmap by its own maximum; True, all by one; an
        axis or several (1 for targets of (B, K, H, W)), one maximum over these.
    signed: False, 0 -> 0 and the maximum -> 1, negative values -> 0; True, 0 -> 0.5 and the
        largest magnitude -> 0 or 1, for a diverging colour map.
    A heatmap without anything to show becomes 0 (0.5 if signed). Returns what `heat` is.
    """
    if not torch.is_tensor(heat):
        return normalise(torch.as_tensor(np.asarray(heat, dtype=np.float64)), shared, signed).numpy()
    values = heat if signed else heat.clamp(min=0)
    largest = values.abs().amax(dim=_normalised_axes(heat.dim(), shared), keepdim=True)
    scaled = torch.where(largest > 0, values / torch.where(largest > 0, largest, 1), 0.0)
    return (scaled + 1) / 2 if signed else scaled


def _normalised_axes(dimensions: int, shared: bool | int | tuple[int, ...]) -> tuple[int, ...]:
    if shared is True:
        return tuple(range(dimensions))
    extra = () if shared is False else (shared,) if isinstance(shared, int) else tuple(shared)
    return tuple({axis % dimensions for axis in (*extra, -2, -1)})


def colour(heat: np.ndarray, colour_map: str = DEFAULT_COLOUR_MAP) -> np.ndarray:
    """Heat (H, W) in [0, 1] to colours (H, W, 3), float in [0, 1]."""
    return matplotlib.colormaps[colour_map](np.clip(heat, 0, 1))[..., :3]


def overlay(image, heat, colour_map: str = DEFAULT_COLOUR_MAP, alpha: float = 0.55, grey: bool = False) -> np.ndarray:
    """Blend a heatmap over the pixels that the model saw.

    image: (H, W, 3), uint8 or float in [0, 1], array or PIL image. heat: (H, W) in [0, 1], array
        or tensor. alpha: the heatmap's share, 0 to 1. grey: take the colours out of the image first,
        as under a diverging colour map a photo's own red and blue would pass for evidence.
    Returns uint8 (H, W, 3).
    """
    image = _to_float(image)
    heat = heat.detach().cpu().numpy() if torch.is_tensor(heat) else np.asarray(heat)
    if image.shape != (*heat.shape, 3):
        raise ValueError(
            f"image has shape {image.shape}, heat {heat.shape}; expected (H, W, 3) and (H, W). "
            "Resize maps with to_heatmap(maps, (H, W))."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; expected 0 to 1.")
    if grey:
        image = (image @ LUMA)[..., None]
    blended = (1 - alpha) * image + alpha * colour(heat, colour_map)
    return np.round(np.clip(blended, 0, 1) * 255).astype(np.uint8)


def _to_float(image) -> np.ndarray:
    if isinstance(image, Image.Image):
        image = image.convert("RGB")
    image = image.detach().cpu().numpy() if torch.is_tensor(image) else np.asarray(image)
    return image / 255 if image.dtype == np.uint8 else image.astype(np.float64)
