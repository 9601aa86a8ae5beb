"""The grid pointing game: does the relevance of a class lie on that class's cell of a mosaic? Needs no masks.

Mosaics share no image, so that the mean over a mosaic's cells (`mosaic_share`) is one independent value per mosaic: the
unit of intervals and tests.

Shapes: N images, M mosaics of n x n cells, counted row by row, H x W pixels, gh x gw patches.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.metrics.localisation import mass


def make_mosaics(
    images: Tensor, labels, *, count: int | None = None, n: int = 2, seed: int = 0, among=None
) -> tuple[Tensor, Tensor, Tensor]:
    """Put n x n images of distinct classes together, each scaled down to a cell; no image is used twice.

    A mosaic has the size of an image, so that a model takes it with its position embeddings as they are. Where n does
    not divide a side, cells differ by one pixel. Each mosaic takes the classes with the most unused images, ties at
    random, which gives as many mosaics as possible; cells and images are drawn at random.

    images: (N, 3, H, W) float, normalised or not.
    labels: (N,) integers.
    count: the most mosaics to make, 1 or more; None: as many as there are. The first mosaics do not depend on it.
    n: cells along a side, 2 or more.
    seed: fixes what is drawn.
    among: (P,) indices of the images to use; None: all. The paper uses images that the model classifies correctly and
        confidently. Between compared models the images must be the same, such as those that every model gets right.
    Returns mosaics (M, 3, H, W), images' dtype and device; targets (M, n * n) int64, the class in each cell, all of
        them to be explained; which (M, n * n) int64, the index of the image in each cell. M is at most P // (n * n).
    Raises ValueError for shapes that do not fit and for fewer than n * n classes.
    Source: Boehle, Fritz, Schiele, CVPR 2021 (3 x 3 cells, mosaics n times the size of an image; here they have the
        size of an image, as position embeddings need).
    """
    classes, used = _check(images, labels, n, count, among)
    drawn = _draw(classes, used, n * n, len(used) if count is None else count, np.random.default_rng(seed))
    targets = torch.from_numpy(classes[drawn]).to(images.device)
    which = torch.from_numpy(drawn).to(images.device)
    mosaics = images.new_empty(len(drawn), *images.shape[1:])
    rows, columns = (_borders(side, n) for side in images.shape[-2:])
    for cell in range(n * n):
        (top, bottom), (left, right) = (edges[i : i + 2] for edges, i in ((rows, cell // n), (columns, cell % n)))
        mosaics[:, :, top:bottom, left:right] = F.interpolate(
            images[which[:, cell]], size=(bottom - top, right - left), mode="bilinear", antialias=True
        )
    return mosaics, targets, which


def _draw(labels: np.ndarray, among: np.ndarray, cells: int, count: int, draw: np.random.Generator) -> np.ndarray:
    """Return indices (at most count, cells) of images, none twice, whose classes are distinct within each row."""
    unused = {label: draw.permutation(among[labels[among] == label]).tolist() for label in np.unique(labels[among])}
    rows: list[list[int]] = []
    while len(rows) < count:
        fullest = sorted(draw.permutation(list(unused)), key=lambda label: -len(unused[label]))[:cells]
        if not unused[fullest[-1]]:
            break
        rows.append([unused[label].pop() for label in draw.permutation(fullest)])
    return np.array(rows, dtype=np.int64)


def _borders(side: int, n: int) -> list[int]:
    return [round(i * side / n) for i in range(n + 1)]


def cell_share(maps, n: int = 2) -> np.ndarray:
    """Compute the share of each target's positive relevance that lies in its own cell.

    maps: (M, n * n, gh, gw), array or tensor, of the targets of `make_mosaics`: target k in cell k. Patches across a
        border count by the part of their area in the cell.
    n: cells along a side.
    Returns (M, n * n) float64 from 0 to 1; higher is better; chance 1 / n^2, the value of an even map. NaN where
        nothing is positive (the paper's code has 0).
    Raises ValueError where maps have another number of targets than cells.
    Source: Boehle, Fritz, Schiele, CVPR 2021, localisation metric.
    """
    if len(maps.shape) != 4 or maps.shape[1] != n * n:
        raise ValueError(
            f"maps have shape {tuple(maps.shape)}; expected (M, {n * n}, gh, gw), one target for "
            f"each of {n} x {n} cells."
        )
    rows, columns = (_overlap(patches, n) for patches in maps.shape[-2:])
    return mass(maps, np.einsum("ap,bq->abpq", rows, columns).reshape(n * n, *maps.shape[-2:]))


def mosaic_share(maps, n: int = 2) -> np.ndarray:
    """Average `cell_share` over the cells of each mosaic; cells without positive relevance are left out.

    maps: as for `cell_share`.
    n: cells along a side.
    Returns (M,) float64, one independent value per mosaic; NaN where no cell has a value.
    """
    shares = cell_share(maps, n)
    with np.errstate(invalid="ignore"):
        return np.nansum(shares, 1) / np.isfinite(shares).sum(1)


def _overlap(patches: int, n: int) -> np.ndarray:
    """Return the part of each patch that lies in each of n equal cells along one side, (n, patches)."""
    starts, ends = np.arange(n)[:, None] * patches / n, (np.arange(n)[:, None] + 1) * patches / n
    patch = np.arange(patches)
    return (np.minimum(ends, patch + 1) - np.maximum(starts, patch)).clip(min=0)


def _check(images: Tensor, labels, n: int, count: int | None, among) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) and the indices (P,) of the images to use, both int64."""
    labels = np.asarray(torch.as_tensor(labels).cpu(), dtype=np.int64)
    among = np.arange(len(images)) if among is None else np.asarray(torch.as_tensor(among).cpu(), dtype=np.int64)
    if images.dim() != 4 or labels.shape != (len(images),) or among.ndim != 1:
        raise ValueError(
            f"images {tuple(images.shape)}, labels {labels.shape} and among {among.shape} do not fit; "
            "expected (N, 3, H, W), (N,) and (P,)."
        )
    if not 2 <= n <= min(images.shape[-2:]) or (count is not None and count < 1):
        raise ValueError(
            f"{count} mosaics of {n} x {n} cells; expected 1 or more, of 2 x 2 or more, each cell a pixel or more."
        )
    if len(among) and not 0 <= among.min() <= among.max() < len(images):
        raise ValueError(f"among goes from {among.min()} to {among.max()}; the images are 0 to {len(images) - 1}.")
    if len(np.unique(among)) < len(among):
        raise ValueError(f"among names an image twice: {len(among)} indices, {len(np.unique(among))} different ones.")
    classes = len(np.unique(labels[among]))
    if classes < n * n:
        raise ValueError(
            f"{classes} classes among {len(among)} images; a mosaic of {n} x {n} needs {n * n}. "
            "Take a smaller n, or more images."
        )
    return labels, among
