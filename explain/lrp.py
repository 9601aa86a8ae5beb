"""LRP down the recorded ViT, as transformer attribution needs it: the relevance of every attention.

Shapes as in trace.py: B images, K targets, h heads, N tokens, M rows, T tokens that heads read, d
head width, D model width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explain import rules
from explain.trace import BlockRecord, Network, Record, merge_heads, merge_parts, split_heads


@dataclass(frozen=True)
class RuleSet:
    """What distinguishes the published rules from those by magnitudes."""

    reciprocal: rules.Reciprocal
    add: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    copy: Callable[[Tensor, Tensor], Tensor]
    factor: Callable[[Tensor], Tensor]  # what a product of two matrices sees of each


PUBLISHED = RuleSet(rules.published_reciprocal, rules.add_published, rules.copy_published, lambda x: x)
MAGNITUDE = RuleSet(rules.stabilised_reciprocal, rules.add_by_magnitude, lambda relevance, x: relevance, torch.abs)


def attention_relevances(
    network: Network, record: Record, rows: Tensor, rule_set: RuleSet, start_block: int = 0, to_input: bool = False
) -> Iterator[Tensor]:
    """Yield the LRP relevance (B, h, K, M, N) of each block's attention, last to `start_block`.

    rows (B, K, T, D): the heads' rows of a target; relevance starts as one-hot at its logit, and
    its sum is 1. GELU, softmax, LayerNorm, LayerScale pass it unchanged. Attention pooling comes
    first, where there is one. The relevance into the first block's q, k, v is not needed for that,
    and the last step ends at A; with `to_input` it goes on, and what arrives at the first block's
    input (B, K, N, D) is yielded last. A yielded tensor may be read until the next is asked for.
    """
    relevance = _below_head(record, rows, rule_set)
    for block in record.from_last(start_block):
        relevance = _below_mlp(network, block, relevance, rule_set)
        if block.is_pool:
            residual, attended = None, relevance
        else:
            residual, attended = rule_set.add(relevance, block.x[:, :, : block.rows], block.attended)
        share = _below_projection(network, block, attended, rule_set)
        value = rule_set.factor(block.value)
        attention = rules.matmul_left(share, block.attention, value)
        yield attention
        if to_input or block is not record.blocks[start_block]:
            value = rules.matmul_right(share, block.attention, value)
            relevance = _below_qkv(network, block, attention, value, rule_set)
            relevance = _join(record, block, relevance, residual, rule_set)
    if to_input:
        yield relevance


def _below_head(record: Record, rows: Tensor, rule_set: RuleSet) -> Tensor:
    """To the tokens that pooling reads, (B, K, M, D), or to an attention pool's output, (B, K, 1, D)."""
    relevance = rules.z_plus_single(record.fc_norm.output, rows, rule_set.reciprocal)
    if record.averaged:
        relevance = rules.mean_by_magnitude(relevance, record.norm.output[:, :, record.pooled])
    return relevance if record.pool is not None else record.place(relevance)


def _join(record: Record, block: BlockRecord, relevance: Tensor, residual: Tensor | None, rule_set: RuleSet) -> Tensor:
    """What q, k and v brought and the residual's part, at a block's input (B, K, N, D)."""
    if residual is None:
        return record.place(relevance)
    relevance[:, :, : block.rows] += residual
    return rules.drop_negligible(rule_set.copy(relevance, block.x))


def _below_linear(
    network: Network, linear: nn.Linear, relevance: Tensor, x: Tensor, product: Tensor, rule_set: RuleSet
) -> Tensor:
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


def _below_projection(network: Network, block: BlockRecord, relevance: Tensor, rule_set: RuleSet) -> Tensor:
    """From the projection's output to half of R / z at O = A V, (B, h, K, M, d)."""
    mixed = merge_heads(block.mixed)
    relevance = _below_linear(network, block.block.attn.proj, relevance, mixed, block.projected_product, rule_set)
    # A is not negative: by magnitudes the product is A |V|.
    product = block.attention @ rule_set.factor(block.value)
    return split_heads(relevance, product.shape[1]) * (rule_set.reciprocal(product) / 2)


def _below_qkv(network: Network, block: BlockRecord, attention: Tensor, value: Tensor, rule_set: RuleSet) -> Tensor:
    """From relevance of A (B, h, K, M, N), which it overwrites, and of v to the block's input."""
    query, key = rule_set.factor(block.query.output), rule_set.factor(block.key.output).mT
    share = rules.drop_negligible(attention.mul_(rule_set.reciprocal(query @ key).div_(2)))
    parts = [rules.matmul_right(share, query, key).mT, value]
    if not block.is_pool:  # a pool's query is a constant, and keeps what it gets
        parts.insert(0, rules.matmul_left(share, query, key))
    return _below_linear(
        network, block.block.attn.qkv, merge_parts(*parts), block.norm1.output, block.qkv_product, rule_set
    )
