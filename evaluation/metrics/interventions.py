"""What a model relies on, known by changing it: the effect of an intervention, and the relevance where it was made.

FunnyBirds (Hesse, Schaub-Meyer, Roth, ICCV 2023) also draws images whose parts can be removed, and asks whether the
parts that a map marks are those whose removal matters. Here factors are exchanged as well as removed, context, light
and persons are among them, effects are compared as numbers, and the question is also asked of the *difference* between
two checkpoints (evaluation/statistics/agreement.py).

Letters: C classes, M changed images, gh x gw patches, H x W pixels.
"""

import numpy as np
import torch
from torch import Tensor

from evaluation.metrics.arrays import to_array
from evaluation.metrics.localisation import patch_coverage


def effects(before: Tensor, after: Tensor, target: int) -> tuple[float, float]:
    """Compute how much a factor speaks for a class: the model's output less its mean over images without the factor.

    before: (C,) logits of the image.
    after: (M, C) logits of the same image with the factor changed in M ways.
    target: the class.
    Returns the effect on the centred logit, which is the logit less the mean over classes, and on the log-probability.
        Above 0 the factor speaks for the class; 0 by chance.
    """
    every = torch.cat([before[None], after]).cpu().double()  # on the CPU: Apple's GPUs have no float64
    found = every[:, target] - every.mean(1), every.log_softmax(1)[:, target]
    logit, log_probability = (float(values[0] - values[1:].mean()) for values in found)
    return logit, log_probability


def relevance_on(maps, pixels) -> tuple[np.ndarray, np.ndarray]:
    """Sum a map over some pixels; the relevance of a patch counts in proportion to its pixels among them.

    maps: (..., gh, gw).
    pixels: (H, W) bool.
    Returns the sum, (...), in the map's own unit, and the sum over that of the map's magnitudes, from -1 to 1: 0 for a
        map that is 0 everywhere.
    """
    maps = to_array(maps)
    total = (maps * patch_coverage(pixels, maps.shape[-2:])).sum((-2, -1))
    magnitude = np.abs(maps).sum((-2, -1))
    return total, np.divide(total, magnitude, out=np.zeros_like(total), where=magnitude > 0)


def oracle_map(effects_of: np.ndarray, pixels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the map that spreads each factor's effect evenly over its pixels: what a map of patches can reach at most.

    effects_of: (F,) effect of each factor.
    pixels: (F, H, W) bool, where each factor is.
    grid: (gh, gw).
    Returns (gh, gw). Where factors overlap, or share a patch, their effects mix, so that even this map is not perfect.
    """
    coverage = patch_coverage(pixels, grid)
    area = coverage.sum((-2, -1), keepdims=True)
    return (effects_of[:, None, None] * np.divide(coverage, area, out=np.zeros_like(coverage), where=area > 0)).sum(0)
