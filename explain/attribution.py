"""Relevance methods by input times gradient: the plain gradient, its mean along a path, AttnLRP, CP-LRP, and ours.

Each method is a function (network, images (B, 3, H, W), targets (B, K), *, options) -> maps (B, K, grid_h, grid_w),
which are signed, or a tuple of maps and what `layers=True` and `gap=True` add.

Shapes: B images, K targets, L layers, h heads.

Options that several methods share:
  contrast, centre_head: what is explained in place of the logit, see contrasts.class_weights.
  at: where relevance is read, which changes a map much. "pixels": at the pixels, summed over each patch. "tokens": at
      the patch tokens that enter block 0, which include positions and the patch convolution's bias. "depth": the mean
      over blocks of the relevance of the patch tokens that enter each block (see `lrp_depth`).
  layers: also return (B, K, L, h, grid_h, grid_w), blocks from the first, attention pooling last: the relevance that
      each head carries away from each patch, to the tokens that attend to it.
  gap: also return (B, K): the explained quantity (a logit with its bias, or a contrast) less the sum of the map.
"""

from typing import Any

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from explain.contrasts import class_weights, explained_value, head_rows
from explain.gradients import GRADIENT, BackwardRules, patch_gradient
from explain.input_times_gradient import input_times_gradient
from explain.trace import Network


def _attnlrp_rules(gamma: float) -> BackwardRules:
    return BackwardRules(constant_deviation=True, secant_slope=True, halved_products=True, gamma=gamma)


def _cp_lrp_rules(gamma: float) -> BackwardRules:
    return BackwardRules(constant_deviation=True, secant_slope=True, constant_attention=True, gamma=gamma)


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
    """Compute AttnLRP in its efficient form: input times a modified gradient.

    The standard deviation of a LayerNorm is a constant, the slope of an activation is f(x) / x, and each factor of a
    product of two activations gets half.

    gamma: of the gamma rule in the linear layers of the MLPs; 0 is the epsilon rule, which all other linear layers
        have.
    gamma_patch: of the gamma rule at the patch convolution, which matters for at="pixels" alone.
        The defaults are the paper's composite, chosen for ViT-B. On DeiT-Tiny the epsilon rule at the tokens is more
        faithful (docs/results/methods.md) and saves one product in each direction: see `attnlrp_epsilon`.
    gap: absorbed by biases (of linear layers and of norms), the class token, registers, positions (at the pixels) and
        the softmax, whose expansion keeps a part; under attention pooling also by the pool's query, a parameter, which
        shares the relevance of the scores with the keys.

    Source: Achtibat et al., ICML 2024, propositions 3.1-3.4, section 3.4.
    """
    return input_times_gradient(
        network, images, targets, (_attnlrp_rules(gamma),), gamma_patch, at, contrast, centre_head, layers, gap
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
    """Compute AttnLRP with the epsilon rule in every linear layer, in the limit of epsilon to 0.

    Relevance is read at the patch tokens, as at the pixels a map loses what positions and the patch convolution's bias
    contribute. Other options as for `attnlrp`.

    Source: Achtibat et al., ICML 2024.
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
    """Compute CP-LRP: as AttnLRP, but attention is a constant, and v gets all relevance of the product.

    gamma, gamma_patch: as for `attnlrp`.
    gap: absorbed by biases, the class token, registers and, at the pixels, positions.

    Source: Ali et al., ICML 2022, for attention, LayerNorm and relevance at the tokens; activations and gamma as in
    Achtibat et al., ICML 2024.
    """
    return input_times_gradient(
        network, images, targets, (_cp_lrp_rules(gamma),), gamma_patch, at, contrast, centre_head, layers, gap
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
    """Compute the mean over depth of the relevance of each patch's token, by CP-LRP with gamma: ours.

    At the input of every block, CP-LRP says what each token contributes to the target; the tokens of each block sum to
    the same quantity, except for what biases absorb. A map at the pixels or at block 0 shows the last step of the
    backward pass alone, with the noise of all its steps. As residual connections keep a token in its place, the
    relevance at every block is a map of the same image, and their mean costs nothing more: one recorded forward pass
    and one backward pass.

    gamma: as for `attnlrp`.
    gap: absorbed by biases, the class token and registers, in the mean over depth.

    Source: ours. CP-LRP is Ali et al., ICML 2022. Summing over depth is FullGrad (Srinivas, Fleuret, NeurIPS 2019),
    which LibraGrad (Mehri et al., 2024) applies to pruned gradients of transformers. docs/results/candidates.md
    compares what else was tried.
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
    """Compute `lrp_depth` of the target's logit against its competitors' (contrast "softmax"): ours.

    It is more faithful to the target's probability than `lrp_depth`. Where a model is sure, the strongest competitor of
    every other class is the predicted class, so that their maps become the negative of its map: to see what two classes
    of one image share, take `lrp_depth`.

    gamma: as for `attnlrp`.
    gap: of the contrast (the target's logit less the weighted mean of its competitors', head biases included), so it
        may have either sign; absorbed as in `lrp_depth`. What all classes share, also in a bias, is in neither.

    Source: ours; the contrast after Iwana et al., ICCV workshops 2019.
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
    """Compute the mean of `lrp_contrast` and of AttnLRP (epsilon) over depth, of the same contrast: ours.

    CP-LRP holds attention constant and follows values alone; AttnLRP gives half of the relevance to queries and keys.
    Their errors differ, and both distribute the same quantity over the tokens, so that their mean still adds up to it.
    It takes one recorded forward pass and two backward passes, and is the most faithful to the probability of all
    methods here on DeiT-Tiny (docs/results/candidates.md); AttnLRP over depth with the softmax contrast comes close at
    half the cost. For maps of other classes see `lrp_contrast`.

    gamma: of CP-LRP, as for `attnlrp`.
    gap: the mean of both gaps.

    Source: ours; after Achtibat et al., ICML 2024 and Ali et al., ICML 2022.
    """
    return input_times_gradient(
        network,
        images,
        targets,
        (_attnlrp_rules(0.0), _cp_lrp_rules(gamma)),
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
    """Compute pixels (normalised) times the gradient.

    gap: absorbed by everything that is not linear, and by every bias.

    Source: Shrikumar et al., 2016 (arXiv:1605.01713).
    """
    return input_times_gradient(network, images, targets, (GRADIENT,), 0.0, at, contrast, centre_head, False, gap)


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
    """Compute pixels times the mean gradient on the path from the data's mean image (0, normalised) to the image.

    steps: points on the path, those of Gauss-Legendre quadrature; each costs a forward and a backward pass.
    gap: the change of the explained quantity from the mean image to the image, less the sum of the map; it remains
        because the number of steps is finite. A contrast's weights are those at the image on the whole path.

    Source: Sundararajan, Taly, Yan, ICML 2017.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected 1 or more.")
    record = network.record(images)
    weights = class_weights(record.logits, targets, contrast, centre_head)
    rows = head_rows(network, weights)
    mean: Any = 0.0
    for point, weight in zip(*leggauss(steps)):  # on [-1, 1]
        path = network.record(images * ((1 + float(point)) / 2))
        mean = mean + patch_gradient(network, path, rows, GRADIENT) * (float(weight) / 2)
    maps = (mean * record.embedding.product).sum(-1).unflatten(-1, record.grid)
    if not gap:
        return maps
    change = record.logits - network.record(torch.zeros_like(images)).logits
    return maps, explained_value(change, weights) - maps.sum((-2, -1))
