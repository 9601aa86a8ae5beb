"""Complexity of one relevance map: entropy, Gini index, total variation, mass outside the top patches.

Maps are arrays or tensors (..., gh, gw) of gh x gw patches. Computed in NumPy float64. A simpler map is not a better
one by itself: these metrics describe maps, and none of them has a right direction.
"""

import numpy as np
from scipy import stats

from evaluation.metrics.arrays import flatten_grid, positive_distribution, stretch, to_array


def entropy(maps) -> np.ndarray:
    """Compute the entropy of the positive part as a distribution over N patches, divided by log N.

    maps: (..., gh, gw).
    Returns (...) from 0 (all on one patch) to 1 (spread evenly); uniform random numbers reach about 0.96 at N = 196.
        NaN where nothing is positive, or N = 1.
    """
    share = positive_distribution(maps)
    count = share.shape[-1] * share.shape[-2]
    if count == 1:
        return np.full(share.shape[:-2], np.nan)
    logarithm = np.log(np.where(share > 0, share, 1))
    # Adding 0 turns the -0 of a map with one patch into 0.
    return -(share * logarithm).sum((-2, -1)) / np.log(count) + 0.0


def histogram_entropy(maps, bins: int = 100) -> np.ndarray:
    """Compute the entropy, in nats, of a map's values in equal bins from its lowest to its highest value.

    Unlike `entropy` it asks how many different values there are, not where the relevance lies.

    maps: (..., gh, gw).
    bins: number of bins.
    Returns (...) from 0 (all values equal) to log(min(bins, patches)); uniform random numbers reach about 4.3 at
        14 x 14 patches and 100 bins. NaN where a value is not finite.
    Source: Hedstroem et al., XAI in Action, NeurIPS workshops 2023 (discrete entropy; 100 bins).
    """
    maps = to_array(maps)
    with np.errstate(invalid="ignore", over="ignore"):
        constant = np.ptp(maps, axis=(-2, -1), keepdims=True) == 0
    # Rescaled, as NumPy finds no bins between values that lie too near each other.
    stretched = flatten_grid(np.where(constant, 0, stretch(maps)))
    found = [
        stats.entropy(np.histogram(one, bins, (0, 1))[0]) if np.isfinite(one).all() else np.nan
        for one in stretched.reshape(-1, stretched.shape[-1])
    ]
    return np.array(found).reshape(stretched.shape[:-1])


def gini(maps) -> np.ndarray:
    """Compute the Gini index of the magnitudes of a map; evidence against the target counts as evidence for it does.

    maps: (..., gh, gw).
    Returns (...) from 0 (an even map) to 1 - 1/N (all on one of N patches), higher is sparser; uniform random numbers
        reach 1/3. NaN where a map is 0.
    Source: Hurley and Rickard, IEEE Transactions on Information Theory 2009.
    """
    values = np.abs(flatten_grid(to_array(maps)))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = values / values.max(-1, keepdims=True)
        return _pairwise_sum(values) / (values.shape[-1] * values.sum(-1))


def _pairwise_sum(values: np.ndarray) -> np.ndarray:
    """Sum |x_i - x_j| over pairs i < j along the last axis."""
    count = values.shape[-1]
    return (np.sort(values, axis=-1) * (2 * np.arange(count) + 1 - count)).sum(-1)


def total_variation(maps) -> np.ndarray:
    """Divide the mean difference of neighbouring patches by the mean difference of any two patches of the map.

    The numerator is the anisotropic total variation: the mean of |difference| over horizontal and vertical neighbours.
    The denominator is what the numerator would be, on average, with the patches shuffled. So chance is 1 for whatever
    values a map has, and neither a factor nor an added constant matters.

    maps: (..., gh, gw).
    Returns (...) from about 0 (a smooth map) to about 2 (a chequerboard). Lower is smoother; a map whose one patch
        stands out has about 1. NaN where a map is constant.
    Source: total variation, Rudin, Osher, Fatemi, Physica D 1992.
    """
    maps = to_array(maps)
    height, width = maps.shape[-2:]
    count, neighbours = height * width, height * (width - 1) + width * (height - 1)
    scale = np.abs(maps).max((-2, -1), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        maps = maps / scale
        steps = sum(np.abs(np.diff(maps, axis=axis)).sum((-2, -1)) for axis in (-2, -1)) / neighbours
        anywhere = _pairwise_sum(flatten_grid(maps)) / (count * (count - 1) / 2)
        return np.where(np.ptp(flatten_grid(maps), axis=-1) == 0, np.nan, steps / anywhere)


def mass_outside_top(maps, share: float = 0.2) -> np.ndarray:
    """Compute the share of the positive relevance outside the most relevant patches.

    maps: (..., gh, gw).
    share: how many of the patches are the most relevant ones, between 0 and 1. A patch at the border of the top counts
        in part.
    Returns (...) from 0 (all within the top) to 1 - share (an even map); lower is more concentrated. Uniform random
        numbers reach (1 - share)^2, 0.64 by default. NaN where nothing is positive.
    Raises ValueError unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; expected a number between 0 and 1.")
    ordered = np.sort(flatten_grid(positive_distribution(maps)), axis=-1)[..., ::-1]
    count = ordered.shape[-1]
    outside = 1 - np.clip(share * count - np.arange(count), 0, 1)
    return (ordered * outside).sum(-1)
