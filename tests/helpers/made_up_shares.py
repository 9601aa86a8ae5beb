"""Made-up shares of relevance by block and head, for tests of their statistics and of their figures."""

import numpy as np


def some_shares(layers: int = 3, heads: int = 2, images: int = 6, seed: int = 0) -> np.ndarray:
    """Return shares (N, 2, L, h) that sum to 1 over layers and heads."""
    parts = np.random.default_rng(seed).gamma(0.5, 1, (images, 2, layers, heads))
    return parts / parts.sum((-2, -1), keepdims=True)


def some_means(layers: int = 3, heads: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return their means by block (2, L, 3) and by head (2, L, h, 3), each with a made-up interval, which is quick."""
    shares = some_shares(layers, heads, seed=seed).mean(0)
    by_block, by_head = (np.stack([mean, 0.8 * mean, 1.3 * mean], axis=-1) for mean in (shares.sum(-1), shares))
    return by_block, by_head


def names(layers: int) -> list[str]:
    """Return the names of blocks."""
    return [str(i) for i in range(layers)]
