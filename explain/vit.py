"""The traced ViT: records one forward pass, then sends relevance back down it.

The forward pass is written out with the modules' weights, so nothing is hooked, patched or left
behind, fused attention hides nothing, dropout is never applied, and frozen weights don't matter.

Shapes: B images, K targets, h heads, N tokens (prefix and patches), d head width, D model width,
C classes, M rows of the last block that reach the head (1, the class token, or N where tokens are
averaged; N in every other block). What was recorded has a 1 where the targets K go:
(B, 1, N, D) between layers and (B, h, 1, N, d) inside attention.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from timm.models.vision_transformer import VisionTransformer

from . import rules
from .structure import check_explainable


@dataclass
class Norm:
    """A recorded LayerNorm: its output, and what its gradient needs (None for an Identity)."""

    output: Tensor
    standardised: Tensor | None = None
    inverse_deviation: Tensor | None = None
    weight: Tensor | None = None


@dataclass
class BlockRecord:
    """One block's forward pass; a *product* is a linear layer's output before its bias."""

    block: nn.Module
    x: Tensor                    # (B, 1, N, D)
    norm1: Norm                  # (B, 1, N, D)
    qkv_product: Tensor          # (B, 1, N, 3hd)
    query: Norm                  # (B, h, 1, M, d)
    key: Norm                    # (B, h, 1, N, d)
    value: Tensor                # (B, h, 1, N, d)
    attention: Tensor            # (B, h, 1, M, N), after the softmax
    mixed: Tensor                # (B, h, 1, M, d), attention @ value
    projected_product: Tensor    # (B, 1, M, D)
    attended: Tensor             # (B, 1, M, D), what is added to x
    middle: Tensor               # (B, 1, M, D), x + attended
    norm2: Norm                  # (B, 1, M, D)
    hidden_product: Tensor       # (B, 1, M, 4D)
    hidden: Tensor               # (B, 1, M, 4D), after the activation
    mlp_product: Tensor          # (B, 1, M, D)
    mlp_output: Tensor           # (B, 1, M, D), what is added to middle

    @property
    def rows(self) -> int:
        return self.attention.shape[-2]


@dataclass
class Record:
    """One forward pass: its blocks, from the first, and what follows them."""

    blocks: list[BlockRecord]
    norm: Norm                   # (B, 1, M, D)
    pooled: slice                # the tokens, among the M rows, that pooling reads
    fc_norm: Norm                # (B, 1, 1, D)
    logits: Tensor               # (B, C)
    grid: tuple[int, int]

    @property
    def tokens(self) -> int:
        return self.blocks[0].x.shape[-2]


class Network:
    """A model that explanations can follow, with the magnitudes of its weights at hand."""

    def __init__(self, model: VisionTransformer):
        """Raises UnsupportedModel where the structure cannot be followed."""
        check_explainable(model)
        self.model = model
        self._magnitudes: dict[nn.Linear, Tensor] = {}

    def magnitude(self, linear: nn.Linear) -> Tensor:
        """|W| of a linear layer, (out, in); computed once for all batches of a call."""
        if linear not in self._magnitudes:
            self._magnitudes[linear] = linear.weight.abs()
        return self._magnitudes[linear]

    def grid(self, images: Tensor) -> tuple[int, int]:
        """(grid_h, grid_w) of images (B, 3, H, W)."""
        height, width = self.model.patch_embed.dynamic_feat_size(tuple(images.shape[-2:]))
        return int(height), int(width)

    def record(self, images: Tensor) -> Record:
        """Forward pass of images (B, 3, H, W); logits equal the model's own in eval mode."""
        model = self.model
        x = _embed(model, images).unsqueeze(1)
        by_class_token = model.global_pool == "token"
        blocks = []
        for index, block in enumerate(model.blocks):
            last = index == len(model.blocks) - 1
            blocks.append(_record_block(block, x, 1 if last and by_class_token else x.shape[-2]))
            x = blocks[-1].middle + blocks[-1].mlp_output
        skipped = 0 if by_class_token or model.pool_include_prefix else model.num_prefix_tokens
        norm, pooled = _record_norm(model.norm, x), slice(skipped, x.shape[-2])
        fc_norm = _record_norm(model.fc_norm, norm.output[:, :, pooled].mean(-2, keepdim=True))
        logits = model.head(fc_norm.output).flatten(0, 2)
        return Record(blocks, norm, pooled, fc_norm, logits, self.grid(images))


# ---- forward

class _WithoutDropout:
    """Stands in for the model in timm's own `_pos_embed`, which applies dropout while training."""

    def __init__(self, model: VisionTransformer):
        self._model = model
        self.pos_drop = lambda x: x

    def __getattr__(self, name: str):
        return getattr(self._model, name)


def _embed(model: VisionTransformer, images: Tensor) -> Tensor:
    patches = model.patch_embed(images)
    return model.norm_pre(VisionTransformer._pos_embed(_WithoutDropout(model), patches))


def _record_norm(norm: nn.Module, x: Tensor) -> Norm:
    if isinstance(norm, nn.Identity):
        return Norm(x)
    standardised, _, inverse_deviation = torch.native_layer_norm(x, norm.normalized_shape, None, None, norm.eps)
    output = standardised
    if norm.weight is not None:
        output = standardised * norm.weight
        output = output if norm.bias is None else output.add_(norm.bias)
    return Norm(output, standardised, inverse_deviation, norm.weight)


def plus_bias(product: Tensor, linear: nn.Linear) -> Tensor:
    return product if linear.bias is None else product + linear.bias


def scaled(x: Tensor, scale: nn.Module) -> Tensor:
    """LayerScale or nothing; never in place, whatever the module says."""
    return x if isinstance(scale, nn.Identity) else x * scale.gamma


def _record_block(block: nn.Module, x: Tensor, rows: int) -> BlockRecord:
    attention = _record_attention(block, x, rows)
    middle = x[:, :, :rows] + attention["attended"]
    norm2 = _record_norm(block.norm2, middle)
    hidden_product = F.linear(norm2.output, block.mlp.fc1.weight)
    hidden = block.mlp.act(plus_bias(hidden_product, block.mlp.fc1))
    mlp_product = F.linear(hidden, block.mlp.fc2.weight)
    mlp_output = scaled(plus_bias(mlp_product, block.mlp.fc2), block.ls2)
    return BlockRecord(block=block, x=x, middle=middle, norm2=norm2, hidden_product=hidden_product,
                       hidden=hidden, mlp_product=mlp_product, mlp_output=mlp_output, **attention)


def _record_attention(block: nn.Module, x: Tensor, rows: int) -> dict:
    attn = block.attn
    norm1 = _record_norm(block.norm1, x)
    qkv_product = F.linear(norm1.output, attn.qkv.weight)
    query, key, value = split_heads(plus_bias(qkv_product, attn.qkv), 3 * attn.num_heads).chunk(3, dim=1)
    query = _record_norm(attn.q_norm, query[..., :rows, :])
    key = _record_norm(attn.k_norm, key)
    attention = ((query.output * attn.scale) @ key.output.mT).softmax(-1)
    mixed = attention @ value
    projected_product = F.linear(merge_heads(mixed), attn.proj.weight)
    attended = scaled(plus_bias(projected_product, attn.proj), block.ls1)
    return dict(norm1=norm1, qkv_product=qkv_product, query=query, key=key, value=value,
                attention=attention, mixed=mixed, projected_product=projected_product, attended=attended)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, K, N, hd) -> (B, h, K, N, d)."""
    return x.unflatten(-1, (heads, -1)).permute(0, 3, 1, 2, 4)


def merge_heads(x: Tensor) -> Tensor:
    """(B, h, K, N, d) -> (B, K, N, hd)."""
    return x.permute(0, 2, 3, 1, 4).flatten(3)


def merge_qkv(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Three (B, h, K, M or N, d) -> (B, K, N, 3hd), with zeros where the query has fewer rows."""
    images, heads, targets, tokens, width = value.shape
    merged = value.new_empty(images, targets, tokens, 3, heads, width)
    for index, part in enumerate((query, key, value)):
        rows = part.shape[-2]
        merged[:, :, :rows, index] = part.permute(0, 2, 3, 1, 4)
        merged[:, :, rows:, index] = 0
    return merged.flatten(3)


# ---- relevance

@dataclass(frozen=True)
class RuleSet:
    """What distinguishes the published rules from those by magnitudes."""

    reciprocal: rules.Reciprocal
    add: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    copy: Callable[[Tensor, Tensor], Tensor]
    factor: Callable[[Tensor], Tensor]     # what a product of two matrices sees of each


PUBLISHED = RuleSet(rules.published_reciprocal, rules.add_published, rules.copy_published, lambda x: x)
MAGNITUDE = RuleSet(rules.stabilised_reciprocal, rules.add_by_magnitude, lambda relevance, x: relevance,
                    torch.abs)


def attention_relevances(network: Network, record: Record, targets: Tensor, rule_set: RuleSet,
                         start_block: int = 0) -> Iterator[Tensor]:
    """Yield the LRP relevance (B, h, K, M, N) of each block's attention, last to `start_block`.

    Relevance starts as one-hot at the logits, targets (B, K), and its sum is 1. GELU, softmax,
    LayerNorm, LayerScale pass it unchanged. The relevance into the first block's q, k, v is never
    read, so the last step ends at A. A yielded tensor may be read until the next is asked for.
    """
    relevance = _below_pool(network, record, targets, rule_set)
    for index in reversed(range(start_block, len(record.blocks))):
        block = record.blocks[index]
        relevance = _below_mlp(network, block, relevance, rule_set)
        residual, attended = rule_set.add(relevance, block.x[:, :, :block.rows], block.attended)
        share = _below_projection(network, block, attended, rule_set)
        value = rule_set.factor(block.value)
        attention = rules.matmul_left(share, block.attention, value)
        yield attention
        if index > start_block:
            value = rules.matmul_right(share, block.attention, value)
            relevance = _below_qkv(network, block, attention, value, rule_set)
            relevance[:, :, :block.rows] += residual
            relevance = rules.drop_negligible(rule_set.copy(relevance, block.x))


def _below_pool(network: Network, record: Record, targets: Tensor, rule_set: RuleSet) -> Tensor:
    rows = network.model.head.weight[targets].unsqueeze(2)
    relevance = rules.z_plus_single(record.fc_norm.output, rows, rule_set.reciprocal)
    x = record.norm.output
    if x.shape[-2] == 1:
        return relevance
    everywhere = relevance.new_zeros(*relevance.shape[:2], *x.shape[-2:])
    everywhere[:, :, record.pooled] = rules.mean_by_magnitude(relevance, x[:, :, record.pooled])
    return everywhere


def _below_linear(network: Network, linear: nn.Linear, relevance: Tensor, x: Tensor, product: Tensor,
                  rule_set: RuleSet) -> Tensor:
    magnitude = network.magnitude(linear)
    inverse = rules.z_plus_inverse(x, product, magnitude, rule_set.reciprocal)
    return rules.z_plus_linear(relevance, x, linear.weight, magnitude, inverse)


def _below_mlp(network: Network, block: BlockRecord, relevance: Tensor, rule_set: RuleSet) -> Tensor:
    """From a block's output to its middle, (B, K, M, D) both."""
    mlp = block.block.mlp
    residual, branch = rule_set.add(relevance, block.middle, block.mlp_output)
    hidden = _below_linear(network, mlp.fc2, branch, block.hidden, block.mlp_product, rule_set)
    branch = _below_linear(network, mlp.fc1, hidden, block.norm2.output, block.hidden_product, rule_set)
    return rule_set.copy(residual.add_(branch), block.middle)


def _below_projection(network: Network, block: BlockRecord, relevance: Tensor,
                      rule_set: RuleSet) -> Tensor:
    """From the projection's output to half of R / z at O = A V, (B, h, K, M, d)."""
    mixed = merge_heads(block.mixed)
    relevance = _below_linear(network, block.block.attn.proj, relevance, mixed,
                              block.projected_product, rule_set)
    # A is not negative: by magnitudes the product is A |V|.
    product = block.attention @ rule_set.factor(block.value)
    return split_heads(relevance, product.shape[1]) * (rule_set.reciprocal(product) / 2)


def _below_qkv(network: Network, block: BlockRecord, attention: Tensor, value: Tensor,
               rule_set: RuleSet) -> Tensor:
    """From relevance of A (B, h, K, M, N), which it overwrites, and of v to the block's input."""
    query, key = rule_set.factor(block.query.output), rule_set.factor(block.key.output).mT
    share = rules.drop_negligible(attention.mul_(rule_set.reciprocal(query @ key).div_(2)))
    query, key = rules.matmul_left(share, query, key), rules.matmul_right(share, query, key).mT
    return _below_linear(network, block.block.attn.qkv, merge_qkv(query, key, value),
                         block.norm1.output, block.qkv_product, rule_set)
