"""Maps of any number of images: computed and written batch by batch, so that memory grows with the batch alone."""

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
    """Write the maps of `count` images N, which come in batches, to a .npy file; return it, opened for reading.

    batches: of images (B, 3, H, W) and targets (B, K) int64, on any device, as a DataLoader yields them; each is
        moved to the model's own and forgotten when the next is asked for. All images have one size and K.
    method, options: as for `relevance`, but for options that return more than maps (layers, gap).
    Returns (N, K, grid_h, grid_w) in the images' dtype, not in memory but read as it is needed.

    Raises what `relevance` and `save_chunks` do. Whatever is raised meanwhile, `path` is left as it was.
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
    """Write arrays (n, ...), of `count` rows together, one after the other to a .npy file; return it, opened for
    reading.

    The first chunk's dtype and further axes are the file's. The file appears under its name when it is whole.
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
