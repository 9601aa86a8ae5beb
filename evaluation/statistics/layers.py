"""Shares of relevance by block and head: means over images with intervals, and their rows for a table.

Letters: N images, K targets, L layers (blocks, and attention pooling where there is one), h heads.
A share is a head's part of the relevance of all heads of an image, in magnitudes; shares sum to 1 over blocks and
heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.statistics.paired import single

ALL = "all"  # in the column `head`: a whole block


@dataclass(frozen=True)
class LayerMeans:
    """A run's mean shares over images, each as [mean, low, high] of its 95 % interval (fractions, float64).

    label: the run's name.
    blocks: L names.
    by_block: (K, L, 3).
    by_head: (K, L, h, 3).
    images: N.
    """

    label: str
    blocks: tuple[str, ...]
    by_block: np.ndarray
    by_head: np.ndarray
    images: int


def layer_means(label: str, blocks: Sequence[str], shares: np.ndarray) -> LayerMeans:
    """Average shares, or their differences between two runs, over images, with `single`'s intervals.

    Images with NaN (no relevance at all) are dropped, as `single` does.

    label: the run's name.
    blocks: L names.
    shares: (N, K, L, h).

    Raises ValueError unless there is a name for each layer.
    """
    if shares.ndim != 4 or shares.shape[2] != len(blocks):
        raise ValueError(
            f"layer_means: shares have shape {shares.shape}, with {len(blocks)} names of blocks; expected "
            f"(images, targets, {len(blocks)}, heads)"
        )
    columns = np.concatenate([shares.sum(-1, keepdims=True), shares], axis=-1)
    found = [
        single(column)
        for column in tqdm(
            columns.reshape(len(shares), -1).T, desc=f"intervals {label}", delay=2, leave=False, disable=None
        )
    ]
    means = np.array([(one.mean, one.low, one.high) for one in found]).reshape(*columns.shape[1:], 3)
    return LayerMeans(label, tuple(blocks), means[:, :, 0], means[:, :, 1:], len(shares))


def layer_rows(runs: Sequence[LayerMeans], targets: Sequence[str]) -> list[dict[str, Any]]:
    """Return rows for a CSV file, one per run, target, block and head.

    runs: the means of each run.
    targets: K names.

    Columns: run, target, block, head ("all": the whole block), images, share, low, high (fractions).
    """
    rows = []
    for run in runs:
        by_head = np.concatenate([run.by_block[:, :, None], run.by_head], axis=2)
        for (target, block, head), values in zip(np.ndindex(by_head.shape[:3]), by_head.reshape(-1, 3)):
            share, low, high = map(float, values)
            rows.append(
                {
                    "run": run.label,
                    "target": targets[target],
                    "block": run.blocks[block],
                    "head": head - 1 if head else ALL,
                    "images": run.images,
                    "share": share,
                    "low": low,
                    "high": high,
                }
            )
    return rows
