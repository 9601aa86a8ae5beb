"""Random choices of images that keep the proportions of the classes."""

from collections import Counter

import numpy as np


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose `count` indices so that classes keep their shares as nearly as whole images allow; sorted.

    Images are ranked within their class in random order and dealt class by class, so that a smaller choice
    is always part of a larger one of the same seed.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    size = Counter(labels.tolist())
    seen: Counter = Counter()
    position = np.empty(len(labels))
    for index in order:
        label = int(labels[index])
        position[index] = (seen[label] + 0.5) / size[label]  # in (0, 1): the share of its class dealt before it
        seen[label] += 1
    tie_break = generator.permutation(len(labels))
    return np.sort(np.lexsort((tie_break, position))[:count])
