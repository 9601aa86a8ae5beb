"""Faithfulness by perturbation: how a model's probability falls as patches are imputed in the order of a map.

Metrics: MoRF, LeRF, their difference SRG, insertion, deletion. A perturbed patch's content is replaced (imputed), as a
ViT has to be given all its patches. Shapes: B images, K targets, H x W pixels, gh x gw patches, S steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from scipy import sparse
from scipy.integrate import trapezoid
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from explain.methods import generator_for

IMPUTATIONS = ("mean", "blur", "linear")
BLUR = 10.0  # standard deviation of the blur, pixels of a 224-pixel side (RISE: 11 x 11, sigma 5 to 10)
IMPUTATION_NOISE = 0.01  # standard deviation added to imputed pixels of the normalised image (ROAD's own)


@dataclass(frozen=True)
class Curves:
    """Softmax probability of each target as patches are imputed, the most or the least relevant first.

    fractions: (S + 1,) share of patches imputed, from 0 to 1 in S equal steps.
    morf: (B, K, S + 1) float64 in [0, 1], the most relevant patches first.
    lerf: (B, K, S + 1) float64 in [0, 1], the least relevant patches first. Both curves meet at both ends.

    The properties are (B, K) float64. Means over 0 to 1 - 1/S leave out the last point, where no patch is left.
    """

    fractions: np.ndarray
    morf: np.ndarray
    lerf: np.ndarray

    @property
    def srg(self) -> np.ndarray:
        """Compute the symmetric relevance gain: mean of LeRF minus mean of MoRF. -1 to 1, higher is better, chance 0.

        Source: Bluecher, Vielhaben, Strodthoff, TMLR 2024.
        """
        return self.lerf_mean - self.morf_mean

    @property
    def morf_mean(self) -> np.ndarray:
        """Compute the mean of MoRF (positive perturbation). 0 to 1, lower is better; chance: a random map's value.

        Source: Samek et al., TNNLS 2017; Chefer et al., CVPR 2021 (0 to 90 %).
        """
        return self.morf[..., :-1].mean(-1)

    @property
    def lerf_mean(self) -> np.ndarray:
        """Compute the mean of LeRF (negative perturbation). 0 to 1, higher is better; chance: a random map's value."""
        return self.lerf[..., :-1].mean(-1)

    @property
    def deletion(self) -> np.ndarray:
        """Compute the area under MoRF. 0 to 1, lower is better; chance: a random map's value.

        Source: RISE, Petsiuk et al., BMVC 2018.
        """
        return trapezoid(self.morf, self.fractions, axis=-1)

    @property
    def insertion(self) -> np.ndarray:
        """Compute the area under the curve of inserting the most relevant patches first into a fully imputed image.

        0 to 1, higher is better; chance: a random map's value. Inserting the first k of N patches leaves the N - k
        least relevant ones imputed, so the curve is LeRF read backwards, with the same area.
        Source: RISE, Petsiuk et al., BMVC 2018 (who start from a blur).
        """
        return trapezoid(self.lerf, self.fractions, axis=-1)


@torch.no_grad()
def perturbation_curves(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    steps: int = 10,
    imputation: str = "mean",
    batch_size: int = 24,
    seed: int = 0,
) -> Curves:
    """Impute patches in order of relevance, most and least relevant first, and record each target's probability.

    Costs 2 K (S - 1) + 2 forward passes per image.

    model: anything that maps images to logits (B, C); called in the mode that it is in.
    images: (B, 3, H, W) normalised, so that the data mean is 0.
    targets: (B, K) int64.
    maps: (B, K, gh, gw), with H and W multiples of gh and gw.
    steps: S, the number of equal steps from no to all patches.
    imputation: what replaces a patch. "mean": the data mean; "blur": a wide Gaussian blur of the image; "linear": noisy
        linear imputation, each pixel the weighted mean of its eight neighbours plus a little noise (ROAD, Rong et al.,
        ICML 2022), which shows less of the mask's shape to the model but takes seconds per image.
    batch_size: perturbed images that go through the model together, whichever image, target and step they belong to;
        memory grows with it alone. 32 take 4 % longer on a CPU (DeiT-Tiny 224, one thread).
    seed: fixes, with the image's pixels, the order of patches that tie and the noise of linear imputation.
    Raises ValueError for shapes that do not fit, for negative targets and for maps that are not finite, whose patches
        have no order.
    """
    grid = _check(images, targets, maps, steps, imputation, batch_size)
    fractions, classes = np.arange(steps + 1) / steps, targets.cpu().numpy()
    curves = np.empty((*classes.shape, 2, steps + 1))
    perturbed = _perturbed(images, maps, fractions, grid, imputation, seed)
    while batch := list(islice(perturbed, batch_size)):
        probabilities = _probabilities(model, [image for _, image in batch])
        for (place, _), found in zip(batch, probabilities):
            curves[place] = found[classes[place[:2]]][..., None]
    return Curves(fractions, curves[:, :, 0], curves[:, :, 1])


def _perturbed(
    images: Tensor, maps: Tensor, fractions: np.ndarray, grid: tuple[int, int], imputation: str, seed: int
) -> Iterator[tuple[tuple, Tensor]]:
    """Yield the place in curves (B, K, 2, S + 1) of every perturbed image (3, H, W), and the image, made on demand.

    At both ends one image serves every target and both orders.
    """
    count, whole = grid[0] * grid[1], slice(None)
    for index, image in enumerate(images):
        impute = _imputer(image, grid, imputation, seed)
        yield (index, whole, whole, 0), image
        yield (index, whole, whole, -1), impute(torch.ones(grid, dtype=torch.bool, device=image.device))
        for target, relevance in enumerate(maps[index]):
            most_first = perturbation_order(relevance, generator_for(image, seed)).to(image.device)
            for side, order in enumerate((most_first, most_first.flip(0))):
                for step, fraction in enumerate(fractions[1:-1].tolist(), start=1):
                    place = index, slice(target, target + 1), slice(side, side + 1), step
                    yield place, impute(_mask(order, round(fraction * count), grid))


def perturbation_order(relevance: Tensor, generator: torch.Generator) -> Tensor:
    """Return the indices of patches (gh * gw,) from the most to the least relevant; ties in random order."""
    values = relevance.detach().flatten().cpu()
    shuffled = torch.randperm(len(values), generator=generator)
    return shuffled[values[shuffled].argsort(descending=True, stable=True)]


def _mask(order: Tensor, count: int, grid: tuple[int, int]) -> Tensor:
    mask = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    mask[order[:count]] = True
    return mask.view(grid)


def _probabilities(model: nn.Module, images: list[Tensor]) -> np.ndarray:
    """Return the softmax probabilities (N, C) of N images (3, H, W)."""
    return model(torch.stack(images)).cpu().double().softmax(-1).numpy()  # on the CPU: Apple GPUs have no float64


# ---- imputation


def _imputer(image: Tensor, grid: tuple[int, int], imputation: str, seed: int) -> Callable[[Tensor], Tensor]:
    """Return a function: mask (gh, gw) bool -> the image (3, H, W) with these patches imputed."""
    if imputation == "linear":
        return lambda mask: _impute_linearly(image, _to_pixels(mask, image), seed)
    impute = region_imputer(image, imputation)
    return lambda mask: impute(_to_pixels(mask, image))


def region_imputer(image: Tensor, imputation: str) -> Callable[[Tensor], Tensor]:
    """Return a function: mask (H, W) bool of pixels -> the image (3, H, W) with these imputed.

    imputation: "mean" or "blur", see `perturbation_curves`.
    """
    fill = torch.zeros_like(image) if imputation == "mean" else _blurred(image)
    return lambda mask: torch.where(mask.to(image.device), fill, image)


def _to_pixels(mask: Tensor, image: Tensor) -> Tensor:
    height, width = (side // patches for side, patches in zip(image.shape[-2:], mask.shape))
    return mask.repeat_interleave(height, 0).repeat_interleave(width, 1)


def _blurred(image: Tensor) -> Tensor:
    sigma = BLUR * image.shape[-1] / 224
    blurred = gaussian_filter(image.cpu().numpy(), sigma=(0, sigma, sigma), mode="nearest")
    return torch.from_numpy(blurred).to(image)


def _impute_linearly(image: Tensor, masked: Tensor, seed: int) -> Tensor:
    """Solve for the masked pixels (H, W): each the mean of its neighbours, side 2 to corner 1, plus noise."""
    hole, pixels = masked.cpu().numpy(), image.cpu().double().numpy()
    count = int(hole.sum())
    if not count:
        return image
    if count == hole.size:  # nothing to interpolate from
        values = np.zeros((count, len(pixels)))
    else:
        number = np.full(hole.shape, -1)
        number[hole] = np.arange(count)
        system, known = _neighbourhood(hole, number, pixels)
        values = sparse.linalg.splu(system).solve(known)
    noise = torch.randn(len(pixels), *hole.shape, generator=generator_for(image, seed), dtype=torch.float64)
    result = pixels.copy()
    result[:, hole] = values.T + IMPUTATION_NOISE * noise.numpy()[:, hole]
    return torch.from_numpy(result).to(image.dtype).to(image.device)


def _neighbourhood(hole: np.ndarray, number: np.ndarray, pixels: np.ndarray) -> tuple[sparse.csc_matrix, np.ndarray]:
    """The system (n, n) and right-hand side (n, 3) of n masked pixels: weight sum * x - neighbours = known."""
    rows, columns, weights = [], [], []
    diagonal, known = np.zeros(len(number[hole])), np.zeros((len(number[hole]), len(pixels)))
    padded = [
        np.pad(array, ((0, 0),) * (array.ndim - 2) + ((1, 1), (1, 1)), constant_values=value)
        for array, value in ((number, -2), (pixels, 0.0))
    ]
    height, width = hole.shape
    for down, right in ((d, r) for d in (-1, 0, 1) for r in (-1, 0, 1) if d or r):
        weight = 1.0 if down and right else 2.0
        window = (slice(1 + down, 1 + down + height), slice(1 + right, 1 + right + width))
        neighbour, colour = padded[0][window][hole], padded[1][(slice(None), *window)][:, hole].T
        diagonal += weight * (neighbour != -2)  # -2: beyond the image
        known[neighbour == -1] += weight * colour[neighbour == -1]
        inside = neighbour >= 0
        rows.append(np.flatnonzero(inside))
        columns.append(neighbour[inside])
        weights.append(np.full(inside.sum(), -weight))
    entries = np.concatenate([diagonal, *weights])
    places = (np.concatenate([np.arange(len(diagonal)), *rows]), np.concatenate([np.arange(len(diagonal)), *columns]))
    return sparse.csc_matrix((entries, places), shape=(len(diagonal),) * 2), known


def _check(
    images: Tensor, targets: Tensor, maps: Tensor, steps: int, imputation: str, batch_size: int
) -> tuple[int, int]:
    if imputation not in IMPUTATIONS:
        raise ValueError(f"imputation is {imputation!r}; expected one of {', '.join(IMPUTATIONS)}.")
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1.")
    if maps.dim() != 4 or tuple(maps.shape[:2]) != tuple(targets.shape) or len(images) != len(maps):
        raise ValueError(
            f"images {tuple(images.shape)}, targets {tuple(targets.shape)} and maps "
            f"{tuple(maps.shape)} do not agree; expected (B, 3, H, W), (B, K), (B, K, gh, gw)."
        )
    if targets.numel() and int(targets.min()) < 0:  # which would count from the last class
        raise ValueError(f"targets go down to {int(targets.min())}; classes count from 0.")
    grid = maps.shape[-2], maps.shape[-1]
    if any(side % patches for side, patches in zip(images.shape[-2:], grid)):
        raise ValueError(
            f"images of {images.shape[-2]} x {images.shape[-1]} pixels; expected multiples of the "
            f"maps' grid {grid[0]} x {grid[1]}."
        )
    if steps > grid[0] * grid[1]:
        raise ValueError(f"{steps} steps for {grid[0] * grid[1]} patches; expected at most as many.")
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("maps hold values that are not finite, which have no order; leave these images out.")
    return grid
