"""Localisation of relevance, where a mask of the evidence is known: mass, rank accuracy, pointing game.

Maps are arrays or tensors (..., gh, gw) of gh x gw patches, heatmaps and masks (..., H, W) pixels; leading dimensions
broadcast. Computed in NumPy float64. The grid pointing game, which needs no masks, stands in grid_pointing_game.py.
"""

import numpy as np

from evaluation.metrics.arrays import aligned_flat, positive_distribution, to_array


def patch_coverage(masks, grid: tuple[int, int]) -> np.ndarray:
    """Compute the share of each patch's pixels inside a mask.

    masks: (..., H, W) bool.
    grid: (gh, gw), the patches along both sides.
    Returns (..., gh, gw) from 0 to 1.
    Raises ValueError where H and W are not multiples of the grid.
    """
    masks = to_array(masks)
    height, width = masks.shape[-2:]
    if height % grid[0] or width % grid[1]:
        raise ValueError(f"masks are {height} x {width} pixels; expected multiples of the grid {grid[0]} x {grid[1]}.")
    patches = masks.reshape(*masks.shape[:-2], grid[0], height // grid[0], grid[1], width // grid[1])
    return patches.mean((-3, -1))


def mass(maps, coverage) -> np.ndarray:
    """Compute the share of a map's positive relevance on a mask.

    maps: (..., gh, gw).
    coverage: (..., gh, gw) from 0 to 1, each patch's share of pixels inside the mask (see `patch_coverage`).
    Returns (...) from 0 to 1; higher is more on the mask. Chance, the value of an even map, is the mean of coverage:
        the mask's share of the area. NaN where nothing is positive.
    Source: relevance mass accuracy, Arras et al. (CLEVR-XAI), Information Fusion 2022.
    """
    share, coverage = np.broadcast_arrays(positive_distribution(maps), to_array(coverage))
    return (share * coverage).sum((-2, -1))


def rank_accuracy(heatmap, mask) -> np.ndarray:
    """Take as many of the most relevant pixels as a mask has, and compute the share of them inside it.

    heatmap: (..., H, W). Pixels that tie at the border count in proportion, so a constant heatmap scores chance.
    mask: (..., H, W) bool.
    Returns (...) from 0 to 1; higher is better; chance is the mask's share of the area. NaN where the mask is empty.
    Raises ValueError where the last two axes differ.
    Source: relevance rank accuracy, Arras et al. (CLEVR-XAI), Information Fusion 2022.
    """
    heat, inside = aligned_flat(heatmap, mask)
    scores = [
        _rank_accuracy(one, where > 0.5)
        for one, where in zip(heat.reshape(-1, heat.shape[-1]), inside.reshape(-1, inside.shape[-1]))
    ]
    return np.array(scores).reshape(heat.shape[:-1])


def _rank_accuracy(heat: np.ndarray, inside: np.ndarray) -> float:
    count = int(inside.sum())
    if not count:
        return float("nan")
    border = np.partition(heat, len(heat) - count)[len(heat) - count]
    above, tied = heat > border, heat == border
    places = count - above.sum()
    return float((inside[above].sum() + places * inside[tied].mean()) / count)


def pointing_game(heatmap, mask) -> np.ndarray:
    """Tell whether the most relevant pixel lies inside a mask.

    The paper also counts a hit up to 15 pixels beside the mask: dilate the mask for that.

    heatmap: (..., H, W).
    mask: (..., H, W) bool.
    Returns (...): 1 a hit, 0 a miss; where several pixels share the maximum, the share of them inside, so a constant
        heatmap scores chance. The mean over images is the game's accuracy; higher is better; chance is the mask's share
        of the area. NaN where the mask is empty.
    Raises ValueError where the last two axes differ.
    Source: Zhang et al., Top-down neural attention by excitation backprop, IJCV 2018.
    """
    heat, masked = aligned_flat(heatmap, mask)
    inside, highest = masked > 0.5, heat == heat.max(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        hits = (highest & inside).sum(-1) / highest.sum(-1)
    return np.where(inside.any(-1), hits, np.nan)
