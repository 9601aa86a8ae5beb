"""Maps by input times gradient: the plain gradient, its mean along a path, AttnLRP and CP-LRP.

Each function is a method: (network, images (B, 3, H, W), targets (B, K), options) -> maps
(B, K, grid_h, grid_w), signed, or a tuple of maps and what `layers=True` and `gap=True` add.
As the patch convolution is linear, the sum over a patch's pixels of input times gradient is the sum
over channels of the convolution's output before its bias times the gradient there.

Shapes: B images, K targets, L layers, h heads, P patches, N tokens, D model width.

Options that several share:
  contrast, centre_head: what is explained, see targets.class_weights.
  at: "pixels", relevance at the pixels, summed over each patch; "tokens", at the patch tokens that
      enter block 0, with what positions and the patch convolution's bias brought; "depth", the mean
      over blocks of that relevance where tokens enter each block (see `lrp_depth`). A map differs
      much between the three.
  layers: also return (B, K, L, h, grid_h, grid_w), blocks from the first, attention pooling last:
      the relevance that each head carries away from each patch to where it mixes values.
  gap: also return (B, K): the explained quantity (a logit with its bias, or a contrast) less the
      map's sum.
"""

from typing import Any

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from explain import rules
from explain.gradients import GRADIENT, Way, patch_gradient
from explain.targets import class_weights, explained_value, head_rows
from explain.trace import Network, Record

PLACES = ("pixels", "tokens", "depth")


def _relevance(
    network: Network,
    images: Tensor,
    targets: Tensor,
    ways: tuple[Way, ...],
    gamma_patch: float,
    at: str,
    contrast: str,
    centre_head: bool,
    layers: bool,
    gap: bool,
) -> Tensor | tuple[Tensor, ...]:
    """Input times a way's gradient, in one of PLACES; of several ways, from one recorded forward pass, the mean."""
    if at not in PLACES:
        raise ValueError(f"at is {at!r}; expected one of {', '.join(PLACES)}.")
    for name, value in (*(("gamma", one.gamma) for one in ways), ("gamma_patch", gamma_patch)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}; expected a finite number from 0 up (0 is the epsilon rule).")
    record = network.record(images)
    weights = class_weights(record.logits, targets, contrast, centre_head)
    rows = head_rows(network, weights)
    relevance: Any = 0.0
    by_head: Any = 0.0
    for one in ways:
        at_blocks: list[Tensor] = []
        carried: list[Tensor] = []
        kept = (None if at == "pixels" else at_blocks, carried if layers else None)
        at_patches = patch_gradient(network, record, rows, one, *kept)
        if at == "pixels":
            at_patches = (at_patches * _patch_factor(network, images, record, gamma_patch)).sum(-1)
        else:
            at_patches = at_blocks[-1] if at == "tokens" else torch.stack(at_blocks).mean(0)
        relevance = relevance + at_patches / len(ways)
        if layers:
            by_head = by_head + torch.stack(carried[::-1], dim=2) / len(ways)
    maps = relevance.unflatten(-1, record.grid)
    found = [maps]
    if layers:
        found.append(by_head.unflatten(-1, record.grid))
    if gap:
        found.append(explained_value(record.logits, weights) - maps.sum((-2, -1)))
    return maps if len(found) == 1 else tuple(found)


def _attnlrp_way(gamma: float) -> Way:
    return Way(constant_deviation=True, secant=True, halved=True, gamma=gamma)


def _cp_lrp_way(gamma: float) -> Way:
    return Way(constant_deviation=True, secant=True, constant_attention=True, gamma=gamma)


def _patch_factor(network: Network, images: Tensor, record: Record, gamma: float) -> Tensor:
    """What the gradient at the convolution's output is multiplied by, (B, 1, P, D).

    Without gamma, the output less its bias. The gamma rule moves relevance between the pixels of a
    patch, which a map doesn't show, and changes what is left to the bias, which it does.
    """
    product, bias = record.embedding.product, network.model.patch_embed.proj.bias
    if not gamma:
        return product
    magnitude = network.patch_product(images, magnitude=True)
    ratio = rules.gamma_ratio(product, bias, magnitude, gamma)
    return product * ratio.abs() * (1 + gamma / 2) + magnitude * ratio * (gamma / 2)


# ---- methods


def attnlrp(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    gamma: float = 0.05,
    gamma_patch: float = 0.25,
    at: str = "pixels",
    contrast: str = "none",
    centre_head: bool = False,
    layers: bool = False,
    gap: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """AttnLRP in its efficient form: input times gradient, with changed gradients.

    The deviation of LayerNorm is a constant, an activation's slope is f(x) / x, and each factor of a
    product of two tensors gets half (Achtibat et al., ICML 2024, propositions 3.1-3.4, section 3.4).
    gamma, gamma_patch: of the gamma rule in an MLP's linear layers and at the patch convolution; all
        other linear layers have the epsilon rule. The defaults are the paper's composite for ViTs.
        0 is the epsilon rule. The composite is the paper's choice for ViT-B; on DeiT-Tiny the
        epsilon rule at the tokens is more faithful (docs/results/methods.md), and costs a product less each
        way: see `attnlrp_epsilon`. gamma_patch matters at="pixels" alone.
    gap: absorbed by biases (of linear layers and of norms), the class token, registers, positions (at
        the pixels) and the softmax, whose own point of expansion keeps a part; under attention pooling also
        by the pool's query, a parameter, which shares the scores' half with the keys.
    """
    return _relevance(
        network, images, targets, (_attnlrp_way(gamma),), gamma_patch, at, contrast, centre_head, layers, gap
    )


def attnlrp_epsilon(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    at: str = "tokens",
    contrast: str = "none",
    centre_head: bool = False,
    layers: bool = False,
    gap: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """AttnLRP with the epsilon rule in every linear layer, as epsilon goes to 0.

    Options as for `attnlrp`, but at the patch tokens: at the pixels, what positions and the patch
    convolution's bias brought is lost to the map.
    """
    return attnlrp(
        network,
        images,
        targets,
        gamma=0.0,
        gamma_patch=0.0,
        at=at,
        contrast=contrast,
        centre_head=centre_head,
        layers=layers,
        gap=gap,
    )


def cp_lrp(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    gamma: float = 0.05,
    gamma_patch: float = 0.25,
    at: str = "tokens",
    contrast: str = "none",
    centre_head: bool = False,
    layers: bool = False,
    gap: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """CP-LRP: as AttnLRP, but attention is a constant, and v gets all of a product's relevance.

    Ali et al., ICML 2022, for attention and LayerNorm, and for relevance at the tokens; activations
    and gamma as in `attnlrp`, where gamma=0 is the epsilon rule. gamma_patch matters at="pixels" alone.
    gap: absorbed by biases, the class token, registers and, at the pixels, positions.
    """
    return _relevance(
        network, images, targets, (_cp_lrp_way(gamma),), gamma_patch, at, contrast, centre_head, layers, gap
    )


def lrp_depth(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    gamma: float = 0.05,
    contrast: str = "none",
    centre_head: bool = False,
    layers: bool = False,
    gap: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """The mean over depth of the relevance of each patch's token: ours.

    CP-LRP with gamma says, at the input of every block, what each token brings to the target, and each
    block's tokens sum to the same quantity, but for what biases absorb. A map at the pixels or at block 0
    shows the last step of the way down alone, with the noise of all of it. As skip connections keep a token
    in its place, every block's is a map of the same image, and their mean costs nothing more: one recorded
    pass, one way down. Summing over depth is FullGrad's idea (Srinivas, Fleuret, NeurIPS 2019), brought to
    pruned gradients of transformers by LibraGrad (Mehri et al., 2024); CP-LRP is Ali et al., ICML 2022.
    docs/results/candidates.md has what else was tried.
    gap: absorbed by biases, the class token and registers, in the mean over depth.
    """
    return cp_lrp(
        network,
        images,
        targets,
        gamma=gamma,
        at="depth",
        contrast=contrast,
        centre_head=centre_head,
        layers=layers,
        gap=gap,
    )


def lrp_contrast(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    gamma: float = 0.05,
    contrast: str = "softmax",
    centre_head: bool = False,
    layers: bool = False,
    gap: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """`lrp_depth` of the target's logit against its competitors' (contrast "softmax"): what moves its probability.

    More faithful to the probability than `lrp_depth`. Where a model is sure, the strongest competitor
    of every other class is the predicted one, so that their maps turn into the negative of its map: to ask
    what two classes of one image share, take `lrp_depth`.
    gap: of the contrast, the target's logit less its competitors' weighted mean, head biases and all, so it may
        have either sign; absorbed as in `lrp_depth`. What all classes share, in a bias too, is in neither.
    """
    return lrp_depth(
        network, images, targets, gamma=gamma, contrast=contrast, centre_head=centre_head, layers=layers, gap=gap
    )


def lrp_blend(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    gamma: float = 0.05,
    contrast: str = "softmax",
    centre_head: bool = False,
    layers: bool = False,
    gap: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """The mean of `lrp_contrast` and of AttnLRP (epsilon) over depth from the same start: ours.

    CP-LRP holds attention constant and follows values alone; AttnLRP gives half of it to the queries and keys. Each
    errs in its own way, and both say how much of the same quantity a token brings, so that their mean still adds up to
    it. It takes one recorded forward pass and two ways down, and is the most faithful to the probability of all methods
    here (docs/results/candidates.md). For maps of other classes see `lrp_contrast`. gap: the mean of the gaps of both.
    """
    return _relevance(
        network,
        images,
        targets,
        (_attnlrp_way(0.0), _cp_lrp_way(gamma)),
        0.0,
        "depth",
        contrast,
        centre_head,
        layers,
        gap,
    )


def input_x_gradient(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    at: str = "pixels",
    contrast: str = "none",
    centre_head: bool = False,
    gap: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """Pixels (normalised) times the gradient. gap: everything that is not linear, and every bias."""
    return _relevance(network, images, targets, (GRADIENT,), 0.0, at, contrast, centre_head, False, gap)


def integrated_gradients(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    steps: int = 16,
    contrast: str = "none",
    centre_head: bool = False,
    gap: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """Pixels times the mean gradient on the way from the data's mean image (0, normalised) to the image.

    steps: places on the way, those of Gauss and Legendre; each costs a forward pass and a way down.
    gap: the explained quantity's change from the mean image to the image, less the map's sum; left
        over by a finite number of steps. A contrast's weights are those at the image all the way.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected 1 or more.")
    record = network.record(images)
    weights = class_weights(record.logits, targets, contrast, centre_head)
    rows = head_rows(network, weights)
    mean: Any = 0.0
    for place, share in zip(*leggauss(steps)):
        path = network.record(images * ((1 + float(place)) / 2))
        mean = mean + patch_gradient(network, path, rows, GRADIENT) * (float(share) / 2)
    maps = (mean * record.embedding.product).sum(-1).unflatten(-1, record.grid)
    if not gap:
        return maps
    change = record.logits - network.record(torch.zeros_like(images)).logits
    return maps, explained_value(change, weights) - maps.sum((-2, -1))
