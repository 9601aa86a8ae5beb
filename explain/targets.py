"""Where every explanation starts: which combination of logits is explained, and its head rows.

Shapes: B images, K targets, C classes, T tokens that heads read (2 in a distilled DeiT, else 1),
D model width.
"""

import torch
from torch import Tensor

from explain.registry import CONTRASTS
from explain.trace import Network


def class_weights(logits: Tensor, targets: Tensor, contrast: str = "none", centre_head: bool = False) -> Tensor:
    """Weights (B, K, C) of the logits (B, C) in the quantity that is explained, targets (B, K).

    contrast, for target t and its logit y_t:
        "none"     y_t.
        "mean"     y_t less the mean of the others' logits. After Gu, Yang, Tresp, ACCV 2018
                   (contrastive LRP, where the others start with -1 / (C - 1) of the relevance).
        "softmax"  y_t less the mean of the others weighted by their softmax among themselves, so by
                   what competes. That is the start of Iwana, Kuroki, Uchida, ICCV workshops 2019
                   (softmax-gradient LRP) divided by p_t (1 - p_t), which nearly vanishes where a
                   model is sure; it changes a map's scale, not its shape, where the map is linear
                   in its start.
        "log_p"    log p_t, to first order: "softmax" times 1 - p_t.
    centre_head: rows of the head, and its bias, less their mean over classes. Softmax ignores what
        all classes share, a logit does not. "mean" is the same but for the factor C / (C - 1); the
        other contrasts are centred already, and stay as they are.
    Weights are constants: nothing is differentiated through the softmax.
    """
    if contrast not in CONTRASTS:
        raise ValueError(f"contrast is {contrast!r}; expected one of {', '.join(CONTRASTS)}.")
    classes = logits.shape[-1]
    if contrast != "none" and classes == 1:
        raise ValueError(
            f"contrast={contrast!r} compares with other classes; the model has one class: give contrast='none'."
        )
    weights = torch.zeros(*targets.shape, classes, dtype=logits.dtype, device=logits.device)
    weights.scatter_(-1, targets.long().unsqueeze(-1), 1.0)
    if contrast == "mean":
        weights = weights - (1 - weights) / (classes - 1)
    elif contrast != "none":
        weights = _against_competitors(logits.unsqueeze(1), weights, contrast == "log_p")
    return weights - weights.mean(-1, keepdim=True) if centre_head else weights


def _against_competitors(logits: Tensor, one_hot: Tensor, log_p: bool) -> Tensor:
    others = logits.masked_fill(one_hot > 0, -torch.inf)
    weights = one_hot - others.softmax(-1)
    if not log_p:
        return weights
    target = (logits * one_hot).sum(-1, keepdim=True)
    return weights * torch.sigmoid(others.logsumexp(-1, keepdim=True) - target)


def head_rows(network: Network, weights: Tensor) -> Tensor:
    """Gradient (B, K, T, D) of weights (B, K, C) times logits at what the heads read."""
    return torch.stack([weights @ head.weight for head in network.heads], dim=2) / len(network.heads)


def explained_value(logits: Tensor, weights: Tensor) -> Tensor:
    """The quantity (B, K) that weights (B, K, C) make of logits (B, C)."""
    return (weights * logits.unsqueeze(1)).sum(-1)
