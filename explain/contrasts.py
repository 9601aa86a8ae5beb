"""What is explained: a target's logit or a contrast, as weights of the logits, and its gradient at the head's input.

Shapes: B images, K targets, C classes, T tokens that heads read (2 in a distilled DeiT, else 1), D model width.
"""

import torch
from torch import Tensor

from explain.registry import CONTRASTS
from explain.trace import Network


def class_weights(logits: Tensor, targets: Tensor, contrast: str = "none", centre_head: bool = False) -> Tensor:
    """Compute the weights of the logits in the explained quantity.

    The weights are constants: nothing is differentiated through the softmax.

    logits: (B, C).
    targets: (B, K) int64.
    contrast: what is explained, for target t and its logit y_t:
        "none"     y_t.
        "mean"     y_t less the mean of the other logits. After Gu, Yang, Tresp, ACCV 2018 (contrastive LRP, where each
                   other class starts with -1 / (C - 1) of the relevance).
        "softmax"  y_t less the mean of the other logits weighted by their softmax among themselves, so that the
                   strongest competitors count most. After Iwana, Kuroki, Uchida, ICCV workshops 2019 (softmax-gradient
                   LRP): these weights are theirs divided by p_t (1 - p_t), which nearly vanishes where a model is sure;
                   but theirs are the relevance of the logits, which LRP hands down through the head, whereas here they
                   are the gradient at the logits, whose relevance is then weight times logit.
        "log_p"    log p_t, to first order: "softmax" times 1 - p_t.
    centre_head: whether to subtract from the head's rows, and from its bias, their mean over classes, which softmax
        ignores and a logit does not. "mean" is the same up to the factor C / (C - 1); the other contrasts are centred
        already and do not change.

    Returns (B, K, C).
    Raises ValueError for an unknown contrast, or a contrast where there is one class.
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
    """Compute the gradient of the explained quantity at what the heads read.

    weights: (B, K, C) of the logits, from `class_weights`.

    Returns (B, K, T, D).
    """
    return torch.stack([weights @ head.weight for head in network.heads], dim=2) / len(network.heads)


def explained_value(logits: Tensor, weights: Tensor) -> Tensor:
    """Compute the explained quantity (B, K) from logits (B, C) and their weights (B, K, C)."""
    return (weights * logits.unsqueeze(1)).sum(-1)
