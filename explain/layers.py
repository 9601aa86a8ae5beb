"""The layers of a ViT as functions, the slopes of its activations, and the shapes of heads.

The modules are not called, as that would run their hooks (see explain/logit_check.py).

Shapes: B images, K targets, h heads, N tokens, M rows, d head width, D model width.
"""

import torch
from timm.layers import GELUTanh, QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

from explain.types import TimmModule

# ---- layers


def linear(layer: TimmModule, x: Tensor) -> Tensor:
    """Apply a linear layer, or an Identity in its place."""
    return x if isinstance(layer, nn.Identity) else F.linear(x, layer.weight, layer.bias)


def plus_bias(product: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
    """Add a layer's bias, if it has one, to x W^T."""
    return product if layer.bias is None else product + layer.bias


def scaled(x: Tensor, scale: TimmModule) -> Tensor:
    """Apply a LayerScale, or an Identity in its place; never in place, whatever the module says."""
    return x if isinstance(scale, nn.Identity) else x * scale.gamma


# ---- activations


def activated(activation: TimmModule, x: Tensor) -> Tensor:
    """Apply a GELU: exact, approximated by tanh, or approximated by a sigmoid (QuickGELU)."""
    if isinstance(activation, QuickGELU):
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if _is_tanh(activation) else "none")


def slope(activation: TimmModule, x: Tensor) -> Tensor:
    """Compute the derivative of a GELU at x, without autograd, as callers may be in inference mode."""
    if isinstance(activation, QuickGELU):
        gate = torch.sigmoid(1.702 * x)
        return gate + 1.702 * x * gate * (1 - gate)
    return torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate="tanh" if _is_tanh(activation) else "none")


def secant(activation: TimmModule, x: Tensor) -> Tensor:
    """Compute f(x) / x of a GELU without the division: the gate that x is multiplied by."""
    if isinstance(activation, QuickGELU):
        return torch.sigmoid(1.702 * x)
    if _is_tanh(activation):
        return torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))
    return torch.special.ndtr(x)


def _is_tanh(activation: TimmModule) -> bool:
    return isinstance(activation, GELUTanh) or getattr(activation, "approximate", "none") == "tanh"


# ---- heads


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (B, K, N, hd) to (B, h, K, N, d)."""
    return x.unflatten(-1, (heads, -1)).permute(0, 3, 1, 2, 4)


def merge_heads(x: Tensor) -> Tensor:
    """Reshape (B, h, K, N, d) to (B, K, N, hd)."""
    return x.permute(0, 2, 3, 1, 4).flatten(3)


def merge_qkv(*tensors: Tensor) -> Tensor:
    """Concatenate what belongs to query, key and value as the output of the qkv layer is ordered.

    tensors: (B, h, K, M, d) of the query, (B, h, K, N, d) of key and value; any of the first may be left out. Where the
        query has fewer rows than N, the others are 0.

    Returns (B, K, N, 3hd), or 2hd or hd for fewer tensors.
    """
    images, heads, targets, tokens, width = tensors[-1].shape
    merged = tensors[-1].new_empty(images, targets, tokens, len(tensors), heads, width)
    for index, tensor in enumerate(tensors):
        rows = tensor.shape[-2]
        merged[:, :, :rows, index] = tensor.permute(0, 2, 3, 1, 4)
        merged[:, :, rows:, index] = 0
    return merged.flatten(3)
