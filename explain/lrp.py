"""Propagate relevance back through a traced ViT by LRP, for transformer attribution: the relevance of every attention.

Shapes as in trace.py: B images, K targets, h heads, N tokens, M rows, T tokens that heads read, d head width, D model
width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from explain import rules
from explain.layers import merge_heads, merge_qkv, split_heads
from explain.trace import BlockRecord, Network, Record


@dataclass(frozen=True)
class RuleSet:
    """The rules in which the published method and the method by magnitudes differ; see rules.py.

    reciprocal: the division of every rule.
    add: splits the relevance of a residual sum.
    copy: joins the relevance of an activation that is read twice.
    factor: what the rule of a matrix product takes of each factor: its values, or their magnitudes.
    """

    reciprocal: rules.Reciprocal
    add: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    copy: Callable[[Tensor, Tensor], Tensor]
    factor: Callable[[Tensor], Tensor]


PUBLISHED = RuleSet(rules.published_reciprocal, rules.add_published, rules.copy_published, lambda x: x)
MAGNITUDE = RuleSet(rules.stabilised_reciprocal, rules.add_by_magnitude, lambda relevance, x: relevance, torch.abs)


def attention_relevances(
    network: Network, record: Record, rows: Tensor, rule_set: RuleSet, start_block: int = 0, to_input: bool = False
) -> Iterator[Tensor]:
    """Yield the LRP relevance of each block's attention, from the last block to the first that is asked for.

    Relevance starts with 1 at the target's logit. Activations, softmax, LayerNorm and LayerScale pass it on unchanged.

    network, record: the traced model and its recorded forward pass.
    rows: (B, K, T, D), the heads' weights of each target (see contrasts.head_rows).
    rule_set: PUBLISHED or MAGNITUDE.
    start_block: the last block to be yielded, counted from 0.
    to_input: whether to go on to the input of `start_block`, which the relevance of attention does not need.

    Yields (B, h, K, M, N) per block, that of attention pooling first, if the model has it; with `to_input` (B, K, N, D)
    at last. A tensor may be overwritten once the next one is asked for.
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
            relevance = _joined(record, block, relevance, residual, rule_set)
    if to_input:
        yield relevance


def _below_head(record: Record, rows: Tensor, rule_set: RuleSet) -> Tensor:
    """From the logit to the tokens that pooling reads, (B, K, M, D), or to attention pooling's output, (B, K, 1, D)."""
    relevance = rules.z_plus_single(record.fc_norm.output, rows, rule_set.reciprocal)
    if record.averaged:
        relevance = rules.mean_by_magnitude(relevance, record.norm.output[:, :, record.pooled])
    return relevance if record.pool is not None else record.place(relevance)


def _joined(
    record: Record, block: BlockRecord, relevance: Tensor, residual: Tensor | None, rule_set: RuleSet
) -> Tensor:
    """Sum the relevance of the attention branch and of the residual connection at a block's input, (B, K, N, D)."""
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
    """From A (B, h, K, M, N), whose relevance is overwritten, and v (B, h, K, N, d) to the attention branch's input."""
    query, key = rule_set.factor(block.query.output), rule_set.factor(block.key.output).mT
    share = rules.drop_negligible(attention.mul_(rule_set.reciprocal(query @ key).div_(2)))
    relevances = [rules.matmul_right(share, query, key).mT, value]
    if not block.is_pool:  # a pool's query is a constant, which absorbs its relevance
        relevances.insert(0, rules.matmul_left(share, query, key))
    return _below_linear(
        network, block.block.attn.qkv, merge_qkv(*relevances), block.norm1.output, block.qkv_product, rule_set
    )
