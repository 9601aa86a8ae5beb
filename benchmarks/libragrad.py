"""LibraGrad's FullGrad and FullGrad+: contributions of tokens and biases to a logit. Part of candidates.py.

LibraGrad treats attention, the standard deviation of LayerNorm and the gate of an activation as constants. The logit is
then linear in the input and in every bias: it is the sum of input times gradient and of all biases times gradients. A
bias counts at the token where it is added. FullGrad sums the contribution of the tokens at the input of block 0 (pixels,
the convolution's bias and position embeddings, which are biases too) and those of all biases above; FullGrad+ adds the
contributions of the tokens at the input of every other block.

Source: Mehri, Baghshah, Pilehvar, CVPR 2025 (arXiv:2411.16760), sections 2.1 (its layers are blocks here) and 3.5;
FullGrad: Srinivas, Fleuret, NeurIPS 2019 (with magnitudes, where LibraGrad keeps signs).
Shapes: B images, K targets, P patches, N tokens, M rows of a block that the head depends on, T tokens that the head
reads, D model width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UsageError
from explain import rules
from explain.contrasts import class_weights, head_rows
from explain.gradients import BackwardRules, below_norm
from explain.layers import merge_heads, plus_bias, scaled, secant, split_heads
from explain.trace import BlockRecord, Network, Record

LIBRA = BackwardRules(constant_deviation=True, secant_slope=True, constant_attention=True)


def fullgrad(network: Network, images: Tensor, targets: Tensor, contrast: str = "none", plus: bool = False) -> Tensor:
    """Compute maps (B, K, grid_h, grid_w).

    network: the traced model.
    images: (B, 3, H, W), normalised.
    targets: (B, K) int64.
    contrast: one of explain.CONTRASTS, what is explained instead of the logit.
    plus: whether to compute FullGrad+.
    """
    record = network.record(images)
    at_blocks, biases = contributions(
        network, record, head_rows(network, class_weights(record.logits, targets, contrast))
    )
    by_token = biases + (sum(at_blocks) if plus else at_blocks[0])
    return by_token[..., -record.grid[0] * record.grid[1] :].unflatten(-1, record.grid)


def contributions(network: Network, record: Record, rows: Tensor) -> tuple[list[Tensor], Tensor]:
    """Compute the contributions of tokens at the input of each block, and of all biases above block 0's input.

    For every block, the contributions of its tokens, of the biases above it and of the head's bias add up to the
    explained value. The bias of a norm after average pooling belongs to no token and is left out.

    network: the traced model.
    record: its recorded forward pass.
    rows: (B, K, T, D), the head's weights for each target.

    Returns a list of (B, K, N), one per block from the first, and (B, K, N) for the biases.
    Raises UsageError for attention pooling.
    """
    if record.pool is not None:
        raise UsageError(
            "LibraGrad is written for models that read the class token or average tokens, not for "
            "attention pooling; leave it out of --candidates"
        )
    gradient = _at_last_norm(record, rows)
    at_blocks: list[Tensor] = []
    biases = contribution_of_bias(gradient, network.model.norm)
    gradient = below_norm(record.norm, gradient, LIBRA)
    for block in record.from_last():
        gradient, more = below_block(block, gradient)
        biases = more + F.pad(biases, (0, more.shape[-1] - biases.shape[-1]))
        at_blocks.insert(0, (gradient * block.x).sum(-1))
    return at_blocks, biases


def _at_last_norm(record: Record, rows: Tensor) -> Tensor:
    gradient = below_norm(record.fc_norm, rows, LIBRA)
    if record.averaged:
        count = len(range(*record.pooled.indices(record.norm.output.shape[-2])))
        gradient = (gradient / count).expand(-1, -1, count, -1)
    return record.place(gradient)


def below_block(block: BlockRecord, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Propagate a gradient from a block's output (B, K, M, D) to its input (B, K, N, D).

    Returns the gradient, and the contributions of the block's biases at each token, (B, K, N).
    """
    parts, attn, mlp = block.block, block.block.attn, block.block.mlp
    branch = scaled(gradient, parts.ls2)
    hidden = (branch @ mlp.fc2.weight).mul_(secant(mlp.act, plus_bias(block.hidden_product, mlp.fc1)))
    normed = hidden @ mlp.fc1.weight
    at_rows = (
        contribution_of_bias(branch, mlp.fc2)
        + contribution_of_bias(hidden, mlp.fc1)
        + contribution_of_bias(normed, parts.norm2)
    )
    gradient = gradient + below_norm(block.norm2, normed, LIBRA)
    attended = scaled(gradient, parts.ls1)
    at_rows = at_rows + contribution_of_bias(attended, attn.proj)
    mixed = split_heads(attended @ attn.proj.weight, attn.num_heads)
    value = merge_heads(rules.shared_times(block.attention.mT, mixed))
    of_value = slice(attn.qkv.out_features - value.shape[-1], None)
    normed = value @ attn.qkv.weight[of_value]
    at_tokens = contribution_of_bias(normed, parts.norm1) + (
        0 if attn.qkv.bias is None else value @ attn.qkv.bias[of_value]
    )
    below = below_norm(block.norm1, normed, LIBRA)
    below[:, :, : block.rows] += gradient
    at_tokens[:, :, : block.rows] += at_rows
    return rules.drop_negligible(below), at_tokens


def contribution_of_bias(gradient: Tensor, layer: nn.Module) -> Tensor:
    """Compute the contribution of a layer's bias at each token, 0 without a bias.

    gradient: (B, K, N, D), at the layer's output.
    Returns (B, K, N).
    """
    bias = getattr(layer, "bias", None)
    return torch.zeros_like(gradient[..., 0]) if bias is None else gradient @ bias
