"""Maps to numbers: similarity, noise, localisation, repeatability.

All but `repeatability` take arrays or tensors and compute in numpy float64. Leading dimensions
are batch dimensions and broadcast. gh x gw patches, H x W pixels, B images, K targets.
"""

import numpy as np
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from explain import refuse_more_than_maps, relevance
from explain.methods import generator_for


def _array(values) -> np.ndarray:
    if torch.is_tensor(values):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _flat(values: np.ndarray) -> np.ndarray:
    """(..., gh, gw) to (..., values)."""
    return values.reshape(*values.shape[:-2], -1)


def _aligned(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays of one shape, after a check that the last two axes agree."""
    a, b = _array(a), _array(b)
    if a.shape[-2:] != b.shape[-2:]:
        raise ValueError(f"the maps' last two axes are {a.shape[-2:]} and {b.shape[-2:]}; expected equal.")
    return tuple(np.broadcast_arrays(a, b))


def _pair(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Both as (..., values), after a check that the last two axes agree."""
    a, b = _aligned(a, b)
    return _flat(a), _flat(b)


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

    -1 to 1, 0 to 1 for maps without negative parts; 1 the same up to scale; between the maps of two
    classes lower is more class-specific. nan where a map is
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


def ssim(a, b) -> np.ndarray:
    """Structural similarity of maps (..., gh, gw), each stretched to [0, 1] by its own range. Returns (...).

    -1 to 1; 1 the same map up to a positive factor and an added constant; between the maps of two
    classes lower is more class-specific; chance 0, about: two maps of uniform noise reach 0.005 at
    14 x 14. nan where a map is constant.
    Windows are Gaussian, sigma 1.5 and 11 x 11 patches, constants 0.01 and 0.03 of the data range
    1, mirrored at the border: cutting it off, as is usual, would leave 4 x 4 of 14 x 14 patches.
    Source: Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004; between maps: Adebayo et al., NeurIPS 2018.
    """
    a, b = (_stretched(one) for one in _aligned(a, b))
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variances = _window_mean(a * a) - mean_a**2 + _window_mean(b * b) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    low, contrast = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + low) / (mean_a**2 + mean_b**2 + low)
    return (luminance * (2 * covariance + contrast) / (variances + contrast)).mean((-2, -1))


def _stretched(maps: np.ndarray) -> np.ndarray:
    """Each map's own range to [0, 1]; scaled first, as the range of huge values would overflow. nan if constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        maps = maps / np.abs(maps).max((-2, -1), keepdims=True)
        lowest, highest = maps.min((-2, -1), keepdims=True), maps.max((-2, -1), keepdims=True)
        return (maps - lowest) / (highest - lowest)


def _window_mean(maps: np.ndarray) -> np.ndarray:
    return gaussian_filter(maps, sigma=1.5, radius=5, axes=(-2, -1))


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


def histogram_entropy(maps, bins: int = 100) -> np.ndarray:
    """Entropy, in nats, of the values of maps (..., gh, gw) in equal bins from lowest to highest. Returns (...).

    0 all values alike to log(min(bins, patches)); higher is more complex. Unlike `entropy` it asks
    how many different values there are, not where the relevance lies. A map of uniform random
    numbers reaches about 4.3 at 14 x 14 patches and 100 bins. nan where a value is not finite.
    Source: Hedstroem et al., XAI in Action, NeurIPS workshops 2023 (discrete entropy; 100 bins).
    """
    maps = _array(maps)
    with np.errstate(invalid="ignore", over="ignore"):
        constant = np.ptp(maps, axis=(-2, -1), keepdims=True) == 0
    # Stretched, as numpy finds no bins between values that lie too near each other.
    stretched = _flat(np.where(constant, 0, _stretched(maps)))
    found = [
        stats.entropy(np.histogram(one, bins, (0, 1))[0]) if np.isfinite(one).all() else np.nan
        for one in stretched.reshape(-1, stretched.shape[-1])
    ]
    return np.array(found).reshape(stretched.shape[:-1])


def gini(maps) -> np.ndarray:
    """Gini index of the magnitudes of maps (..., gh, gw). Returns (...).

    0 an even map to 1 - 1/N all on one of N patches; higher is sparser, which need not be better.
    Uniform random numbers reach 1/3. Evidence against the target counts as evidence for it does.
    nan where a map is 0. Source: Hurley and Rickard, IEEE Transactions on Information Theory 2009.
    """
    values = np.abs(_flat(_array(maps)))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = values / values.max(-1, keepdims=True)
        return _pairwise_sum(values) / (values.shape[-1] * values.sum(-1))


def _pairwise_sum(values: np.ndarray) -> np.ndarray:
    """Sum over pairs i < j of |x_i - x_j| along the last axis."""
    count = values.shape[-1]
    return (np.sort(values, axis=-1) * (2 * np.arange(count) + 1 - count)).sum(-1)


def total_variation(maps) -> np.ndarray:
    """How much neighbouring patches differ, over how much any two patches of the map do. Returns (...).

    maps (..., gh, gw). The mean over horizontal and vertical neighbours (anisotropic total
    variation) of |difference|, divided by the mean over all pairs of patches. That is what the
    numerator would be, on average, with the patches shuffled, so chance is 1 for whatever values a
    map has, and neither a factor nor an added constant matters. About 0 a smooth map, about 2 a
    chequerboard; lower is smoother. One patch alone has about 1: it has no neighbour to be smooth with.
    nan where a map is constant. Source: total variation, Rudin, Osher, Fatemi, Physica D 1992.
    """
    maps = _array(maps)
    height, width = maps.shape[-2:]
    count, neighbours = height * width, height * (width - 1) + width * (height - 1)
    scale = np.abs(maps).max((-2, -1), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        maps = maps / scale
        steps = sum(np.abs(np.diff(maps, axis=axis)).sum((-2, -1)) for axis in (-2, -1)) / neighbours
        anywhere = _pairwise_sum(_flat(maps)) / (count * (count - 1) / 2)
        return np.where(np.ptp(_flat(maps), axis=-1) == 0, np.nan, steps / anywhere)


def mass_outside_top(maps, share: float = 0.2) -> np.ndarray:
    """Share of the positive relevance outside the most relevant `share` of the patches. Returns (...).

    maps (..., gh, gw). 0 all within the top to 1 - share for an even map; lower is more
    concentrated, which need not be better. Uniform random numbers reach (1 - share)^2, 0.64 by
    default. A patch at the border of the top counts in part. nan where nothing is positive.
    Raises ValueError unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; expected a number between 0 and 1.")
    ordered = np.sort(_flat(_distribution(maps)), axis=-1)[..., ::-1]
    count = ordered.shape[-1]
    outside = 1 - np.clip(share * count - np.arange(count), 0, 1)
    return (ordered * outside).sum(-1)


# ---- localisation, where masks are known


def patch_coverage(masks, grid: tuple[int, int]) -> np.ndarray:
    """Share of each patch's pixels inside the mask: (..., H, W) bool -> (..., gh, gw) in [0, 1].

    Raises ValueError where H and W are no multiples of the grid.
    """
    masks = _array(masks)
    height, width = masks.shape[-2:]
    if height % grid[0] or width % grid[1]:
        raise ValueError(f"masks are {height} x {width} pixels; expected multiples of the grid {grid[0]} x {grid[1]}.")
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
    """Whether the most relevant pixel lies inside the mask. Returns (...).

    heatmap (..., H, W); mask (..., H, W) bool. 1 a hit, 0 a miss; the mean over images is the
    game's accuracy, higher is better; chance is the mask's share of the area. Where several pixels
    share the maximum, the share of them inside, so a constant heatmap scores chance. nan where the
    mask is empty. The paper also counts a hit up to 15 pixels beside the mask: for that, dilate it.
    Source: Zhang et al., Top-down neural attention by excitation backprop, IJCV 2018.
    """
    heat, inside = _pair(heatmap, mask)
    inside, highest = inside > 0.5, heat == heat.max(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        hits = (highest & inside).sum(-1) / highest.sum(-1)
    return np.where(inside.any(-1), hits, np.nan)


# ---- repeatability


def repeatability(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str,
    noise: float = 1e-3,
    seed: int = 0,
    maps: Tensor | None = None,
    **options,
) -> Tensor:
    """Relative change of each map when invisible noise is added to the image. Returns (B, K).

    |map(x + e) - map(x)| / |map(x)| in L2, e drawn from N(0, noise^2) in units of the normalised
    image, fixed by (seed, the image's own pixels). images (B, 3, H, W), targets (B, K).
    maps: the images' own maps (B, K, gh, gw) of this method and these options, where they are known
        already; they are not computed again then.
    0 and up; lower is better; a study of small differences needs it far below them. A map without a
    fixed order, drawn anew, is at about 0.7 (uniform) to 1.4 (of mean 0). nan where a map is 0.
    """
    refuse_more_than_maps(options)
    drawn = [torch.randn(image.shape, generator=generator_for(image, seed), dtype=torch.float64) for image in images]
    noisy = images + noise * torch.stack(drawn).to(images.dtype).to(images.device)
    before = (relevance(model, images, targets, method, **options) if maps is None else maps).flatten(2)
    after = relevance(model, noisy, targets, method, **options).flatten(2)
    size = before.norm(dim=-1)
    return ((after - before).norm(dim=-1) / size).where(size > 0, torch.nan)
