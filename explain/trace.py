"""Trace a ViT: compute one forward pass from the modules' weights, and record every intermediate result.

No module is called, hooked or patched: the model is left as it was, fused attention hides nothing, dropout is never
applied, and frozen weights make no difference. lrp.py and gradients.py propagate relevance back through the record.

Shapes: B images, K targets, h heads, P patches, N tokens (prefix and patches), d head width, D model width, C classes,
T tokens that the classification heads read (2 in a distilled DeiT, else 1), M rows of a block that the heads depend on
(in the last block T, or N where tokens are pooled; N in every other block). Recorded tensors have a dimension of 1
for the targets K: (B, 1, N, D) between layers and (B, h, 1, N, d) inside attention.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from explain.layers import activated, linear, merge_heads, plus_bias, scaled, split_heads
from explain.support import check_explainable, is_distilled
from explain.types import TimmModule


@dataclass
class Norm:
    """A recorded LayerNorm, or an Identity in its place, of which only the output is recorded."""

    output: Tensor
    standardised: Tensor | None = None  # the input less its mean, divided by its standard deviation
    inverse_deviation: Tensor | None = None  # (..., 1), 1 / standard deviation
    weight: Tensor | None = None  # (D,)


@dataclass
class Embedding:
    """The recorded path from pixels to the tokens that enter block 0."""

    product: Tensor  # (B, 1, P, D), the patch convolution's output before its bias
    norm: Norm  # (B, 1, P, D), of the patches alone
    norm_pre: Norm  # (B, 1, N, D), of all tokens, with positions


@dataclass
class BlockRecord:
    """The recorded forward pass of one block. A *product* is a linear layer's output before its bias.

    Attention pooling is recorded as one more block, without norm1 and residual sum at its attention, and with a
    constant
    query: M is 1, and N the number of tokens that it reads.
    """

    block: TimmModule | SimpleNamespace
    x: Tensor  # (B, 1, N, D)
    norm1: Norm  # (B, 1, N, D)
    qkv_product: Tensor  # (B, 1, N, 3hd), or of k and v alone where the query is a constant
    query: Norm  # (B, h, 1, M, d)
    key: Norm  # (B, h, 1, N, d)
    value: Tensor  # (B, h, 1, N, d)
    attention: Tensor  # (B, h, 1, M, N), after the softmax
    mixed: Tensor  # (B, h, 1, M, d), attention @ value
    projected_product: Tensor  # (B, 1, M, D)
    attended: Tensor  # (B, 1, M, D), what is added to x
    middle: Tensor  # (B, 1, M, D), x + attended
    norm2: Norm  # (B, 1, M, D)
    hidden_product: Tensor  # (B, 1, M, 4D)
    hidden: Tensor  # (B, 1, M, 4D), after the activation
    mlp_product: Tensor  # (B, 1, M, D)
    mlp_output: Tensor  # (B, 1, M, D), what is added to middle
    is_pool: bool = False

    @property
    def rows(self) -> int:
        """M."""
        return self.attention.shape[-2]


@dataclass
class Record:
    """One recorded forward pass."""

    embedding: Embedding
    blocks: list[BlockRecord]  # from the first
    norm: Norm  # (B, 1, M, D)
    pooled: slice  # the tokens that pooling reads, among the M rows
    averaged: bool  # whether pooling takes their mean
    pool: BlockRecord | None  # attention pooling, if the model has it
    fc_norm: Norm  # (B, 1, T, D), what the heads read
    logits: Tensor  # (B, C)
    grid: tuple[int, int]

    @property
    def tokens(self) -> int:
        """N."""
        return self.blocks[0].x.shape[-2]

    def from_last(self, start_block: int = 0) -> Iterator[BlockRecord]:
        """Yield attention pooling, if the model has it, then the blocks from the last to `start_block`."""
        if self.pool is not None:
            yield self.pool
        yield from reversed(self.blocks[start_block:])

    def place(self, values: Tensor) -> Tensor:
        """Return (B, K, M, D) with values (B, K, n, D) at the n tokens that pooling reads, and 0 elsewhere."""
        rows = self.norm.output.shape[-2]
        if values.shape[-2] == rows:
            return values
        placed = values.new_zeros(*values.shape[:2], rows, values.shape[-1])
        placed[:, :, self.pooled] = values
        return placed

    def patches(self, x: Tensor) -> Tensor:
        """Return the patches (B, K, P, D) of tokens (B, K, N, D)."""
        return x[:, :, x.shape[-2] - self.grid[0] * self.grid[1] :]


class Network:
    """A model that can be traced, and what is computed once for all of its traces."""

    def __init__(self, model: VisionTransformer):
        """Raise UnsupportedModel where the structure cannot be traced."""
        check_explainable(model)
        self.model = model
        self.heads = [model.head, model.head_dist] if is_distilled(model) else [model.head]
        self._magnitudes: dict[nn.Linear, Tensor] = {}
        self._shared_images: Tensor | None = None
        self._shared_record: Record | None = None

    def sharing_record(self, images: Tensor) -> "Network":
        """Return a copy of this network whose `record` computes the forward pass of this tensor `images` only once.

        For targets that are explained in chunks. The record stays in memory as long as the returned network.
        """
        shared = copy.copy(self)
        shared._shared_images, shared._shared_record = images, None
        return shared

    def magnitude(self, linear: nn.Linear) -> Tensor:
        """Return |W| of a linear layer, (out, in); computed once for all batches of a call."""
        if linear not in self._magnitudes:
            self._magnitudes[linear] = linear.weight.abs()
        return self._magnitudes[linear]

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Return (grid_h, grid_w), the patches that images (B, 3, H, W) are divided into."""
        height, width = self.model.patch_embed.dynamic_feat_size(tuple(images.shape[-2:]))
        return int(height), int(width)

    def patch_product(self, images: Tensor, magnitude: bool = False) -> Tensor:
        """Compute the patch convolution without its bias.

        images: (B, 3, H, W).
        magnitude: whether to take the magnitudes of pixels and weights.

        Returns (B, 1, P, D).
        """
        embed, weight = self.model.patch_embed, self.model.patch_embed.proj.weight
        if embed.dynamic_img_pad:
            below, right = (-size % patch for size, patch in zip(images.shape[-2:], embed.patch_size))
            images = F.pad(images, (0, right, 0, below))
        if magnitude:
            images, weight = images.abs(), weight.abs()
        return F.conv2d(images, weight, stride=embed.proj.stride).flatten(2).mT.unsqueeze(1)

    def record(self, images: Tensor, every_row: bool = False) -> Record:
        """Record a forward pass; its logits are those of the model in eval mode, up to rounding.

        images: (B, 3, H, W).
        every_row: whether to compute all rows of the last block, so that M is N, also those that no head depends on.
        """
        if images is not self._shared_images or every_row:
            return self._record(images, every_row)
        if self._shared_record is None:
            self._shared_record = self._record(images)
        return self._shared_record

    def _record(self, images: Tensor, every_row: bool = False) -> Record:
        model, by_token = self.model, self.model.global_pool == "token"
        embedding = self._record_embedding(images)
        x, blocks = embedding.norm_pre.output, []
        for index, block in enumerate(model.blocks):
            cut = by_token and index == len(model.blocks) - 1 and not every_row
            blocks.append(_record_block(block, x, len(self.heads) if cut else x.shape[-2]))
            x = blocks[-1].middle + blocks[-1].mlp_output
        skipped = 0 if by_token or model.pool_include_prefix else model.num_prefix_tokens
        norm, pooled = _record_norm(model.norm, x), slice(skipped, len(self.heads) if by_token else x.shape[-2])
        pool = None if model.attn_pool is None else _record_pool(model.attn_pool, norm.output[:, :, pooled])
        averaged = pool is None and not by_token
        read = norm.output[:, :, pooled] if pool is None else pool.middle + pool.mlp_output
        read = read.mean(-2, keepdim=True) if averaged else read
        # timm's two-headed model has a fc_norm, an Identity unless asked for, and never applies it.
        fc_norm = Norm(read) if len(self.heads) > 1 else _record_norm(model.fc_norm, read)
        logits: Any = sum(linear(head, fc_norm.output[:, 0, token]) for token, head in enumerate(self.heads))
        logits = logits / len(self.heads)
        return Record(embedding, blocks, norm, pooled, averaged, pool, fc_norm, logits, self.grid(images))

    def _record_embedding(self, images: Tensor) -> Embedding:
        model, product = self.model, self.patch_product(images)
        norm = _record_norm(model.patch_embed.norm, plus_bias(product, model.patch_embed.proj))
        patches = norm.output.squeeze(1)
        if model.dynamic_img_size:  # `_pos_embed` then resizes its positions to the grid
            patches = patches.unflatten(1, self.grid(images))
        tokens = type(model)._pos_embed(_WithoutDropout(model), patches).unsqueeze(1)
        return Embedding(product, norm, _record_norm(model.norm_pre, tokens))


# ---- the steps of a forward pass


class _WithoutDropout:
    """A stand-in for the model in timm's own `_pos_embed`, which would apply dropout in training mode."""

    def __init__(self, model: VisionTransformer):
        self._model = model
        self.pos_drop = lambda x: x

    def __getattr__(self, name: str):
        return getattr(self._model, name)


def _record_norm(norm: TimmModule, x: Tensor) -> Norm:
    if isinstance(norm, nn.Identity):
        return Norm(x)
    standardised, _, inverse_deviation = torch.native_layer_norm(x, norm.normalized_shape, None, None, norm.eps)
    output = standardised
    if norm.weight is not None:
        output = standardised * norm.weight
        output = output if norm.bias is None else output.add_(norm.bias)
    return Norm(output, standardised, inverse_deviation, norm.weight)


def _record_block(block: TimmModule, x: Tensor, rows: int) -> BlockRecord:
    attn, norm1 = block.attn, _record_norm(block.norm1, x)
    qkv_product = F.linear(norm1.output, attn.qkv.weight)
    query, key, value = split_heads(plus_bias(qkv_product, attn.qkv), 3 * attn.num_heads).chunk(3, dim=1)
    attention = _record_attention(block, query[..., :rows, :], key, value)
    middle = x[:, :, :rows] + attention["attended"]
    return BlockRecord(
        block=block, x=x, norm1=norm1, qkv_product=qkv_product, middle=middle, **attention, **_record_mlp(block, middle)
    )


def _record_pool(pool: AttentionPoolLatent, x: Tensor) -> BlockRecord:
    """Record attention pooling of x (B, 1, N, D), with its layers under the names that they have in a block."""
    attn = SimpleNamespace(
        num_heads=pool.num_heads, scale=pool.scale, qkv=pool.kv, proj=pool.proj, q_norm=pool.q_norm, k_norm=pool.k_norm
    )
    block = SimpleNamespace(attn=attn, mlp=pool.mlp, norm2=pool.norm, ls1=nn.Identity(), ls2=nn.Identity())
    product = F.linear(x, pool.kv.weight)
    key, value = split_heads(plus_bias(product, pool.kv), 2 * pool.num_heads).chunk(2, dim=1)
    query = split_heads(linear(pool.q, pool.latent).unsqueeze(1), pool.num_heads).expand(len(x), -1, -1, -1, -1)
    attention = _record_attention(block, query, key, value)
    return BlockRecord(
        block=block,
        x=x,
        norm1=Norm(x),
        qkv_product=product,
        middle=attention["attended"],
        **attention,
        **_record_mlp(block, attention["attended"]),
        is_pool=True,
    )


def _record_attention(block: TimmModule | SimpleNamespace, query: Tensor, key: Tensor, value: Tensor) -> dict:
    attn = block.attn
    normed_query, normed_key = _record_norm(attn.q_norm, query), _record_norm(attn.k_norm, key)
    attention = ((normed_query.output * attn.scale) @ normed_key.output.mT).softmax(-1)
    mixed = attention @ value
    projected_product = F.linear(merge_heads(mixed), attn.proj.weight)
    attended = scaled(plus_bias(projected_product, attn.proj), block.ls1)
    return dict(
        query=normed_query,
        key=normed_key,
        value=value,
        attention=attention,
        mixed=mixed,
        projected_product=projected_product,
        attended=attended,
    )


def _record_mlp(block: TimmModule | SimpleNamespace, middle: Tensor) -> dict:
    norm2 = _record_norm(block.norm2, middle)
    hidden_product = F.linear(norm2.output, block.mlp.fc1.weight)
    hidden = activated(block.mlp.act, plus_bias(hidden_product, block.mlp.fc1))
    mlp_product = F.linear(hidden, block.mlp.fc2.weight)
    mlp_output = scaled(plus_bias(mlp_product, block.mlp.fc2), block.ls2)
    return dict(
        norm2=norm2, hidden_product=hidden_product, hidden=hidden, mlp_product=mlp_product, mlp_output=mlp_output
    )
