"""METHODS: name -> a way to explain. The dictionary feeds code and command-line choices alike.

Shapes: B images, K targets, h heads, N tokens, M rows (1 in the last block under class-token
pooling, else N). A method computes maps (B, K, grid_h, grid_w).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor

from .gradients import attention_gradients
from .vit import MAGNITUDE, PUBLISHED, Network, Record, RuleSet, attention_relevances


@dataclass(frozen=True)
class Method:
    """A way to explain, and what its maps mean.

    compute: (Network, images (B, 3, H, W), targets (B, K), **options) -> (B, K, grid_h, grid_w)
    signed: maps have negative parts that mean evidence against the target
    uses_target: maps differ between targets for what the model computes (not for a random seed)
    """

    name: str
    compute: Callable[..., Tensor]
    signed: bool
    uses_target: bool
    source: str
    description: str


# ---- aggregation over blocks: the class token's row alone, from the last block to the first

def _start_row(record: Record, targets: int) -> Tensor:
    """(B, K, N): 1 on the class token, or spread evenly over the tokens that pooling averages."""
    row = record.blocks[0].x.new_zeros(len(record.logits), targets, record.tokens)
    pooled = record.pooled if record.norm.output.shape[-2] > 1 else slice(0, 1)
    row[..., pooled] = 1
    return row.div_(row.sum(-1, keepdim=True))


def _row_times(row: Tensor, contributions: Tensor) -> Tensor:
    """Row (B, K, N) times the mean over heads of contributions (B, h, K, M, N); rows past M are 0."""
    rows = row[:, None, :, None, :contributions.shape[-2]].expand(-1, contributions.shape[1], -1, -1, -1)
    return (rows @ contributions).squeeze(-2).mean(1)


def _to_map(row: Tensor, record: Record) -> Tensor:
    """Patches of a row (B, K, N) as (B, K, grid_h, grid_w); prefix tokens are left out."""
    patches = record.grid[0] * record.grid[1]
    return row[..., record.tokens - patches:].unflatten(-1, record.grid).clone()


def _head_rows(network: Network, targets: Tensor) -> Tensor:
    return network.model.head.weight[targets]


# ---- methods

def _lrp(network: Network, images: Tensor, targets: Tensor, rule_set: RuleSet,
         start_block: int) -> Tensor:
    """map = row of (I + C_last) ... (I + C_start) with C = mean_h((G * R)^+), G gradient, R relevance."""
    _check_start_block(network, start_block)
    record = network.record(images)
    row = _start_row(record, targets.shape[1])
    gradients = attention_gradients(record, _head_rows(network, targets), start_block)
    relevances = attention_relevances(network, record, targets, rule_set, start_block)
    for gradient, relevance in zip(gradients, relevances):
        row = row + _row_times(row, (gradient * relevance).clamp_(min=0))
    return _to_map(row, record)


def lrp(network: Network, images: Tensor, targets: Tensor, *, start_block: int = 0) -> Tensor:
    """Transformer attribution exactly as published; ill-conditioned, for comparison with literature.

    start_block: the first block that is aggregated (0 in the authors' notebooks, 1 in scripts).
    """
    return _lrp(network, images, targets, PUBLISHED, start_block)


def lrp_magnitude(network: Network, images: Tensor, targets: Tensor, *, start_block: int = 0) -> Tensor:
    """Transformer attribution with sums and products split by magnitudes, which have no poles."""
    return _lrp(network, images, targets, MAGNITUDE, start_block)


def gradient_attention(network: Network, images: Tensor, targets: Tensor, *,
                       start_block: int = 0) -> Tensor:
    """R <- R + mean_h((G * A)^+) R."""
    _check_start_block(network, start_block)
    record = network.record(images)
    row = _start_row(record, targets.shape[1])
    gradients = attention_gradients(record, _head_rows(network, targets), start_block)
    for block, gradient in zip(_from_last(record, start_block), gradients):
        row = row + _row_times(row, (gradient * block.attention).clamp_(min=0))
    return _to_map(row, record)


def rollout(network: Network, images: Tensor, targets: Tensor, *, start_block: int = 0) -> Tensor:
    """Product of (A + I) / 2 over blocks, A the mean over heads; the same for every target."""
    _check_start_block(network, start_block)
    record = network.record(images)
    row = _start_row(record, 1)
    for block in _from_last(record, start_block):
        row = (row + _row_times(row, block.attention)) / 2
    return _to_map(row.expand(-1, targets.shape[1], -1), record)


def attention(network: Network, images: Tensor, targets: Tensor) -> Tensor:
    """The last block's attention of the class token, mean over heads; the same for every target."""
    record = network.record(images)
    row = _row_times(_start_row(record, 1), record.blocks[-1].attention)
    return _to_map(row.expand(-1, targets.shape[1], -1), record)


def random(network: Network, images: Tensor, targets: Tensor, *, seed: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), the baseline of every metric.

    A map is a function of seed, target and the image's own pixels (as float32), whatever else is
    in the batch and whatever the device.
    """
    grid = network.grid(images)
    maps = [[torch.rand(grid, generator=generator_for(image, seed, target), dtype=torch.float64)
             for target in row] for image, row in zip(images, targets.tolist())]
    return torch.stack([torch.stack(row) for row in maps]).to(images.dtype).to(images.device)


def generator_for(image: Tensor, *numbers: int) -> torch.Generator:
    """Generator fixed by an image's pixels (as float32) and some numbers, on any device."""
    pixels = image.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
    digest = hashlib.blake2b(repr(numbers).encode() + pixels, digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def _from_last(record: Record, start_block: int) -> Iterator:
    return reversed(record.blocks[start_block:])


def _check_start_block(network: Network, start_block: int) -> None:
    depth = len(network.model.blocks)
    if not 0 <= start_block < depth:
        raise ValueError(f"start_block is {start_block}; the model's blocks count from 0 to {depth - 1}.")


METHODS: dict[str, Method] = {method.name: method for method in (
    Method("lrp", lrp, False, True, "Chefer, Gur, Wolf, CVPR 2021",
           "transformer attribution as published: gradient times LRP relevance of attention"),
    Method("lrp_magnitude", lrp_magnitude, False, True, "after Chefer, Gur, Wolf, CVPR 2021",
           "transformer attribution with sums split by magnitudes: repeatable under noise"),
    Method("gradient_attention", gradient_attention, False, True, "Chefer, Gur, Wolf, ICCV 2021",
           "gradient times attention, aggregated over blocks"),
    Method("rollout", rollout, False, False, "Abnar and Zuidema, ACL 2020",
           "attention multiplied over blocks; knows no target"),
    Method("attention", attention, False, False, "Dosovitskiy et al., ICLR 2021 (attention maps)",
           "the class token's attention in the last block; knows no target"),
    Method("random", random, False, False, "baseline of every metric",
           "uniform noise, fixed by seed, image and target"),
)}

DEFAULT_METHOD = "lrp_magnitude"
