"""Propagation rules: how the relevance of an operation's output is distributed over its inputs.

One function per rule, which knows nothing of transformers. A rule that divides takes the inverse of its denominator:
denominators do not depend on the target, so that one inverse serves all targets.

Shapes: leading dimensions broadcast, so that the targets K of a relevance meet the 1 of a recorded tensor. In products
of heads: B images, h heads, K targets, M rows of the left factor, P summed over, Q columns of the right factor.

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
    """Compute 1 / (z + 1e-9) whatever the sign of z, 1 / 1e-9 where that sum is 0, and 0 where z is 0.

    For the published method alone.

    Source: safe_divide in the code of Chefer et al., CVPR 2021.
    """
    denominator = z + EPSILON
    denominator.masked_fill_(denominator == 0, EPSILON)
    return denominator.reciprocal_().masked_fill_(z == 0, 0.0)


def stabilised_reciprocal(z: Tensor) -> Tensor:
    """Compute 1 / (z + 1e-9 sign(z)) with sign(0) = 1: the division of every other method, without a pole.

    Source: Montavon et al. 2019, LRP-epsilon.
    """
    return torch.where(z < 0, z - EPSILON, z + EPSILON).reciprocal_()


def drop_negligible(relevance: Tensor) -> Tensor:
    """Set relevance below 1e-30 of the largest magnitude to 0, in place, and on a CPU only.

    Numbers that small become denormal in float32, which makes products on a CPU a hundred times as slow.

    relevance: (B, K, N, D) or (B, h, K, M, N). The largest magnitude is taken over the last two dimensions: per image
        and target, and in the latter case per head.

    Returns the same tensor.
    """
    if relevance.device.type != "cpu":
        return relevance
    magnitude = relevance.abs()
    limit = magnitude.amax(dim=(-2, -1), keepdim=True).mul_(NEGLIGIBLE)
    return relevance.masked_fill_(magnitude < limit, 0.0)


# ---- linear layers


def z_plus_inverse(x: Tensor, product: Tensor, weight_magnitude: Tensor, reciprocal: Reciprocal) -> Tensor:
    """Compute half the inverse of Z_k = sum_i (x_i w_ki)^+, for `z_plus_linear`.

    As (x w)^+ = (x w + |x| |w|) / 2, the product that is known from the forward pass saves one of two products. Where
    Z is nothing but rounding, it counts as 0.

    x: (..., in), the layer's input.
    product: (..., out) = x W^T, without the bias.
    weight_magnitude: (out, in) = |W|.
    reciprocal: the division.

    Returns (..., out).
    """
    magnitude = x.abs() @ weight_magnitude.mT
    rounding = 4 * x.shape[-1] ** 0.5 * torch.finfo(x.dtype).eps
    total = (product + magnitude).div_(2)
    nothing = total <= magnitude.mul_(rounding)
    return reciprocal(total).div_(2).masked_fill_(nothing, 0.0)


def z_plus_linear(relevance: Tensor, x: Tensor, weight: Tensor, weight_magnitude: Tensor, inverse: Tensor) -> Tensor:
    """Apply the z+ rule (alpha = 1, beta = 0), without the bias: R_i = sum_k (x_i w_ki)^+ R_k / Z_k.

    Conserves relevance, except at outputs without a positive contribution.

    relevance: (..., K, N, out).
    x: (..., 1, N, in), the layer's input.
    weight, weight_magnitude: (out, in), W and |W|.
    inverse: (..., 1, N, out), from `z_plus_inverse`.

    Returns (..., K, N, in).
    Source: Bach et al. 2015, eq. 60; Montavon et al. 2019, table 1; Chefer et al. 2021, eq. 2.
    """
    share = relevance * inverse
    result = (share @ weight).mul_(x)
    return result.addcmul_(share @ weight_magnitude, x.abs())


def z_plus_single(x: Tensor, weight_rows: Tensor, reciprocal: Reciprocal) -> Tensor:
    """Apply the z+ rule to a single output with relevance 1.

    x: (..., T, in), the inputs; where heads read several tokens T, the output is a sum over all of them.
    weight_rows: (..., T, in), the weights of that output.
    reciprocal: the division.

    Returns (..., T, in).
    """
    contributions = (x * weight_rows).clamp_(min=0)
    return contributions * reciprocal(contributions.sum((-2, -1), keepdim=True))


# ---- linear layers in modified gradients, where relevance is input times gradient


def gamma_ratio(product: Tensor, bias: Tensor | None, magnitude_product: Tensor, gamma: float) -> Tensor:
    """Compute z / (z + gamma z^s) of each output, with the sign of z, for `gamma_linear`.

    z = product + bias, and z^s is the sum of those contributions, the bias included, that have the sign of z. As
    (x w)^+ = (x w + |x| |w|) / 2, z^s needs one product more than the forward pass. The magnitude lies in (0, 1]: no
    pole.

    product: (..., out) = x W^T.
    bias: (out,), or None.
    magnitude_product: (..., out) = |x| |W|^T.
    gamma: 0 or more.

    Returns (..., out).
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
    """Apply the generalised gamma rule of a linear layer to a gradient.

    The relevance R_k = z_k times gradient becomes R_i = x_i times the result. Contributions are x w + gamma (x w)^s:
    for z > 0, x^+ (w + gamma w^+) + x^- (w + gamma w^-); for z < 0, the gamma terms swap. The bias contributes
    likewise, and absorbs its part.

    gradient: (..., K, N, out).
    x: (..., 1, N, in), the layer's input.
    weight, weight_magnitude: (out, in), W and |W|.
    ratio: (..., 1, N, out), from `gamma_ratio`.
    gamma: the same as there.

    Returns (..., K, N, in).
    Source: Montavon et al. 2019 (gamma); Andeol et al. 2021 and Achtibat et al., ICML 2024, appendix (for inputs and
    outputs of either sign).
    """
    share = gradient * ratio.abs()
    result = (share @ weight).mul_(1 + gamma / 2)
    return result.add_((gradient * ratio @ weight_magnitude).mul_(torch.sign(x)), alpha=gamma / 2)


# ---- sums


def add_published(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Split the relevance of a residual sum a + b as published: R_a' = a R / (a + b), then rescale both by their sums.

    The sum of R_a becomes |S_a| / (|S_a| + |S_b|) sum R with S_a = sum R_a'. Sums run over the last two dimensions,
    tokens and channels, so per image and target. Ill-conditioned where a + b is near 0.

    relevance: (..., K, N, D).
    a, b: (..., 1, N, D).

    Returns R_a and R_b, (..., K, N, D).
    Source: Chefer et al. 2021, eq. 9-10.
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
    """Split the relevance of a residual sum a + b by magnitudes: R_a = R |a| / (|a| + |b|), R_b likewise; no pole.

    The published rescaling is left out: it changes nothing for relevance of one sign. Conserves relevance, except where
    a and b are both 0.

    relevance: (..., K, N, D).
    a, b: (..., 1, N, D).

    Returns R_a and R_b, (..., K, N, D).
    """
    a, b = a.abs(), b.abs()
    inverse = stabilised_reciprocal(a + b)
    return relevance * a.mul_(inverse), relevance * b.mul_(inverse)


def copy_published(relevance: Tensor, x: Tensor) -> Tensor:
    """Multiply the relevance of an activation that is read twice, by residual and branch, by x / (x + 1e-9); in place.

    The code of the published method does so (as Clone), the paper does not: the epsilon matters where |x| is near it,
    which is where `add_published` has its poles; on some photos it changes the map by 2e-3. From |x| = 1e-6 up the
    factor is 1 to three digits and left out.

    relevance: (..., K, N, D), the sum over both readers.
    x: (..., 1, N, D).

    Returns the same tensor.
    """
    near = x.abs() < 1000 * EPSILON
    if x.device.type == "cpu" and not near.any():  # on other devices, the answer would have to be waited for
        return relevance
    return relevance.mul_(torch.where(near, x * published_reciprocal(x), 1.0))


def mean_by_magnitude(relevance: Tensor, x: Tensor) -> Tensor:
    """Distribute the relevance of a mean over tokens in proportion to each channel's magnitudes.

    Not part of the published method, which has no mean.

    relevance: (..., 1, D), of the mean.
    x: (..., N, D), the tokens.

    Returns (..., N, D).
    """
    magnitude = x.abs()
    return relevance * (magnitude * stabilised_reciprocal(magnitude.sum(-2, keepdim=True)))


# ---- products of two activations


def times_shared(left: Tensor, right: Tensor) -> Tensor:
    """Multiply (B, h, K, M, P) by (B, h, 1, P, Q); targets are stacked as rows, so that nothing is copied K times."""
    images, heads, targets, rows, _ = left.shape
    product = left.flatten(2, 3) @ right.squeeze(2)
    return product.view(images, heads, targets, rows, right.shape[-1])


def shared_times(left: Tensor, right: Tensor) -> Tensor:
    """Multiply (B, h, 1, M, P) by (B, h, K, P, Q), copying the smaller one."""
    if right.shape[2] == 1 or left.shape[-2] <= right.shape[-1]:
        return left @ right
    columns = right.transpose(2, 3).flatten(3, 4)
    product = left.squeeze(2) @ columns
    return product.unflatten(-1, (right.shape[2], right.shape[-1])).transpose(2, 3)


def matmul(relevance: Tensor, left: Tensor, right: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Split the relevance of a matrix product z = left right, half of it to each factor.

    S = R / z, R_left = left * (S right^T) / 2, R_right = right * (left^T S) / 2. By magnitudes it is the same with
    |left| and |right| and the inverse of |left| |right|: no pole.

    relevance: (B, h, K, M, Q).
    left: (B, h, 1, M, P).
    right: (B, h, 1, P, Q).
    inverse: (B, h, 1, M, Q), of z.

    Returns R_left (B, h, K, M, P) and R_right (B, h, K, P, Q).
    Source: Chefer et al. 2021, eq. 7-8 and appendix (the halves).
    """
    share = relevance * (inverse / 2)
    return matmul_left(share, left, right), matmul_right(share, left, right)


def matmul_left(share: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Compute R_left (B, h, K, M, P) of `matmul` from share = R / (2 z)."""
    return times_shared(share, right.mT).mul_(left)


def matmul_right(share: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Compute R_right (B, h, K, P, Q) of `matmul` from share = R / (2 z)."""
    return shared_times(left.mT, share).mul_(right)
