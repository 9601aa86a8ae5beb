"""Maps to numbers: similarity, noise, localisation, repeatability.

All but `repeatability` take arrays or tensors and compute in numpy float64. Leading dimensions
are batch dimensions and broadcast. gh x gw patches, H x W pixels, B images, K targets.
"""

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from .methods import generator_for


def _array(values) -> np.ndarray:
    if torch.is_tensor(values):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _pair(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Both as (..., values), after a check that the last two axes agree."""
    a, b = _array(a), _array(b)
    if a.shape[-2:] != b.shape[-2:]:
        raise ValueError(f"the maps' last two axes are {a.shape[-2:]} and {b.shape[-2:]}; expected equal.")
    a, b = np.broadcast_arrays(a, b)
    return a.reshape(*a.shape[:-2], -1), b.reshape(*b.shape[:-2], -1)


# ---- similarity of two maps

def spearman(a, b) -> np.ndarray:
    """Rank correlation of maps (..., gh, gw), ties by mean ranks. Returns (...).

    -1 to 1; 1 the same order of patches; chance 0. nan where a map is constant. Between the maps
    of two classes lower is more class-specific. Source: Spearman 1904; Adebayo et al., NeurIPS 2018.
    """
    a, b = (stats.rankdata(one, axis=-1) for one in _pair(a, b))
    return _cosine(a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True))


def cosine(a, b) -> np.ndarray:
    """Cosine of maps (..., gh, gw). Returns (...).

    -1 to 1, 0 to 1 for maps without negative parts; 1 the same up to scale. nan where a map is
    constant, zero or not: it names no patch. No fixed chance level: two unrelated non-negative
    maps reach about 0.75 if uniform in [0, 1).
    """
    a, b = _pair(a, b)
    similarity = _cosine(a, b)
    constant = (np.ptp(a, axis=-1) == 0) | (np.ptp(b, axis=-1) == 0)
    return np.where(constant, np.nan, similarity)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Over the last axis; scaled first, as squares of tiny maps would underflow."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (one / np.abs(one).max(-1, keepdims=True) for one in (a, b))
        return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


# ---- noise of one map

def _distribution(maps) -> np.ndarray:
    """Positive parts of maps (..., gh, gw), divided by their sum; nan where there are none."""
    positive = _array(maps).clip(min=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        positive = positive / positive.max((-2, -1), keepdims=True)
        return positive / positive.sum((-2, -1), keepdims=True)


def entropy(maps) -> np.ndarray:
    """Entropy of the positive part as a distribution over N patches, over log N. Returns (...).

    0 all on one patch, 1 spread evenly; lower is more concentrated, which need not be better.
    A uniform random map reaches about 0.96 at N = 196. nan where nothing is positive, or N = 1.
    """
    share = _distribution(maps)
    count = share.shape[-1] * share.shape[-2]
    if count == 1:
        return np.full(share.shape[:-2], np.nan)
    logarithm = np.log(np.where(share > 0, share, 1))
    # Adding 0 turns the -0 of a map with one patch into 0.
    return -(share * logarithm).sum((-2, -1)) / np.log(count) + 0.0


# ---- localisation, where masks are known

def patch_coverage(masks, grid: tuple[int, int]) -> np.ndarray:
    """Share of each patch's pixels inside the mask: (..., H, W) bool -> (..., gh, gw) in [0, 1].

    Raises ValueError where H and W are no multiples of the grid.
    """
    masks = _array(masks)
    height, width = masks.shape[-2:]
    if height % grid[0] or width % grid[1]:
        raise ValueError(f"masks are {height} x {width} pixels; expected multiples of the grid "
                         f"{grid[0]} x {grid[1]}.")
    patches = masks.reshape(*masks.shape[:-2], grid[0], height // grid[0], grid[1], width // grid[1])
    return patches.mean((-3, -1))


def mass(maps, coverage) -> np.ndarray:
    """Share of a map's positive relevance on the mask, patches weighted by coverage. Returns (...).

    maps and coverage (..., gh, gw). 0 to 1; higher is more on the mask. Chance, for an even map,
    is coverage's mean: the mask's share of the area. nan where nothing is positive.
    Source: relevance mass accuracy, Arras et al. (CLEVR-XAI), Information Fusion 2022.
    """
    share, coverage = np.broadcast_arrays(_distribution(maps), _array(coverage))
    return (share * coverage).sum((-2, -1))


def rank_accuracy(heatmap, mask) -> np.ndarray:
    """Of as many of the most relevant pixels as the mask has, the share inside it. Returns (...).

    heatmap (..., H, W); mask (..., H, W) bool. 0 to 1, higher is better; chance is the mask's
    share of the area. Pixels that tie at the border count in proportion, so a constant heatmap
    scores chance. nan where the mask is empty.
    Source: relevance rank accuracy, Arras et al. (CLEVR-XAI), Information Fusion 2022.
    """
    heat, inside = _pair(heatmap, mask)
    scores = [_rank_accuracy(one, where > 0.5) for one, where in
              zip(heat.reshape(-1, heat.shape[-1]), inside.reshape(-1, inside.shape[-1]))]
    return np.array(scores).reshape(heat.shape[:-1])


def _rank_accuracy(heat: np.ndarray, inside: np.ndarray) -> float:
    count = int(inside.sum())
    if not count:
        return float("nan")
    border = np.partition(heat, len(heat) - count)[len(heat) - count]
    above, tied = heat > border, heat == border
    places = count - above.sum()
    return float((inside[above].sum() + places * inside[tied].mean()) / count)


# ---- repeatability

def repeatability(model: nn.Module, images: Tensor, targets: Tensor, method: str,
                  noise: float = 1e-3, seed: int = 0, maps: Tensor | None = None, **options) -> Tensor:
    """Relative change of each map when invisible noise is added to the image. Returns (B, K).

    |map(x + e) - map(x)| / |map(x)| in L2, e drawn from N(0, noise^2) in units of the normalised
    image, fixed by (seed, the image's own pixels). images (B, 3, H, W), targets (B, K).
    maps: the images' own maps (B, K, gh, gw) of this method and these options, where they are known
        already; they are not computed again then.
    0 and up; lower is better; a study of small differences needs it far below them. nan where a
    map is 0.
    """
    from . import relevance  # the package imports this module
    drawn = [torch.randn(image.shape, generator=generator_for(image, seed), dtype=torch.float64)
             for image in images]
    noisy = images + noise * torch.stack(drawn).to(images.dtype).to(images.device)
    before = (relevance(model, images, targets, method, **options) if maps is None else maps).flatten(2)
    after = relevance(model, noisy, targets, method, **options).flatten(2)
    return (after - before).norm(dim=-1) / before.norm(dim=-1)
