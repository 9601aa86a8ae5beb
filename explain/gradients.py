"""Gradients of logits down the recorded ViT, written out by hand; and gradients that depart from it.

By hand, as autograd would record a graph for each call, differentiate for weights that nobody
asks about, and fail for callers in inference mode. All targets go down together. Several kinds of
relevance are the input times a gradient in which single operations are replaced: `Way` says which.

Shapes as in trace.py: B images, K targets, h heads, P patches, N tokens, M rows, T tokens that heads
read, d head width, D model width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from timm.layers import QuickGELU
from torch import Tensor, nn

from explain import rules
from explain.trace import BlockRecord, Network, Norm, Record, is_tanh, merge_parts, plus_bias, scaled, split_heads
from explain.types import TimmModule


@dataclass(frozen=True)
class Way:
    """How a way down departs from the gradient; as it stands, it is the gradient itself."""

    constant_deviation: bool = False  # LayerNorm: the standard deviation is a constant
    secant: bool = False  # activation: f(x) / x for the slope f'(x)
    halved: bool = False  # product of two tensors: each factor gets half
    constant_attention: bool = False  # attention: A is a constant
    gamma: float = 0.0  # linear layers of an MLP: the gamma rule, if not 0


GRADIENT = Way()


def attention_gradients(
    network: Network, record: Record, rows: Tensor, start_block: int = 0, way: Way = GRADIENT
) -> Iterator[Tensor]:
    """Yield dy/dA (B, h, K, M, N) of each block's attention, from the last down to `start_block`.

    rows (B, K, T, D): the gradient of y with respect to what the heads read, so their weight rows
    of a target where y is its logit. Attention pooling comes first, where there is one. A yielded
    tensor may be read until the next is asked for.
    """
    gradient = _below_head(record, rows, way)
    for block in record.from_last(start_block):
        gradient = _below_mlp(network, block, gradient, way)
        mixed = _below_product(block, gradient, way)
        attention = rules.times_shared(mixed, block.value.mT)
        yield attention
        if block is not record.blocks[start_block]:
            value = rules.shared_times(block.attention.mT, mixed)
            query = key = None
            if not way.constant_attention:
                query, key = _below_softmax(block, mixed, attention, way)
            gradient = _below_attention(record, block, gradient, (query, key, value), way)


def patch_gradient(
    network: Network,
    record: Record,
    rows: Tensor,
    way: Way,
    at_blocks: list[Tensor] | None = None,
    carried: list[Tensor] | None = None,
) -> Tensor:
    """Gradient (B, K, P, D) at the patch convolution's output.

    at_blocks: if a list, gets (B, K, P) of each block, from the last to the first: token times gradient
        of each patch's token where it enters the block.
    carried: if a list, gets (B, K, h, P) of each layer, from the last (attention pooling, where
        there is one) to the first: the relevance that each head carries away from each patch,
        sum_m A_mn (dy/dA)_mn, of which half each belongs to A and to v where products are halved.
    """
    gradient = _below_head(record, rows, way)
    for block in record.from_last():
        gradient = _below_mlp(network, block, gradient, way)
        mixed = _below_product(block, gradient, way)
        value = rules.shared_times(block.attention.mT, mixed)
        if carried is not None:
            carried.append(_carried(record, block, value, way))
        query = key = None
        if not way.constant_attention:
            query, key = _below_softmax(block, mixed, rules.times_shared(mixed, block.value.mT), way)
        gradient = _below_attention(record, block, gradient, (query, key, value), way)
        if at_blocks is not None and not block.is_pool:
            at_blocks.append((record.patches(gradient) * record.patches(block.x)).sum(-1))
    patches = record.patches(_below_norm(record.embedding.norm_pre, gradient, way))
    return _below_norm(record.embedding.norm, patches, way)


def _carried(record: Record, block: BlockRecord, value_gradient: Tensor, way: Way) -> Tensor:
    carried = (value_gradient * block.value).sum(-1).transpose(1, 2)  # (B, K, h, N)
    patches = record.grid[0] * record.grid[1]
    return carried[..., carried.shape[-1] - patches :] * (2 if way.halved else 1)


# ---- one layer down


def _below_head(record: Record, rows: Tensor, way: Way) -> Tensor:
    """To the last block's output, or to an attention pool's."""
    gradient = _below_norm(record.fc_norm, rows, way)
    if record.pool is not None:
        return gradient
    if record.averaged:
        count = len(range(*record.pooled.indices(record.norm.output.shape[-2])))
        gradient = (gradient / count).expand(-1, -1, count, -1)
    return _below_norm(record.norm, record.place(gradient), way)


def _below_norm(norm: Norm, gradient: Tensor, way: Way) -> Tensor:
    if norm.standardised is None or norm.inverse_deviation is None:  # an Identity
        return gradient
    gradient = gradient if norm.weight is None else gradient * norm.weight
    result = gradient - gradient.mean(-1, keepdim=True)
    if not way.constant_deviation:
        along = (gradient * norm.standardised).mean(-1, keepdim=True)
        result = result.addcmul_(norm.standardised, along, value=-1)
    return result.mul_(norm.inverse_deviation)


def _below_mlp(network: Network, block: BlockRecord, gradient: Tensor, way: Way) -> Tensor:
    """From a block's output to its middle, (B, K, M, D) both."""
    mlp, norm2 = block.block.mlp, block.norm2
    branch = scaled(gradient, block.block.ls2)
    hidden = _below_linear(network, mlp.fc2, branch, block.hidden, block.mlp_product, way.gamma)
    slope = _secant if way.secant else _slope
    hidden.mul_(slope(mlp.act, plus_bias(block.hidden_product, mlp.fc1)))
    branch = _below_linear(network, mlp.fc1, hidden, norm2.output, block.hidden_product, way.gamma)
    return gradient + _below_norm(norm2, branch, way)


def _below_linear(
    network: Network, linear: nn.Linear, gradient: Tensor, x: Tensor, product: Tensor, gamma: float
) -> Tensor:
    if not gamma:
        return gradient @ linear.weight
    magnitude = network.magnitude(linear)
    ratio = rules.gamma_ratio(product, linear.bias, x.abs() @ magnitude.mT, gamma)
    return rules.gamma_linear(gradient, x, linear.weight, magnitude, ratio, gamma)


def _slope(activation: TimmModule, x: Tensor) -> Tensor:
    """Derivative of a GELU at x, without autograd: callers may be in inference mode."""
    if isinstance(activation, QuickGELU):
        gate = torch.sigmoid(1.702 * x)
        return gate + 1.702 * x * gate * (1 - gate)
    return torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate="tanh" if is_tanh(activation) else "none")


def _secant(activation: TimmModule, x: Tensor) -> Tensor:
    """f(x) / x of a GELU, without the division: the gate that multiplies x."""
    if isinstance(activation, QuickGELU):
        return torch.sigmoid(1.702 * x)
    if is_tanh(activation):
        return torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))
    return torch.special.ndtr(x)


def _below_product(block: BlockRecord, gradient: Tensor, way: Way) -> Tensor:
    """At O = A V, (B, h, K, M, d), as each factor of the product sees it."""
    attn = block.block.attn
    mixed = split_heads(scaled(gradient, block.block.ls1) @ attn.proj.weight, attn.num_heads)
    return mixed / 2 if way.halved else mixed


def _below_softmax(block: BlockRecord, mixed: Tensor, attention: Tensor, way: Way) -> tuple[Tensor | None, Tensor]:
    """At query and key, from gradients at O and A, of which it overwrites the latter."""
    scale = block.block.attn.scale / (2 if way.halved else 1)
    # The softmax's sum_n A dA equals sum_d O dO, which is much smaller.
    scores = attention.sub_((mixed * block.mixed).sum(-1, keepdim=True)).mul_(block.attention)
    key = rules.shared_times(block.query.output.mT, scores).mT * scale
    key = _below_norm(block.key, key, way)
    if block.is_pool:  # its query is a constant
        return None, key
    query = rules.times_shared(scores, block.key.output).mul_(scale)
    return _below_norm(block.query, query, way), key


def _below_attention(
    record: Record, block: BlockRecord, gradient: Tensor, parts: tuple[Tensor | None, Tensor | None, Tensor], way: Way
) -> Tensor:
    """At a block's input, from what stands at its middle and the gradients at query, key and value.

    Tokens that nothing attends to would have denormal gradients in every block below.
    """
    merged, weight = _merge(block, parts)
    below = _below_norm(block.norm1, merged @ weight, way)
    if block.is_pool:
        return rules.drop_negligible(_below_norm(record.norm, record.place(below), way))
    below[:, :, : block.rows] += gradient
    return rules.drop_negligible(below)


def _merge(block: BlockRecord, parts: tuple[Tensor | None, Tensor | None, Tensor]) -> tuple[Tensor, Tensor]:
    """Those parts that are not None, and the rows of the qkv weight that made them."""
    weight, there = block.block.attn.qkv.weight, [part for part in parts if part is not None]
    width = parts[-1].shape[1] * parts[-1].shape[-1]
    return merge_parts(*there), weight[weight.shape[0] - width * len(there) :]
