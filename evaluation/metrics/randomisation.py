"""Randomisation tests of relevance methods: does a map depend on what the model learned, and on the class asked for?

Metrics: cascading randomisation, eMPRT, random logit. Shapes: B images, K targets, L blocks, S stages of randomisation,
gh x gw patches.

To randomise a parameter is to shuffle its values among themselves. What was learned is gone, while every tensor keeps
its scale. A fresh initialisation, the papers' choice, would also shrink what the randomised layers add to the residual
stream, and needs another rule for tokens and positions, which have no initialisation of their own.

Arguments that the tests share:
model: a plain timm VisionTransformer, left as it was found (a copy is shuffled: memory for one more model).
images: (B, 3, H, W), as for `relevance`.
targets: (B, K) int64, as for `relevance`.
method: a name in METHODS; options are its own, none that asks for more than maps.
seed: fixes what is drawn; the result does not depend on what else is in the batch.
batch_size: images explained together.
maps: the images' own maps (B, K, gh, gw) of this method and these options, if known; they are not computed again.
Errors are those of `relevance`.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.metrics.arrays import to_array
from evaluation.metrics.complexity import histogram_entropy
from evaluation.metrics.similarity import spearman
from explain import check_explainable, relevance
from explain.methods import generator_for

EMBEDDING = {"patch_embed", "cls_token", "dist_token", "reg_token", "pos_embed", "norm_pre"}


@dataclass(frozen=True)
class Cascade:
    """Similarity of maps before and after randomising ever more of the model.

    stages: S names, in order: "head" (all that follows the blocks), "blocks.L-1" to "blocks.0", "embedding".
    similarity: (S, B, K) float64, after that stage and all before it were randomised.
    """

    stages: tuple[str, ...]
    similarity: np.ndarray


def randomised(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield (stage, model) from the head down: one copy of the model, randomised further at every stage.

    model: a plain timm VisionTransformer.
    seed: fixes the shuffles.
    Stages are those of `Cascade`; after the last, everything is randomised.
    Raises UnsupportedModel.
    """
    check_explainable(model)
    shuffled, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for stage, parameters in _stages(shuffled).items():
        for parameter in parameters:
            _shuffle(parameter, generator)
        yield stage, shuffled


def _stages(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    count = len(cast(nn.Sequential, model.blocks))
    blocks = [f"blocks.{index}" for index in reversed(range(count))]
    found: dict[str, list[nn.Parameter]] = {stage: [] for stage in ("head", *blocks, "embedding")}
    for name, parameter in model.named_parameters():
        first, *rest = name.split(".")
        stage = f"blocks.{rest[0]}" if first == "blocks" else "embedding" if first in EMBEDDING else "head"
        found[stage].append(parameter)
    return found


@torch.no_grad()
def _shuffle(parameter: nn.Parameter, generator: torch.Generator) -> None:
    order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
    parameter.copy_(parameter.flatten()[order].view_as(parameter))


# ---- the tests


def cascading_randomisation(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str,
    *,
    seed: int = 0,
    batch_size: int = 32,
    maps: Tensor | None = None,
    **options,
) -> Cascade:
    """Randomise the model from the head down, block by block, and compare the maps with the original's each time.

    Costs S + 1 = L + 3 maps per image and target. Arguments as at the top of this file.

    Returns the rank correlation of the maps' magnitudes, as a signed map whose parts change sign still shows the same
        picture. -1 to 1; lower is better, expected to fall to chance, 0: a method that stays near 1 shows the image and
        not the model. NaN where a map is constant.
    Source: Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018.
    """
    before = np.abs(_maps(model, images, targets, method, batch_size, options, maps))
    stages, similarity = [], []
    for stage, shuffled in randomised(model, seed):
        after = np.abs(_maps(shuffled, images, targets, method, batch_size, options))
        stages.append(stage)
        similarity.append(spearman(before, after))
    return Cascade(tuple(stages), np.stack(similarity))


def emprt(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str,
    *,
    bins: int = 100,
    seed: int = 0,
    batch_size: int = 32,
    maps: Tensor | None = None,
    **options,
) -> np.ndarray:
    """Compute by how much maps get more complex once everything is randomised (efficient MPRT).

    Costs two maps per image and target. Arguments as at the top of this file.

    bins: of the histograms of the maps' values whose entropy is compared (see `histogram_entropy`).
    Returns (B, K) float64: (entropy after - entropy before) / entropy before. -1 and up; higher is better, expected
        above 0; 0 for a method that ignores the model. NaN where the original map is constant.
    Source: Hedstroem et al., Sanity checks revisited, XAI in Action, NeurIPS workshops 2023.
    """
    before = histogram_entropy(_maps(model, images, targets, method, batch_size, options, maps), bins)
    *_, (_, everything) = randomised(model, seed)
    after = histogram_entropy(_maps(everything, images, targets, method, batch_size, options), bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(before == 0, np.nan, (after - before) / before)


def random_logit(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str,
    *,
    seed: int = 0,
    batch_size: int = 32,
    maps: Tensor | None = None,
    **options,
) -> np.ndarray:
    """Compute the similarity of each target's map and the map of another class, drawn at random.

    Costs two maps per image and target. Arguments as at the top of this file. The other class is uniform over all but
    the target, fixed by seed, target and the image's own pixels.

    Returns (B, K) float64, the rank correlation of the maps as they are, as evidence for one class may be evidence
        against the other. -1 to 1; lower is more class-specific; 1 for a method that ignores the class, 0 for random
        maps. It depends on the model too: it compares methods on one model. NaN where a map is constant.
    Raises ValueError for a model with one class.
    Source: Sixt, Granz, Landgraf, When explanations lie, ICML 2020 (who use SSIM).
    """
    check_explainable(model)
    classes = cast(nn.Linear, model.head).out_features
    if classes == 1:
        raise ValueError("the model has one class; random_logit compares with another.")
    before = _maps(model, images, targets, method, batch_size, options, maps)
    drawn = torch.tensor(
        [[_other(image, target, classes, seed) for target in row] for image, row in zip(images, targets.tolist())],
        device=targets.device,
    )
    return spearman(before, _maps(model, images, drawn, method, batch_size, options))


def _other(image: Tensor, target: int, classes: int, seed: int) -> int:
    step = torch.randint(1, classes, (), generator=generator_for(image, seed, target))
    return (target + int(step)) % classes


def _maps(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str,
    batch_size: int,
    options: dict,
    known: Tensor | None = None,
) -> np.ndarray:
    """Return maps (B, K, gh, gw) as float64 arrays; `known` are those computed before."""
    if known is not None:
        return to_array(known)
    # Up to the longer of the two, so that relevance itself says where they do not fit.
    slices = [slice(start, start + batch_size) for start in range(0, max(len(images), len(targets)), batch_size)]
    parts = [relevance(model, images[part], targets[part], method, **options) for part in slices]
    return to_array(torch.cat(cast(list[Tensor], parts)))
