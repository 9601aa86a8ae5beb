"""Gradients of a logit with respect to every block's attention, written out by hand.

By hand, as autograd would record a graph for each call, differentiate for weights that nobody
asks about, and fail for callers in inference mode. All targets go down together.

Shapes as in vit.py: B images, K targets, h heads, N tokens, M rows, d head width, D model width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from timm.layers import GELUTanh, QuickGELU

from . import rules
from .vit import BlockRecord, Norm, Record, merge_qkv, plus_bias, scaled, split_heads


def attention_gradients(record: Record, head_rows: Tensor, start_block: int = 0) -> Iterator[Tensor]:
    """Yield dy/dA (B, h, K, M, N) of each block's attention, from the last down to `start_block`.

    head_rows (B, K, D): the gradient of y with respect to the head's input, so the head's weight
    row of a target where y is its logit. A yielded tensor may be read until the next is asked for.
    """
    gradient = _gradient_below_pool(record, head_rows.unsqueeze(2))
    for index in reversed(range(start_block, len(record.blocks))):
        block = record.blocks[index]
        gradient = _gradient_below_mlp(block, gradient)
        projected = scaled(gradient, block.block.ls1) @ block.block.attn.proj.weight
        mixed = split_heads(projected, block.block.attn.num_heads)
        attention = rules.times_shared(mixed, block.value.mT)
        yield attention
        if index > start_block:
            gradient = _gradient_below_attention(block, gradient, mixed, attention)


def _gradient_below_pool(record: Record, gradient: Tensor) -> Tensor:
    gradient = _gradient_below_norm(record.fc_norm, gradient)
    rows = record.norm.output.shape[-2]
    if rows > 1:
        pooled = gradient / len(range(*record.pooled.indices(rows)))
        gradient = gradient.new_zeros(*gradient.shape[:2], rows, gradient.shape[-1])
        gradient[:, :, record.pooled] = pooled
    return _gradient_below_norm(record.norm, gradient)


def _gradient_below_norm(norm: Norm, gradient: Tensor) -> Tensor:
    if norm.standardised is None:
        return gradient
    gradient = gradient if norm.weight is None else gradient * norm.weight
    along = (gradient * norm.standardised).mean(-1, keepdim=True)
    result = gradient - gradient.mean(-1, keepdim=True)
    return result.addcmul_(norm.standardised, along, value=-1).mul_(norm.inverse_deviation)


def _gradient_below_mlp(block: BlockRecord, gradient: Tensor) -> Tensor:
    mlp = block.block.mlp
    hidden = scaled(gradient, block.block.ls2) @ mlp.fc2.weight
    hidden.mul_(_slope(mlp.act, plus_bias(block.hidden_product, mlp.fc1)))
    return gradient + _gradient_below_norm(block.norm2, hidden @ mlp.fc1.weight)


def _slope(activation: nn.Module, x: Tensor) -> Tensor:
    """Derivative of a GELU at x, without autograd: callers may be in inference mode."""
    if isinstance(activation, QuickGELU):
        gate = torch.sigmoid(1.702 * x)
        return gate + 1.702 * x * gate * (1 - gate)
    tanh = isinstance(activation, GELUTanh) or getattr(activation, "approximate", "none") == "tanh"
    return torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate="tanh" if tanh else "none")


def _gradient_below_attention(block: BlockRecord, gradient: Tensor, mixed: Tensor,
                              attention: Tensor) -> Tensor:
    """From the gradients at the projection's input and at A to that at the block's input."""
    attn = block.block.attn
    # The softmax's sum_n A dA equals sum_d O dO, which is much smaller.
    scores = attention.sub_((mixed * block.mixed).sum(-1, keepdim=True)).mul_(block.attention)
    query = rules.times_shared(scores, block.key.output).mul_(attn.scale)
    key = rules.shared_times(block.query.output.mT, scores).mT * attn.scale
    value = rules.shared_times(block.attention.mT, mixed)
    qkv = merge_qkv(_gradient_below_norm(block.query, query), _gradient_below_norm(block.key, key), value)
    below = _gradient_below_norm(block.norm1, qkv @ attn.qkv.weight)
    below[:, :, :block.rows] += gradient
    return below
