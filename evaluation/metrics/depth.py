"""Attention and features at each depth: of one checkpoint, or of several compared with the first.

Heads and blocks of two checkpoints correspond where both started from one backbone, as before and after fine-tuning.
The *reading row* is the attention of what the head reads: the class token's row (with two heads, the mean of both
tokens' rows), or, where tokens are pooled, the mean of the rows of the tokens that are pooled. Attention pooling is one
more layer, whose one query is the reading row.

Shapes: B images, L layers (blocks, then attention pooling where there is one), h heads, P patches, N tokens (prefix and
patches), M query rows (N; 1 in attention pooling), D model width.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from explain import check_images
from explain.batching import images_at_once
from explain.logit_check import check_logits
from explain.trace import BlockRecord, Network, Record

MEASURES = ("entropy", "distance", "on_patches", "on_prefix", "on_itself")


@dataclass(frozen=True)
class Depth:
    """What one model does at each depth, per image. All float64.

    measures: name -> (B, L, h), for each of MEASURES; see `entropy`, `distance`, `reading_shares`.
    uniform: name -> its value where every token of a block attends to all tokens equally.
    divergence: (B, L, h) of the reading row from the first model's, see `divergence`; None for the first model.
    cka: (L + 1,) of the tokens that enter the first layer and that leave each, with the first model's, see `LinearCKA`;
        None for the first model. Every token of every image is an example; where a class token is read, the last
        block's other tokens count too, though they reach no head.
    """

    measures: dict[str, np.ndarray]
    uniform: dict[str, float]
    divergence: np.ndarray | None
    cka: np.ndarray | None


def measure_depth(models: Sequence[nn.Module], batches: Iterable[Tensor]) -> list[Depth]:
    """Run the same images through every model and measure attention and features at each depth.

    Costs a forward pass per model and image, and for CKA 6 (L + 1) N D^2 operations per image in float64. Memory grows
    with a batch, not with the number of batches, except for the result's 6 L h numbers per image and 3 (L + 1) D^2
    float64 numbers per model for CKA. How images are split into batches does not change the result.

    models: plain timm VisionTransformers (see `check_explainable`), in train or eval mode; dropout is never applied,
        and they are left as they were. The others are compared with the first.
    batches: images (B, 3, H, W) as every model takes them.
    Returns one Depth per model.
    Raises UnsupportedModel (a ValueError); ValueError for wrong images, none at all, or models that differ in layers,
        heads or tokens.
    """
    if not models:
        raise ValueError("no model was given; expected one, or several to compare with the first.")
    networks, gathered = [Network(model) for model in models], [_Gathered() for _ in models]
    with torch.no_grad():
        for images in batches:
            for model in models:
                check_images(model, images)
            step = min(images_at_once(network, images, 1) for network in networks)
            with torch.autocast(images.device.type, enabled=False):
                for tile in images.split(step):
                    _add(networks, tile, gathered)
    if not gathered[0].measures:
        raise ValueError("batches held no images; expected at least one batch (B, 3, H, W).")
    return [one.result() for one in gathered]


# ---- one layer's attention (B, h, M, N), each row with sum 1


def entropy(attention: Tensor) -> Tensor:
    """Compute the entropy of each query's attention over log N, mean over queries.

    attention: (B, h, M, N).
    Returns (B, h) float64 from 0 (each query on one token) to 1 (spread evenly over all); lower is more focused, which
        need not be better. NaN where there is one token.
    """
    attention = _double(attention)
    return _entropy(attention).mean(-1) / math.log(attention.shape[-1])


def distance(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute the mean attention distance, in patches.

    The distance from a patch to the patches it attends to, between their centres, weighted by attention (what falls on
    prefix tokens is left out and the rest has sum 1), mean over patches as queries. A patch without attention on any
    patch is left out.

    attention: (B, h, N, N).
    grid: (gh, gw), the patches along both sides.
    Returns (B, h) float64 from 0 (each patch on itself) to less than the grid's diagonal; higher is less local. Even
        attention gives the mean over all pairs, the patch itself among them: 7.3 on 14 x 14 patches.
    Source: Dosovitskiy et al., ICLR 2021 (in pixels); Raghu et al., NeurIPS 2021.
    """
    patches = grid[0] * grid[1]
    among = _double(attention[..., -patches:, -patches:])
    steps = _steps(grid).to(among.device)
    return ((among * steps).sum(-1) / among.sum(-1)).nanmean(-1)


def reading_row(attention: Tensor, read: slice) -> Tensor:
    """Average the attention (B, h, M, N) of the rows that the head reads: (B, h, N) float64."""
    return _double(attention[..., read, :]).mean(-2)


def reading_shares(attention: Tensor, read: slice, patches: int) -> Tensor:
    """Compute the shares of the reading row's attention on patches, on prefix tokens and on itself.

    attention: (B, h, M, N).
    read: the query rows that the head reads.
    patches: P, the number of patches; they are the last tokens.
    Returns (B, h, 3) float64, each from 0 to 1, with sum 1: the shares on patches, on prefix tokens (class token,
        registers) and of each query on itself, which counts as neither. Chance is even attention's: for a class token's
        row P / N, (N - P - 1) / N and 1 / N. Attention pooling's query is not a token: its share on itself is 0.
    """
    row = reading_row(attention, read)
    own = torch.zeros_like(row)
    if attention.shape[-2] == attention.shape[-1]:
        diagonal = _double(attention.diagonal(dim1=-2, dim2=-1)[..., read])
        own[..., read] = diagonal / diagonal.shape[-1]
    others = row - own
    return torch.stack([others[..., -patches:].sum(-1), others[..., :-patches].sum(-1), own.sum(-1)], -1)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Compute the Jensen-Shannon divergence, base 2, of rows with sum 1.

    first, second: (..., N).
    Returns (...) float64 from 0 (the same row) to 1 (nothing in common); symmetric; higher is more changed. Two rows
        drawn uniformly among all rows reach 1 - 1 / (2 ln 2) = 0.279 where N is large.
    Source: Lin, IEEE Transactions on Information Theory 1991.
    """
    first, second = _double(first), _double(second)
    nats = _entropy((first + second) / 2) - (_entropy(first) + _entropy(second)) / 2
    return (nats / math.log(2)).clamp(0, 1)  # rounding may exceed either end


# ---- features


class LinearCKA:
    """Debiased linear CKA of two sets of features of the same examples, which may come in batches.

    HSIC is its unbiased estimator over all pairs of two different examples, computed exactly from moments of the
    features. Unlike the mean of minibatches' estimates (Nguyen et al., ICLR 2021, appendix) it does not depend on
    batches, and unlike the biased estimator it does not rise with D / examples.

    1 the same up to rotation, reflection, one scale for all and an added constant; about 0 unrelated, and below it by
    chance; higher is more similar. NaN with fewer than 4 examples, or where features do not vary.
    Source: Kornblith et al., ICML 2019 (linear CKA); Song et al., JMLR 2012, eq. 5 (HSIC).
    """

    def __init__(self):
        self._pairs = {"xx": _Moments(), "xy": _Moments(), "yy": _Moments()}
        self._shifts: tuple[Tensor, Tensor] | None = None

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add n examples: their features x (n, D) and y (n, D'), of any float type."""
        x, y = _double(x), _double(y)
        if self._shifts is None:
            # CKA does not depend on the origin, but features far from it would lose digits to rounding.
            self._shifts = x.mean(0), y.mean(0)
        x, y = x - self._shifts[0], y - self._shifts[1]
        for name, pair in (("xx", (x, x)), ("xy", (x, y)), ("yy", (y, y))):
            self._pairs[name].add(*pair)

    def result(self) -> float:
        """Return the CKA of all examples added so far."""
        xx, xy, yy = (self._pairs[name].hsic() for name in ("xx", "xy", "yy"))
        return xy / math.sqrt(xx * yy) if xx > 0 and yy > 0 else math.nan


class _Moments:
    """Sums over n examples from which the unbiased HSIC of features x and y follows."""

    def __init__(self):
        self.examples = 0
        self.sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        norm_x, norm_y = x.square().sum(-1), y.square().sum(-1)
        new = [
            x.T @ y,
            x.sum(0),
            y.sum(0),
            norm_y @ x,
            norm_x @ y,
            norm_x.sum(),
            norm_y.sum(),
            norm_x @ norm_y,
        ]
        self.sums = [old + more for old, more in zip(self.sums, new)] or new
        self.examples += len(x)

    def hsic(self) -> float:
        """Return n (n - 3) times HSIC, for Gram matrices K, L without diagonals: tr KL + ... - 2 / (n - 2) 1'KL1."""
        n = self.examples
        if n < 4:
            return math.nan
        cross, x, y, weighted_x, weighted_y, norms_x, norms_y, both_norms = self.sums
        trace = cross.square().sum() - both_norms
        sums = (x @ x - norms_x) * (y @ y - norms_y)
        product = x @ cross @ y - x @ weighted_x - y @ weighted_y + both_norms
        return float(trace + sums / ((n - 1) * (n - 2)) - 2 * product / (n - 2))


# ---- a model's layers


class _Gathered:
    """Results of one model's forward passes, one tile of images after another."""

    def __init__(self):
        self.measures: list[np.ndarray] = []  # (B, L, h, len(MEASURES))
        self.uniform: list[float] = []
        self.divergences: list[np.ndarray] = []  # (B, L, h)
        self.similarities: list[LinearCKA] = []

    def result(self) -> Depth:
        measures = np.concatenate(self.measures)
        compared = bool(self.similarities)
        return Depth(
            {name: measures[..., place] for place, name in enumerate(MEASURES)},
            dict(zip(MEASURES, self.uniform)),
            np.concatenate(self.divergences) if compared else None,
            np.array([similarity.result() for similarity in self.similarities]) if compared else None,
        )


def _add(networks: Sequence[Network], images: Tensor, gathered: Sequence[_Gathered]) -> None:
    """Trace images through every network and add its measures to what was gathered of it."""
    first = None
    for index, (network, one) in enumerate(zip(networks, gathered)):
        record = network.record(images, every_row=True)
        if not one.measures:
            check_logits(network.model, images[:1], record.logits[:1])
        layers = [(layer.attention.squeeze(2), read) for layer, read in _layers(record)]
        one.measures.append(torch.stack([_measures(*layer, record.grid) for layer in layers], 1).cpu().numpy())
        if not one.uniform:
            even = torch.full((1, 1, record.tokens, record.tokens), 1 / record.tokens, dtype=torch.float64)
            one.uniform = _measures(even, record.pooled, record.grid).flatten().tolist()
        rows, features = [reading_row(*layer) for layer in layers], _features(record)
        if first is None:
            first = rows, features
            continue
        _check_same_shape(index, rows, first[0])
        moved = [divergence(before, after) for before, after in zip(first[0], rows)]
        one.divergences.append(torch.stack(moved, 1).cpu().numpy())
        one.similarities = one.similarities or [LinearCKA() for _ in features]
        for similarity, before, after in zip(one.similarities, first[1], features):
            similarity.update(before, after)


def _layers(record: Record) -> list[tuple[BlockRecord, slice]]:
    """Return every layer with the rows that the head reads."""
    pool = [] if record.pool is None else [(record.pool, slice(None))]
    return [(block, record.pooled) for block in record.blocks] + pool


def _features(record: Record) -> list[Tensor]:
    """Return the tokens that enter the first layer and that leave each layer, L + 1 of (examples, D)."""
    layers = record.blocks if record.pool is None else [*record.blocks, record.pool]
    return [record.blocks[0].x.flatten(0, 2), *((one.middle + one.mlp_output).flatten(0, 2) for one in layers)]


def _measures(attention: Tensor, read: slice, grid: tuple[int, int]) -> Tensor:
    """Measure attention (B, h, M, N): (B, h, len(MEASURES)). Attention pooling's query has no place, so no distance."""
    apart = distance(attention, grid) if attention.shape[-2] > 1 else entropy(attention) * math.nan
    shares = reading_shares(attention, read, grid[0] * grid[1])
    return torch.cat([torch.stack([entropy(attention), apart], -1), shares], -1)


def _check_same_shape(index: int, rows: Sequence[Tensor], first: Sequence[Tensor]) -> None:
    shapes, expected = ([tuple(row.shape[1:]) for row in one] for one in (rows, first))
    if shapes != expected:
        (heads, tokens), (first_heads, first_tokens) = shapes[0], expected[0]
        raise ValueError(
            f"model {index} has {len(shapes)} layers of {heads} heads on {tokens} tokens, the first "
            f"{len(expected)} of {first_heads} on {first_tokens}; expected checkpoints of one backbone."
        )


# ---- arithmetic


def _double(x: Tensor) -> Tensor:
    """Return x in float64: on its device, or on the CPU where the device has no float64 (Apple GPUs)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def _entropy(rows: Tensor) -> Tensor:
    """Compute the entropy over the last axis, in nats."""
    return torch.special.entr(rows).sum(-1)


def _steps(grid: tuple[int, int]) -> Tensor:
    """Return the distances between the centres of any two patches, (P, P), in patches."""
    places = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64) for side in grid))
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")
