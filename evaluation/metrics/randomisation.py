"""Sanity checks of relevance methods: does a map depend on what the model learned, and on the class asked for?

Shapes: B images, K targets, L blocks, S stages of randomisation, gh x gw patches.

To randomise a parameter is to shuffle its values among themselves. What was learned is gone, while every
tensor keeps its scale; a fresh initialisation, the papers' choice, would also shrink what the randomised
layers add to the residual stream, and leave tokens and positions, which have no initialisation of their own
to reset to, for another rule.

Arguments that the checks share: model, a plain timm VisionTransformer, left as it was found (what is shuffled is a
copy: memory for one more model); images (B, 3, H, W) and targets (B, K) as for `relevance`; method, a name in
METHODS, and options, its own (none that asks for more than maps); seed fixes what is drawn, and the result is the
same whatever else is in the batch; batch_size, images explained together; maps, the images' own maps (B, K, gh, gw)
of this method and these options, where they are known already: they are not computed again then.
Errors are those of `relevance`.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.metrics.maps import histogram_entropy, spearman
from explain import check_explainable, relevance
from explain.methods import generator_for

EMBEDDING = {"patch_embed", "cls_token", "dist_token", "reg_token", "pos_embed", "norm_pre"}


@dataclass(frozen=True)
class Cascade:
    """Likeness of maps before and after ever more of the model was randomised.

    stages: S names, in order: "head" (all that follows the blocks), "blocks.L-1" to "blocks.0", "embedding".
    similarity: (S, B, K) float64, after that stage and all before it.
    """

    stages: tuple[str, ...]
    similarity: np.ndarray


def randomised(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield (stage, model) from the head down; one copy of the model, randomised further at every stage.

    Stages as in `Cascade`; after the last, everything is randomised. Raises UnsupportedModel.
    """
    check_explainable(model)
    shuffled, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for stage, parameters in _stages(shuffled).items():
        for parameter in parameters:
            _shuffle(parameter, generator)
        yield stage, shuffled


def _stages(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    blocks = [f"blocks.{index}" for index in reversed(range(len(model.blocks)))]
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


# ---- the checks


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
    """Randomise the model from the head down, block by block, and compare maps with the original's each time.

    Similarity is the rank correlation of the maps' magnitudes: a signed map whose parts change sign, and
    nothing else, still shows the same picture. -1 to 1; lower is better, expected to fall to chance, 0; a
    method that stays near 1 shows the image and not the model. nan where a map is constant.
    Costs S + 1 = L + 3 maps an image and target. Arguments as at the top of this file.
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
    """Efficient model parameter randomisation test: by how much maps get more complex. Returns (B, K) float64.

    (entropy after everything was randomised - entropy before) / entropy before, of the histograms of the
    maps' values in `bins` bins (see `metrics.histogram_entropy`). -1 and up; higher is better, expected above 0;
    0 for a method that does not look at the model. nan where the original map is constant.
    Costs two maps an image and target. Arguments as at the top of this file.
    Source: Hedstroem et al., Sanity checks revisited, XAI in Action, NeurIPS workshops 2023.
    """
    before = histogram_entropy(_maps(model, images, targets, method, batch_size, options, maps), bins)
    for _, shuffled in randomised(model, seed):
        pass  # to the last stage
    after = histogram_entropy(_maps(shuffled, images, targets, method, batch_size, options), bins)
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
    """Likeness of each target's map and the map of another class, drawn at random. Returns (B, K) float64.

    Rank correlation of the maps as they are: evidence for one class may be evidence against the other. -1 to 1;
    lower is more class-specific; 1 for a method that does not ask for the class, 0 for random maps. It depends on the
    model too: between methods on one model it judges the methods. nan where a map is constant.
    The other class is uniform over all but the target, fixed by (seed, target, the image's own pixels).
    Costs two maps an image and target. Arguments as at the top of this file; raises ValueError for a model with one
    class. Source: Sixt, Granz, Landgraf, When explanations lie, ICML 2020 (who use SSIM).
    """
    check_explainable(model)
    classes = model.head.out_features
    if classes == 1:
        raise ValueError("the model has one class; random_logit compares with another.")
    before = _maps(model, images, targets, method, batch_size, options, maps)
    others = torch.tensor(
        [[_other(image, target, classes, seed) for target in row] for image, row in zip(images, targets.tolist())],
        device=targets.device,
    )
    return spearman(before, _maps(model, images, others, method, batch_size, options))


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
    if known is None:
        # Up to the longer of the two, so that relevance itself says where they do not fit.
        slices = [slice(start, start + batch_size) for start in range(0, max(len(images), len(targets)), batch_size)]
        known = torch.cat([relevance(model, images[part], targets[part], method, **options) for part in slices])
    return known.detach().cpu().double().numpy()
