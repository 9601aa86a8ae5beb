"""The candidates from which this project's own relevance methods were selected. Part of candidates.py.

All parts of a sum could share one recorded forward pass; here each part records its own.
"""

from collections.abc import Callable

import torch
from libragrad import fullgrad
from torch import Tensor
from torch.nn import functional as F

from explain import relevance
from explain.aggregate import TokenRow
from explain.batching import images_at_once
from explain.contrasts import class_weights, head_rows
from explain.gradients import BackwardRules, attention_gradients, patch_gradient
from explain.trace import Network

REFERENCE, DEPTH, CONTRAST, BLEND = "lrp_magnitude", "lrp_depth", "lrp_contrast", "lrp_blend"
BASELINE = "lrp_magnitude (log p) + AttnLRP + CP-LRP (gamma)"
STRONG_BASELINE = "lrp_magnitude (log p) + AttnLRP (log p) + CP-LRP (gamma, log p)"
LIBRAGRAD = "LibraGrad FullGrad+"
ATTNLRP = BackwardRules(constant_deviation=True, secant_slope=True, halved_products=True)
CP_LRP = BackwardRules(constant_deviation=True, secant_slope=True, constant_attention=True)
GAMMA = BackwardRules(constant_deviation=True, secant_slope=True, constant_attention=True, gamma=0.05)
# Takes the model, images (B, 3, H, W) and targets (B, K); returns maps (B, K, grid_h, grid_w).
Candidate = Callable[[torch.nn.Module, Tensor, Tensor], Tensor]


def method(name: str, **options) -> Candidate:
    """Return a relevance method of `explain` with options."""
    return lambda model, images, targets: relevance(model, images, targets, name, **options)


def sum_of(*candidates: Candidate) -> Candidate:
    """Return the sum of several candidates' maps, each map divided by its sum of magnitudes."""

    def compute(model, images, targets):
        maps = [one(model, images, targets) for one in candidates]
        return sum(one / one.abs().sum((-2, -1), keepdim=True) for one in maps)

    return compute


def smoothed(candidate: Candidate) -> Candidate:
    """Return a candidate with its maps smoothed by a binomial kernel of 3 x 3 patches."""

    def compute(model, images, targets):
        kernel = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0]))[None, None] / 16
        maps = candidate(model, images, targets).flatten(0, 1).unsqueeze(1)
        return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), kernel).view(*targets.shape, *maps.shape[-2:])

    return compute


def traced(compute: Callable[[Network, Tensor, Tensor], Tensor]) -> Candidate:
    """Return a candidate from a function of the traced model; batches are those of `relevance`, so that costs compare."""

    def candidate(model, images, targets):
        network = Network(model)
        step = images_at_once(network, images, targets.shape[1])
        with torch.no_grad():
            return torch.cat([compute(network, x, t) for x, t in zip(images.split(step), targets.split(step))])

    return candidate


def graph(backward: BackwardRules, contrast: str = "none") -> Candidate:
    """Return Chefer's aggregation over blocks, with modified gradient times attention as relevance of attention."""

    @traced
    def compute(network, images, targets):
        record, count = network.record(images), targets.shape[1]
        rows, row = head_rows(network, class_weights(record.logits, targets, contrast)), TokenRow(record, count)
        for block, gradient in zip(record.from_last(), attention_gradients(network, record, rows, backward=backward)):
            row.descend(block, (gradient * block.attention).clamp_(min=0))
        return row.result(count)

    return compute


def by_block(backward: BackwardRules, contrast: str, blocks: slice, positive: bool = False) -> Candidate:
    """Return the mean relevance at the tokens of some blocks, or its positive part."""

    @traced
    def compute(network, images, targets):
        record, at_blocks = network.record(images), []
        rows = head_rows(network, class_weights(record.logits, targets, contrast))
        patch_gradient(network, record, rows, backward, at_blocks)
        chosen = torch.stack(at_blocks[::-1])[blocks]
        return (chosen.clamp(min=0) if positive else chosen).mean(0).unflatten(-1, record.grid)

    return compute


def libra(**options) -> Candidate:
    """Return LibraGrad's FullGrad with options."""
    return traced(lambda network, images, targets: fullgrad(network, images, targets, **options))


# A name says in brackets what is explained (default: the logit) and by which rule (default: epsilon).
CANDIDATES: dict[str, Candidate] = {
    REFERENCE: method("lrp_magnitude"),
    "lrp_magnitude (log p)": method("lrp_magnitude", contrast="log_p"),
    "AttnLRP": method("attnlrp_epsilon"),
    "AttnLRP (log p)": method("attnlrp_epsilon", contrast="log_p"),
    "CP-LRP (gamma)": method("cp_lrp"),
    "CP-LRP (gamma, log p)": method("cp_lrp", contrast="log_p"),
    BASELINE: sum_of(method("lrp_magnitude", contrast="log_p"), method("attnlrp_epsilon"), method("cp_lrp")),
    STRONG_BASELINE: sum_of(
        *(method(name, contrast="log_p") for name in ("lrp_magnitude", "attnlrp_epsilon", "cp_lrp"))
    ),
    "graph of AttnLRP's relevance of A": graph(ATTNLRP),
    "graph of CP-LRP's relevance of A": graph(CP_LRP),
    "AttnLRP over depth": method("attnlrp_epsilon", at="depth"),
    "AttnLRP over depth (softmax)": method("attnlrp_epsilon", at="depth", contrast="softmax"),
    "CP-LRP over depth": method("cp_lrp", gamma=0.0, at="depth"),
    "CP-LRP over depth (softmax)": method("cp_lrp", gamma=0.0, at="depth", contrast="softmax"),
    DEPTH: method("lrp_depth"),
    "lrp_depth (mean)": method("lrp_depth", contrast="mean"),
    CONTRAST: method("lrp_contrast"),
    "lrp_contrast (gamma 0.1)": method("lrp_contrast", gamma=0.1),
    "lrp_contrast without the last three blocks": by_block(GAMMA, "softmax", slice(None, -3)),
    "lrp_contrast, positive part of each block": by_block(GAMMA, "softmax", slice(None), positive=True),
    "lrp_contrast smoothed over 3 x 3 patches": smoothed(method("lrp_contrast")),
    "lrp_contrast + lrp_magnitude (log p)": sum_of(method("lrp_contrast"), method("lrp_magnitude", contrast="log_p")),
    BLEND: method("lrp_blend"),
    "lrp_blend (logit)": method("lrp_blend", contrast="none"),
    "AttnLRP over depth (softmax) + lrp_contrast": sum_of(
        method("attnlrp_epsilon", at="depth", contrast="softmax"), method("lrp_contrast")
    ),
    "AttnLRP over depth (softmax) + LibraGrad FullGrad+ (softmax)": sum_of(
        method("attnlrp_epsilon", at="depth", contrast="softmax"), libra(plus=True, contrast="softmax")
    ),
    "LibraGrad FullGrad": libra(),
    "LibraGrad FullGrad (softmax)": libra(contrast="softmax"),
    LIBRAGRAD: libra(plus=True),
    f"{LIBRAGRAD} (softmax)": libra(plus=True, contrast="softmax"),
}
