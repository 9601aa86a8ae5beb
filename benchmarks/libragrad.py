"""LibraGrad's FullGrad and FullGrad+, one of the candidates: what tokens and biases bring to a logit.

Down the way of LibraGrad attention, LayerNorm's deviation and the gate of an activation are constants, so that the
logit is linear in the input and in every bias: input times gradient and biases times gradients add up to it. A bias is
counted at the token where it is added. FullGrad is what enters block 0 (pixels, and the convolution's bias and
positions, which are biases too) and every bias above; FullGrad+ adds what enters every other block, too.

Sources: Mehri, Baghshah, Pilehvar, CVPR 2025 (arXiv:2411.16760), section 2.1 (whose layers are blocks here) and 3.5;
FullGrad: Srinivas, Fleuret, NeurIPS 2019 (who take magnitudes; LibraGrad keeps signs).
Shapes: B images, K targets, P patches, N tokens, M rows of a block that reach the head, D model width.
"""

import timing  # noqa: F401, beside this file; it finds the project's folders
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UsageError
from explain import rules
from explain.gradients import Way, _below_norm, _secant
from explain.targets import class_weights, head_rows
from explain.trace import BlockRecord, Network, Record, merge_heads, plus_bias, scaled, split_heads

LIBRA = Way(constant_deviation=True, secant=True, constant_attention=True)


def fullgrad(network: Network, images: Tensor, targets: Tensor, contrast: str = "none", plus: bool = False) -> Tensor:
    """Maps (B, K, grid_h, grid_w) of FullGrad, or FullGrad+."""
    record = network.record(images)
    at_blocks, biases = contributions(
        network, record, head_rows(network, class_weights(record.logits, targets, contrast))
    )
    by_token = biases + (sum(at_blocks) if plus else at_blocks[0])
    return by_token[..., -record.grid[0] * record.grid[1] :].unflatten(-1, record.grid)


def contributions(network: Network, record: Record, rows: Tensor) -> tuple[list[Tensor], Tensor]:
    """What tokens bring where they enter each block, from the first, and what all biases above block 0's input bring.

    rows (B, K, T, D): the heads' weights. All are (B, K, N). Whatever the block, its tokens, the biases above them and
    the head's own bias add up to what is explained. The norm after average pooling has a bias at no token: left out.
    """
    if record.pool is not None:
        raise UsageError(
            "LibraGrad is written for models that read the class token or average tokens, not for "
            "attention pooling; leave it out of --candidates"
        )
    gradient = _at_last_norm(record, rows)
    at_blocks, biases = [], brought(gradient, network.model.norm)
    gradient = _below_norm(record.norm, gradient, LIBRA)
    for block in record.from_last():
        gradient, more = below_block(block, gradient)
        biases = more + F.pad(biases, (0, more.shape[-1] - biases.shape[-1]))
        at_blocks.insert(0, (gradient * block.x).sum(-1))
    return at_blocks, biases


def _at_last_norm(record: Record, rows: Tensor) -> Tensor:
    gradient = _below_norm(record.fc_norm, rows, LIBRA)
    if record.averaged:
        count = len(range(*record.pooled.indices(record.norm.output.shape[-2])))
        gradient = (gradient / count).expand(-1, -1, count, -1)
    return record.place(gradient)


def below_block(block: BlockRecord, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """From a block's output (B, K, M, D) to its input (B, K, N, D), and what its biases bring at each token (B, K,
    N)."""
    parts, attn, mlp = block.block, block.block.attn, block.block.mlp
    branch = scaled(gradient, parts.ls2)
    hidden = (branch @ mlp.fc2.weight).mul_(_secant(mlp.act, plus_bias(block.hidden_product, mlp.fc1)))
    normed = hidden @ mlp.fc1.weight
    at_rows = brought(branch, mlp.fc2) + brought(hidden, mlp.fc1) + brought(normed, parts.norm2)
    gradient = gradient + _below_norm(block.norm2, normed, LIBRA)
    attended = scaled(gradient, parts.ls1)
    at_rows = at_rows + brought(attended, attn.proj)
    mixed = split_heads(attended @ attn.proj.weight, attn.num_heads)
    value = merge_heads(rules.shared_times(block.attention.mT, mixed))
    of_value = slice(attn.qkv.out_features - value.shape[-1], None)
    normed = value @ attn.qkv.weight[of_value]
    at_tokens = brought(normed, parts.norm1) + (0 if attn.qkv.bias is None else value @ attn.qkv.bias[of_value])
    below = _below_norm(block.norm1, normed, LIBRA)
    below[:, :, : block.rows] += gradient
    at_tokens[:, :, : block.rows] += at_rows
    return rules.drop_negligible(below), at_tokens


def brought(gradient: Tensor, layer: nn.Module) -> Tensor:
    """What a layer's bias brings at each token: gradients at its output (B, K, N, D) -> (B, K, N); 0 without a bias."""
    bias = getattr(layer, "bias", None)
    return torch.zeros_like(gradient[..., 0]) if bias is None else gradient @ bias
