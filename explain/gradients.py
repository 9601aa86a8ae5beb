"""Propagate gradients of logits back through a traced ViT, exactly or by modified rules.

The gradients are written out by hand: autograd would record a graph per call, differentiate with respect to all
weights, and fail for callers in inference mode. All targets go through together. AttnLRP and CP-LRP are the input times
a gradient
in which some operations are replaced: `BackwardRules` says which.

Shapes as in trace.py: B images, K targets, h heads, P patches, N tokens, M rows, T tokens that heads read, d head
width, D model width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from explain import rules
from explain.layers import merge_qkv, plus_bias, scaled, secant, slope, split_heads
from explain.trace import BlockRecord, Network, Norm, Record


@dataclass(frozen=True)
class BackwardRules:
    """Which operations of a backward pass differ from the gradient's; by default none does.

    constant_deviation: the standard deviation of a LayerNorm is a constant.
    secant_slope: the slope f'(x) of an activation is replaced by f(x) / x.
    halved_products: each factor of a product of two activations gets half of the gradient.
    constant_attention: the attention matrix A is a constant.
    gamma: of the gamma rule in the linear layers of an MLP; 0 for the gradient itself, which is the epsilon rule.
    """

    constant_deviation: bool = False
    secant_slope: bool = False
    halved_products: bool = False
    constant_attention: bool = False
    gamma: float = 0.0


GRADIENT = BackwardRules()


def attention_gradients(
    network: Network, record: Record, rows: Tensor, start_block: int = 0, backward: BackwardRules = GRADIENT
) -> Iterator[Tensor]:
    """Yield the gradient of each block's attention, from the last block to the first that is asked for.

    network, record: the traced model and its recorded forward pass.
    rows: (B, K, T, D), the gradient of the explained quantity at what the heads read (see contrasts.head_rows).
    start_block: the last block to be yielded, counted from 0.
    backward: the rules of the backward pass.

    Yields (B, h, K, M, N) per block, that of attention pooling first, if the model has it. A tensor may be overwritten
    once the next one is asked for.
    """
    gradient = _below_head(record, rows, backward)
    for block in record.from_last(start_block):
        gradient = _below_mlp(network, block, gradient, backward)
        mixed = _below_product(block, gradient, backward)
        attention = rules.times_shared(mixed, block.value.mT)
        yield attention
        if block is not record.blocks[start_block]:
            value = rules.shared_times(block.attention.mT, mixed)
            query = key = None
            if not backward.constant_attention:
                query, key = _below_softmax(block, mixed, attention, backward)
            gradient = _below_attention(record, block, gradient, (query, key, value), backward)


def patch_gradient(
    network: Network,
    record: Record,
    rows: Tensor,
    backward: BackwardRules,
    at_blocks: list[Tensor] | None = None,
    carried: list[Tensor] | None = None,
) -> Tensor:
    """Compute the gradient at the output of the patch convolution.

    network, record: the traced model and its recorded forward pass.
    rows: (B, K, T, D), the gradient of the explained quantity at what the heads read (see contrasts.head_rows).
    backward: the rules of the backward pass.
    at_blocks: a list that is given (B, K, P) for each block, from the last to the first: token times gradient of each
        patch's token at the block's input.
    carried: a list that is given (B, K, h, P) for each layer, from the last (attention pooling, if the model has it) to
        the first: the relevance that each head carries away from each patch, sum_m A_mn (dy/dA)_mn. Where products are
        halved, half of it belongs to A and half to v.

    Returns (B, K, P, D).
    """
    gradient = _below_head(record, rows, backward)
    for block in record.from_last():
        gradient = _below_mlp(network, block, gradient, backward)
        mixed = _below_product(block, gradient, backward)
        value = rules.shared_times(block.attention.mT, mixed)
        if carried is not None:
            carried.append(_carried(record, block, value, backward))
        query = key = None
        if not backward.constant_attention:
            query, key = _below_softmax(block, mixed, rules.times_shared(mixed, block.value.mT), backward)
        gradient = _below_attention(record, block, gradient, (query, key, value), backward)
        if at_blocks is not None and not block.is_pool:
            at_blocks.append((record.patches(gradient) * record.patches(block.x)).sum(-1))
    patches = record.patches(below_norm(record.embedding.norm_pre, gradient, backward))
    return below_norm(record.embedding.norm, patches, backward)


def _carried(record: Record, block: BlockRecord, value_gradient: Tensor, backward: BackwardRules) -> Tensor:
    carried = (value_gradient * block.value).sum(-1).transpose(1, 2)  # (B, K, h, N)
    patches = record.grid[0] * record.grid[1]
    return carried[..., carried.shape[-1] - patches :] * (2 if backward.halved_products else 1)


# ---- one layer back: each takes the gradient at its output and returns that at its input


def _below_head(record: Record, rows: Tensor, backward: BackwardRules) -> Tensor:
    """From what the heads read to the last block's output (B, K, M, D), or to attention pooling's (B, K, 1, D)."""
    gradient = below_norm(record.fc_norm, rows, backward)
    if record.pool is not None:
        return gradient
    if record.averaged:
        count = len(range(*record.pooled.indices(record.norm.output.shape[-2])))
        gradient = (gradient / count).expand(-1, -1, count, -1)
    return below_norm(record.norm, record.place(gradient), backward)


def below_norm(norm: Norm, gradient: Tensor, backward: BackwardRules) -> Tensor:
    """Compute the gradient at a LayerNorm's input from the gradient at its output, of the same shape."""
    if norm.standardised is None or norm.inverse_deviation is None:  # an Identity
        return gradient
    gradient = gradient if norm.weight is None else gradient * norm.weight
    result = gradient - gradient.mean(-1, keepdim=True)
    if not backward.constant_deviation:
        along = (gradient * norm.standardised).mean(-1, keepdim=True)
        result = result.addcmul_(norm.standardised, along, value=-1)
    return result.mul_(norm.inverse_deviation)


def _below_mlp(network: Network, block: BlockRecord, gradient: Tensor, backward: BackwardRules) -> Tensor:
    """From a block's output to its middle, (B, K, M, D) both."""
    mlp, norm2 = block.block.mlp, block.norm2
    branch = scaled(gradient, block.block.ls2)
    hidden = _below_linear(network, mlp.fc2, branch, block.hidden, block.mlp_product, backward.gamma)
    activation_slope = secant if backward.secant_slope else slope
    hidden.mul_(activation_slope(mlp.act, plus_bias(block.hidden_product, mlp.fc1)))
    branch = _below_linear(network, mlp.fc1, hidden, norm2.output, block.hidden_product, backward.gamma)
    return gradient + below_norm(norm2, branch, backward)


def _below_linear(
    network: Network, linear: nn.Linear, gradient: Tensor, x: Tensor, product: Tensor, gamma: float
) -> Tensor:
    if not gamma:
        return gradient @ linear.weight
    magnitude = network.magnitude(linear)
    ratio = rules.gamma_ratio(product, linear.bias, x.abs() @ magnitude.mT, gamma)
    return rules.gamma_linear(gradient, x, linear.weight, magnitude, ratio, gamma)


def _below_product(block: BlockRecord, gradient: Tensor, backward: BackwardRules) -> Tensor:
    """From the attention layer's output (B, K, M, D) to O = A V, (B, h, K, M, d): the gradient for each factor."""
    attn = block.block.attn
    mixed = split_heads(scaled(gradient, block.block.ls1) @ attn.proj.weight, attn.num_heads)
    return mixed / 2 if backward.halved_products else mixed


def _below_softmax(
    block: BlockRecord, mixed: Tensor, attention: Tensor, backward: BackwardRules
) -> tuple[Tensor | None, Tensor]:
    """From O and A to query and key, both before their norms; `attention`, the gradient at A, is overwritten.

    The query's is None in attention pooling, where it is a constant.
    """
    scale = block.block.attn.scale / (2 if backward.halved_products else 1)
    # The softmax's sum_n A dA equals sum_d O dO, which is much smaller.
    scores = attention.sub_((mixed * block.mixed).sum(-1, keepdim=True)).mul_(block.attention)
    key = rules.shared_times(block.query.output.mT, scores).mT * scale
    key = below_norm(block.key, key, backward)
    if block.is_pool:  # its query is a constant
        return None, key
    query = rules.times_shared(scores, block.key.output).mul_(scale)
    return below_norm(block.query, query, backward), key


def _below_attention(
    record: Record,
    block: BlockRecord,
    gradient: Tensor,
    qkv_gradients: tuple[Tensor | None, Tensor | None, Tensor],
    backward: BackwardRules,
) -> Tensor:
    """From a block's middle, and from query, key and value (None for a constant), to its input (B, K, N, D)."""
    merged, weight = _merged_with_weight(block, qkv_gradients)
    below = below_norm(block.norm1, merged @ weight, backward)
    # Tokens that nothing attends to would have denormal gradients in every block below.
    if block.is_pool:
        return rules.drop_negligible(below_norm(record.norm, record.place(below), backward))
    below[:, :, : block.rows] += gradient
    return rules.drop_negligible(below)


def _merged_with_weight(
    block: BlockRecord, qkv_gradients: tuple[Tensor | None, Tensor | None, Tensor]
) -> tuple[Tensor, Tensor]:
    """The gradients that are not None, merged, and the rows of the qkv weight that belong to them."""
    weight, value = block.block.attn.qkv.weight, qkv_gradients[-1]
    given = [gradient for gradient in qkv_gradients if gradient is not None]
    width = value.shape[1] * value.shape[-1]
    return merge_qkv(*given), weight[weight.shape[0] - width * len(given) :]
