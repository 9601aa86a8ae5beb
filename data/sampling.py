"""Stratified sampling of images."""

from collections import Counter

import numpy as np


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose `count` images at random so that the classes keep their proportions; return their indices, ascending.

    With the same seed, a smaller choice is part of a larger one: images are ranked within their class in random order,
    and taken by rank relative to the size of the class.

    labels: class indices, (N,) int64.
    count: number of images; more than N returns all.
    seed: of the random order.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    size = Counter(labels.tolist())
    seen: Counter = Counter()
    position = np.empty(len(labels))
    for index in order:
        label = int(labels[index])
        position[index] = (seen[label] + 0.5) / size[label]  # in (0, 1): the fraction of its class before it
        seen[label] += 1
    tie_break = generator.permutation(len(labels))
    return np.sort(np.lexsort((tie_break, position))[:count])
