"""What figures read of objects that are computed elsewhere, as protocols: any object with these attributes will do.

Figures that need few numbers define a small dataclass beside themselves instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class LayerShares(Protocol):
    """A run's mean shares of relevance by block and head, or the mean differences between two runs.

    Letters: K targets, L layers, h heads. The last axis of the arrays is [mean, low, high], fractions.
    """

    @property
    def label(self) -> str:
        """The run's name."""

    @property
    def blocks(self) -> Sequence[str]:
        """L names."""

    @property
    def by_block(self) -> np.ndarray:
        """(K, L, 3)."""

    @property
    def by_head(self) -> np.ndarray:
        """(K, L, h, 3)."""
