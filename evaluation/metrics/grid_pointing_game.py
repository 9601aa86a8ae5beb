"""The grid pointing game: does a class's relevance lie on that class's cell of a mosaic? Needs no masks.

Shapes: N images, M mosaics of n x n cells, counted row by row, H x W pixels, gh x gw patches.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.metrics.localisation import mass


def make_mosaics(
    images: Tensor, labels, *, count: int, n: int = 2, seed: int = 0, among=None
) -> tuple[Tensor, Tensor, Tensor]:
    """Put n x n images of distinct classes together, each scaled down to a cell; `count` times.

    images (N, 3, H, W) float, normalised or not; labels (N,) integers. A mosaic has the size of an
    image, so a model takes it as it is, positions and all. Where n does not divide a side, cells
    differ by one pixel.
    among: indices (P,) into images, the ones to use; all by default. The paper uses images that the
        model classifies confidently (and right). Between models compared they must be the same, for
        instance those that every model gets right.
    Classes are drawn uniformly; no image comes again before all others of its class came. Fixed by
    seed, and the first mosaics are the same whatever `count` is.
    Returns mosaics (M, 3, H, W), images' dtype and device; targets (M, n * n) int64, the class in
    each cell, all of them to be explained; which (M, n * n) int64, the index of the image there.
    Raises ValueError for shapes that do not fit and for fewer than n * n classes.
    Source: Boehle, Fritz, Schiele, CVPR 2021 (3 x 3 cells, mosaics n times the size of an image;
    here their size is the image's, as a ViT's positions ask for).
    """
    labels, among = _check(images, labels, n, count, among)
    which = _draw(labels, among, n * n, count, np.random.default_rng(seed))
    targets = torch.from_numpy(labels[which]).to(images.device)
    which = torch.from_numpy(which).to(images.device)
    mosaics = images.new_empty(count, *images.shape[1:])
    rows, columns = (_borders(side, n) for side in images.shape[-2:])
    for cell in range(n * n):
        (top, bottom), (left, right) = (edges[i : i + 2] for edges, i in ((rows, cell // n), (columns, cell % n)))
        mosaics[:, :, top:bottom, left:right] = F.interpolate(
            images[which[:, cell]], size=(bottom - top, right - left), mode="bilinear", antialias=True
        )
    return mosaics, targets, which


def _draw(labels: np.ndarray, among: np.ndarray, cells: int, count: int, draw: np.random.Generator) -> np.ndarray:
    """Indices (count, cells) of images whose classes are distinct within each row."""
    members = {label: among[labels[among] == label] for label in np.unique(labels[among])}
    waiting: dict[int, list[int]] = {label: [] for label in members}
    which = np.empty((count, cells), dtype=np.int64)
    for mosaic in range(count):
        for cell, label in enumerate(draw.permutation(list(members))[:cells]):
            if not waiting[label]:
                waiting[label] = draw.permutation(members[label]).tolist()
            which[mosaic, cell] = waiting[label].pop()
    return which


def _borders(side: int, n: int) -> list[int]:
    return [round(i * side / n) for i in range(n + 1)]


def cell_share(maps, n: int = 2) -> np.ndarray:
    """Share of the positive relevance of each target that lies in its own cell. Returns (M, n * n) float64.

    maps (M, n * n, gh, gw), array or tensor, of the targets of `make_mosaics`: target k in cell k.
    Patches across a border count by the part of their area in the cell. 0 to 1, higher is better;
    chance 1 / n^2, the score of an even map. nan where nothing is positive (the paper's code has 0).
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


def _overlap(patches: int, n: int) -> np.ndarray:
    """Part of each patch that lies in each of n equal cells along one side, (n, patches)."""
    starts, ends = np.arange(n)[:, None] * patches / n, (np.arange(n)[:, None] + 1) * patches / n
    patch = np.arange(patches)
    return (np.minimum(ends, patch + 1) - np.maximum(starts, patch)).clip(min=0)


def _check(images: Tensor, labels, n: int, count: int, among) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(torch.as_tensor(labels).cpu(), dtype=np.int64)
    among = np.arange(len(images)) if among is None else np.asarray(torch.as_tensor(among).cpu(), dtype=np.int64)
    if images.dim() != 4 or labels.shape != (len(images),) or among.ndim != 1:
        raise ValueError(
            f"images {tuple(images.shape)}, labels {labels.shape} and among {among.shape} do not fit; "
            "expected (N, 3, H, W), (N,) and (P,)."
        )
    if not 2 <= n <= min(images.shape[-2:]) or count < 1:
        raise ValueError(
            f"{count} mosaics of {n} x {n} cells; expected 1 or more, of 2 x 2 or more, each cell a pixel or more."
        )
    if len(among) and not 0 <= among.min() <= among.max() < len(images):
        raise ValueError(f"among goes from {among.min()} to {among.max()}; the images are 0 to {len(images) - 1}.")
    classes = len(np.unique(labels[among]))
    if classes < n * n:
        raise ValueError(
            f"{classes} classes among {len(among)} images; a mosaic of {n} x {n} needs {n * n}. "
            "Take a smaller n, or more images."
        )
    return labels, among
