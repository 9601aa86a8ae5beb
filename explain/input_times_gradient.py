"""Input times a modified gradient at pixels, at tokens or over depth: what the methods in attribution.py share.

Shapes: B images, K targets, L layers, h heads, P patches, N tokens, T tokens that heads read, D model width.
"""

from typing import Any

import torch
from torch import Tensor

from explain import rules
from explain.contrasts import class_weights, explained_value, head_rows
from explain.gradients import BackwardRules, patch_gradient
from explain.trace import Network, Record

PLACES = ("pixels", "tokens", "depth")


def input_times_gradient(
    network: Network,
    images: Tensor,
    targets: Tensor,
    backward_rules: tuple[BackwardRules, ...],
    gamma_patch: float,
    at: str,
    contrast: str,
    centre_head: bool,
    layers: bool,
    gap: bool,
) -> Tensor | tuple[Tensor, ...]:
    """Compute input times gradient, the mean over several modified gradients of one recorded forward pass.

    network: the traced model.
    images: (B, 3, H, W).
    targets: (B, K) int64.
    backward_rules: of each gradient.
    gamma_patch: of the gamma rule at the patch convolution, for relevance at the pixels; 0 for the epsilon rule.
    at: one of PLACES, see attribution.py, as for the options below.
    contrast, centre_head: what is explained.
    layers, gap: whether to return these, too.

    Returns maps (B, K, grid_h, grid_w), or a tuple of maps, layers (B, K, L, h, grid_h, grid_w) and gap (B, K).
    Raises ValueError for another place, or a gamma below 0.
    """
    if at not in PLACES:
        raise ValueError(f"at is {at!r}; expected one of {', '.join(PLACES)}.")
    for name, value in (*(("gamma", one.gamma) for one in backward_rules), ("gamma_patch", gamma_patch)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}; expected a finite number from 0 up (0 is the epsilon rule).")
    record = network.record(images)
    weights = class_weights(record.logits, targets, contrast, centre_head)
    rows = head_rows(network, weights)
    relevance: Any = 0.0
    by_head: Any = 0.0
    for backward in backward_rules:
        at_blocks: list[Tensor] = []
        carried: list[Tensor] = []
        kept = (None if at == "pixels" else at_blocks, carried if layers else None)
        at_patches = patch_gradient(network, record, rows, backward, *kept)
        if at == "pixels":
            at_patches = (at_patches * _patch_factor(network, images, record, gamma_patch)).sum(-1)
        else:
            at_patches = at_blocks[-1] if at == "tokens" else torch.stack(at_blocks).mean(0)
        relevance = relevance + at_patches / len(backward_rules)
        if layers:
            by_head = by_head + torch.stack(carried[::-1], dim=2) / len(backward_rules)
    maps = relevance.unflatten(-1, record.grid)
    outputs = [maps]
    if layers:
        outputs.append(by_head.unflatten(-1, record.grid))
    if gap:
        outputs.append(explained_value(record.logits, weights) - maps.sum((-2, -1)))
    return maps if len(outputs) == 1 else tuple(outputs)


def _patch_factor(network: Network, images: Tensor, record: Record, gamma: float) -> Tensor:
    """Compute what the gradient at the patch convolution's output is multiplied by, (B, 1, P, D).

    As the convolution is linear, input times gradient, summed over a patch's pixels, is its output without the bias,
    times the gradient there, summed over channels. The gamma rule moves relevance between the pixels of a patch, which
    a map does not show, and changes what the bias absorbs, which a map does show.
    """
    product, bias = record.embedding.product, network.model.patch_embed.proj.bias
    if not gamma:
        return product
    magnitude = network.patch_product(images, magnitude=True)
    ratio = rules.gamma_ratio(product, bias, magnitude, gamma)
    return product * ratio.abs() * (1 + gamma / 2) + magnitude * ratio * (gamma / 2)
