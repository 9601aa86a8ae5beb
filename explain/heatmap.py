"""Maps per patch to heatmaps at image size. Colours: report/figures/overlay.py."""

from torch import Tensor
from torch.nn import functional as F


def to_heatmap(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample maps bilinearly (align_corners=False).

    Values stay within each map's own range; patch centres keep their place.

    maps: (B, K, grid_h, grid_w), B images, K targets.
    size: (H, W) in pixels.

    Returns (B, K, H, W).
    Raises ValueError for maps of another number of dimensions.
    """
    if maps.dim() != 4:
        raise ValueError(f"maps have shape {tuple(maps.shape)}; expected (B, K, grid_h, grid_w).")
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
