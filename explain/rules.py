"""Propagation rules: how relevance at an operation's output is shared among its inputs.

One rule a function, without knowledge of transformers. A rule that divides takes the inverse of
its denominator, as denominators don't depend on the target: one serves every target.

Shapes: leading dimensions broadcast, so that a target dimension K in the relevance meets a 1 in
what was recorded. In products of heads: B images, h heads, K targets, M rows of the left factor,
P summed over, Q columns of the right factor.

Sources:
  Bach et al., "On pixel-wise explanations ...", PLoS ONE 2015 (LRP, alpha-beta rule)
  Montavon et al., "Layer-wise relevance propagation: an overview", 2019 (z+ and its names)
  Chefer, Gur, Wolf, "Transformer interpretability beyond attention visualization", CVPR 2021
  Achtibat et al., "AttnLRP: attention-aware layer-wise relevance propagation ...", ICML 2024
"""

from collections.abc import Callable

import torch
from torch import Tensor

EPSILON = 1e-9
NEGLIGIBLE = 1e-30
Reciprocal = Callable[[Tensor], Tensor]


# ---- divisions


def published_reciprocal(z: Tensor) -> Tensor:
    """1 / (z + 1e-9) whatever the sign of z, 1 / 1e-9 where that sum is 0, and 0 where z is 0.

    Source: safe_divide in the code of Chefer et al., CVPR 2021. For the published method alone.
    """
    denominator = z + EPSILON
    denominator.masked_fill_(denominator == 0, EPSILON)
    return denominator.reciprocal_().masked_fill_(z == 0, 0.0)


def stabilised_reciprocal(z: Tensor) -> Tensor:
    """1 / (z + 1e-9 sign(z)) with sign(0) = 1: the stabiliser of every other method.

    Source: Montavon et al. 2019, LRP-epsilon; no pole.
    """
    return torch.where(z < 0, z - EPSILON, z + EPSILON).reciprocal_()


def drop_negligible(relevance: Tensor) -> Tensor:
    """Set to 0, in place and on a CPU only, what lies below 1e-30 of the map's largest magnitude.

    Numbers that small turn denormal in float32, which slows products on a CPU a hundredfold.
    relevance (B, K, N, D) or (B, h, K, M, N); a map is an image's and target's part, over all
    of its heads or, in the latter, of one head.
    """
    if relevance.device.type != "cpu":
        return relevance
    magnitude = relevance.abs()
    limit = magnitude.amax(dim=(-2, -1), keepdim=True).mul_(NEGLIGIBLE)
    return relevance.masked_fill_(magnitude < limit, 0.0)


# ---- linear layers


def z_plus_inverse(x: Tensor, product: Tensor, weight_magnitude: Tensor, reciprocal: Reciprocal) -> Tensor:
    """Half the inverse of Z_k = sum_i (x_i w_ki)^+, for `z_plus_linear`.

    As (x w)^+ = (x w + |x| |w|) / 2, the product known from the forward pass saves one of two.
    x (..., in); product (..., out) = x W^T without the bias; weight_magnitude (out, in) = |W|.
    Returns (..., out). Z that is nothing but rounding counts as 0.
    """
    magnitude = x.abs() @ weight_magnitude.mT
    rounding = 4 * x.shape[-1] ** 0.5 * torch.finfo(x.dtype).eps
    total = (product + magnitude).div_(2)
    nothing = total <= magnitude.mul_(rounding)
    return reciprocal(total).div_(2).masked_fill_(nothing, 0.0)


def z_plus_linear(relevance: Tensor, x: Tensor, weight: Tensor, weight_magnitude: Tensor, inverse: Tensor) -> Tensor:
    """z+ rule (alpha = 1, beta = 0), bias ignored: R_i = sum_k (x_i w_ki)^+ R_k / Z_k.

    Source: Bach et al. 2015, eq. 60; Montavon et al. 2019, table 1; Chefer et al. 2021, eq. 2.
    relevance (..., K, N, out), x (..., 1, N, in), inverse from `z_plus_inverse`.
    Returns (..., K, N, in). Conserves, but for outputs without a positive contribution.
    """
    share = relevance * inverse
    result = (share @ weight).mul_(x)
    return result.addcmul_(share @ weight_magnitude, x.abs())


def z_plus_single(x: Tensor, weight_rows: Tensor, reciprocal: Reciprocal) -> Tensor:
    """z+ rule where all relevance, of sum 1, sits on one output: x (..., T, in), its rows (..., T, in).

    Where heads read several tokens T, the output is the sum over all of them.
    """
    contributions = (x * weight_rows).clamp_(min=0)
    return contributions * reciprocal(contributions.sum((-2, -1), keepdim=True))


# ---- linear layers as factors on a gradient, so that relevance is input times gradient


def gamma_ratio(product: Tensor, bias: Tensor | None, magnitude_product: Tensor, gamma: float) -> Tensor:
    """z / (z + gamma z^s) of each output, signed as z: what `gamma_linear` multiplies gradients by.

    z = product + bias, and z^s is the sum of those contributions, the bias among them, that have
    the sign of z. As (x w)^+ = (x w + |x| |w|) / 2, z^s needs one product more than the forward pass.
    product, magnitude_product (..., out): x W^T and |x| |W|^T. In (0, 1] by magnitude: no pole.
    """
    z = product if bias is None else product + bias
    sign = torch.where(z < 0, -1.0, 1.0).to(z.dtype)
    same = product + sign * magnitude_product
    if bias is not None:
        same = same + bias + sign * bias.abs()
    # Rounding may leave `same` with the wrong sign where nothing but noise has the sign of z.
    same = (same * sign).clamp_(min=0).mul_(sign)
    magnitude = z.abs()
    return magnitude * stabilised_reciprocal(magnitude + gamma / 2 * same.abs_()) * sign


def gamma_linear(
    gradient: Tensor, x: Tensor, weight: Tensor, weight_magnitude: Tensor, ratio: Tensor, gamma: float
) -> Tensor:
    """Generalised gamma rule of a linear layer: R_i = x_i times what this returns, for R_k = z_k times gradient.

    Contributions x w + gamma (x w)^s: for z > 0 s is +, and they are x^+ (w + gamma w^+) +
    x^- (w + gamma w^-); for z < 0 the gamma terms swap. Bias alike, and it keeps its part.
    gradient (..., K, N, out), x (..., 1, N, in), ratio (..., 1, N, out) from `gamma_ratio`.
    Source: Montavon et al. 2019 (gamma); Andeol et al. 2021 and Achtibat et al., ICML 2024,
    appendix (for inputs and outputs of either sign).
    """
    share = gradient * ratio.abs()
    result = (share @ weight).mul_(1 + gamma / 2)
    return result.add_((gradient * ratio @ weight_magnitude).mul_(torch.sign(x)), alpha=gamma / 2)


# ---- sums


def add_published(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Residual sum a + b as published: R_a' = a R / (a + b), then both rescaled by their sums.

    Each part's sum becomes |S_a| / (|S_a| + |S_b|) sum R with S_a = sum R_a'.
    Source: Chefer et al. 2021, eq. 9-10. Sums run over tokens and channels, the last two
    dimensions, so per image and target. Ill-conditioned where a + b is near 0.
    """
    share = relevance * published_reciprocal(a + b)
    parts = (share * a, share * b)
    sums = [part.sum((-2, -1), keepdim=True) for part in parts]
    total = relevance.sum((-2, -1), keepdim=True)
    over = published_reciprocal(sums[0].abs() + sums[1].abs())
    first, second = (
        part.mul_(part_sum.abs() * over * total * published_reciprocal(part_sum)) for part, part_sum in zip(parts, sums)
    )
    return first, second


def add_by_magnitude(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Residual sum a + b without a pole: R_a = R |a| / (|a| + |b|), R_b likewise.

    The published rescaling is left out: for relevance of one sign it changes nothing.
    Conserves, but where a and b are both 0.
    """
    a, b = a.abs(), b.abs()
    inverse = stabilised_reciprocal(a + b)
    return relevance * a.mul_(inverse), relevance * b.mul_(inverse)


def copy_published(relevance: Tensor, x: Tensor) -> Tensor:
    """Relevance at x, the sum of what its copies (residual and branch) brought: times x / (x + 1e-9).

    Not in the paper but in its code, as Clone: the division's epsilon matters where |x| is near it,
    right where `add_published` has its poles, and on some photos that moves the map by 2e-3.
    From |x| = 1e-6 up the factor is 1 to three digits and left out. In place; x broadcasts.
    """
    near = x.abs() < 1000 * EPSILON
    if x.device.type == "cpu" and not near.any():  # elsewhere, to ask would be to wait for the device
        return relevance
    return relevance.mul_(torch.where(near, x * published_reciprocal(x), 1.0))


def mean_by_magnitude(relevance: Tensor, x: Tensor) -> Tensor:
    """Mean over N tokens: each gets relevance by its share of the channel's magnitudes.

    relevance (..., 1, D), x (..., N, D). Not part of the published method, which has no mean.
    """
    magnitude = x.abs()
    return relevance * (magnitude * stabilised_reciprocal(magnitude.sum(-2, keepdim=True)))


# ---- products of two recorded matrices


def times_shared(left: Tensor, right: Tensor) -> Tensor:
    """(B, h, K, M, P) @ (B, h, 1, P, Q): targets are stacked as rows, so nothing is copied K times."""
    images, heads, targets, rows, _ = left.shape
    product = left.flatten(2, 3) @ right.squeeze(2)
    return product.view(images, heads, targets, rows, right.shape[-1])


def shared_times(left: Tensor, right: Tensor) -> Tensor:
    """(B, h, 1, M, P) @ (B, h, K, P, Q): the smaller side is the one that is copied."""
    if right.shape[2] == 1 or left.shape[-2] <= right.shape[-1]:
        return left @ right
    columns = right.transpose(2, 3).flatten(3, 4)
    product = left.squeeze(2) @ columns
    return product.unflatten(-1, (right.shape[2], right.shape[-1])).transpose(2, 3)


def matmul(relevance: Tensor, left: Tensor, right: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Product z = left right of two matrices, half of the relevance to each factor.

    S = R / z, R_left = left * (S right^T) / 2, R_right = right * (left^T S) / 2.
    Source: Chefer et al. 2021, eq. 7-8 and appendix (the halves). The variant by magnitudes is
    the same on |left| and |right|, with the inverse of |left| |right|: no pole.
    relevance (B, h, K, M, Q), left (B, h, 1, M, P), right (B, h, 1, P, Q), inverse (B, h, 1, M, Q).
    """
    share = relevance * (inverse / 2)
    return matmul_left(share, left, right), matmul_right(share, left, right)


def matmul_left(share: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The left factor's part of `matmul`, from share = R / (2 z). Returns (B, h, K, M, P)."""
    return times_shared(share, right.mT).mul_(left)


def matmul_right(share: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The right factor's part of `matmul`, from share = R / (2 z). Returns (B, h, K, P, Q)."""
    return shared_times(left.mT, share).mul_(right)
