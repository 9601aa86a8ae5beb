"""Compute the maps of any number of images batch by batch, and write them to a file as they are computed."""

import os
from collections.abc import Iterable

import numpy as np
from numpy.lib.format import open_memmap
from torch import Tensor

from common.files import atomic
from explain.compute import relevance
from explain.registry import DEFAULT_METHOD, refuse_more_than_maps
from explain.support import check_explainable
from explain.types import TimmModule


def save_relevance(
    path: str | os.PathLike,
    model: TimmModule,
    batches: Iterable[tuple[Tensor, Tensor]],
    count: int,
    method: str = DEFAULT_METHOD,
    **options,
) -> np.memmap:
    """Write the maps of images that come in batches to a .npy file.

    path: the file. It appears, or is replaced, when it is complete.
    model: as for `relevance`.
    batches: of images (B, 3, H, W) and targets (B, K) int64, on any device, as a DataLoader yields them. A batch is
        moved to the model's device and dropped when the next is asked for. All images have one size and one K.
    count: the number of images N.
    method, options: as for `relevance`, except the options that return more than maps (layers, gap).

    Returns (N, K, grid_h, grid_w) in the images' dtype, memory-mapped: read from the file where it is accessed.
    Raises what `relevance` and `save_chunks` do; `path` is then left as it was.
    """
    refuse_more_than_maps(options)
    check_explainable(model)
    device = model.head.weight.device

    def explain(images: Tensor, targets: Tensor) -> np.ndarray:
        maps = relevance(model, images.to(device), targets.to(device), method, **options)
        assert isinstance(maps, Tensor)  # no option that returns more is left
        return maps.cpu().numpy()

    return save_chunks(path, (explain(*batch) for batch in batches), count)


def save_chunks(path: str | os.PathLike, chunks: Iterable[np.ndarray], count: int) -> np.memmap:
    """Write arrays one after the other to a .npy file.

    path: the file. It appears, or is replaced, when it is complete.
    chunks: (n, ...); the first one's dtype and further axes are the file's.
    count: their number of rows in total.

    Returns (count, ...), memory-mapped for reading.
    Raises ValueError for another number of rows or other axes, OSError as the file system does.
    """
    with atomic(path) as temporary:
        whole, written = None, 0
        for chunk in chunks:
            if whole is None:
                whole = open_memmap(temporary, mode="w+", dtype=chunk.dtype, shape=(count, *chunk.shape[1:]))
            if chunk.shape[1:] != whole.shape[1:]:
                raise ValueError(
                    f"a chunk has rows of shape {chunk.shape[1:]}; expected {whole.shape[1:]}, as the first."
                )
            if written + len(chunk) > count:
                raise ValueError(f"there are more than the {count} rows announced; give their number as count.")
            whole[written : written + len(chunk)] = chunk
            written += len(chunk)
        if whole is None or written < count:
            raise ValueError(f"there are {written} rows of {count} announced; give their number, 1 or more, as count.")
        whole.flush()
    return open_memmap(path, mode="r")
