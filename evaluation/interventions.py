"""Change one factor of an image at a time, and measure its effect on a run and the relevance that its pixels had.

On drawn scenes a factor is what the scene shows (see data.scenes.scene.Change). On other images it is a region, a cell
of a coarse grid or what a mask marks, and the intervention is its imputation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common import processes
from common.files import atomic
from data.datasets import Split
from data.scenes.split import SceneSplit
from data.transforms import evaluation_transform, prepared_masks
from evaluation.metrics.faithfulness import region_imputer
from evaluation.metrics.interventions import effects
from evaluation.subjects import Subject

GRID = 4  # regions along each side of an image that is no scene
IMPUTED = ("mean", "blur")
EVIDENCE, EXCHANGED, LIGHT = "evidence", "exchanged evidence", "light"


@dataclass(frozen=True)
class Intervention:
    """One factor of an image, changed.

    factor: what was changed.
    images: (M, 3, H, W), the image with it changed in M ways.
    pixels: (H, W) bool, where the factor is; None where it is everywhere, so that relevance cannot lie on it.
    imputation: what replaced a region; "" on drawn scenes.
    """

    factor: str
    images: Tensor
    pixels: np.ndarray | None
    imputation: str = ""


@dataclass(frozen=True)
class Effect:
    """The effect of an intervention on a run, for the image's true class.

    factor, pixels, imputation: of the intervention.
    logit, log_probability: see `evaluation.metrics.interventions.effects`.
    """

    factor: str
    pixels: np.ndarray | None
    imputation: str
    logit: float
    log_probability: float


def interventions_on(split: Split, index: int, image: Tensor, config: dict) -> Iterator[Intervention]:
    """Yield the interventions on an image.

    split, index: which image.
    image: (3, H, W), as the model takes it.
    config: the model's data config.
    """
    if isinstance(split, SceneSplit):
        yield from _of_scene(split, index, image, config)
        return
    height, width = image.shape[-2:]
    regions = {}
    for row in range(GRID):
        for column in range(GRID):
            cell = np.zeros((height, width), dtype=bool)
            cell[
                row * height // GRID : (row + 1) * height // GRID,
                column * width // GRID : (column + 1) * width // GRID,
            ] = True
            regions[f"cell {row}, {column}"] = cell
    masks = prepared_masks(split.masks(index) or {}, config)
    regions |= {name: mask for name, mask in masks.items() if mask.any()}
    for imputation in IMPUTED:
        impute = region_imputer(image, imputation)
        for name, pixels in regions.items():
            yield Intervention(name, impute(torch.from_numpy(pixels))[None], pixels, imputation)


def _of_scene(split: SceneSplit, index: int, image: Tensor, config: dict) -> Iterator[Intervention]:
    transform = evaluation_transform(config)
    changed: dict[str, list[Tensor]] = {}
    for change in split.changes(index):
        factor = f"bystander {change.value}" if change.factor == "bystander" else change.factor
        changed.setdefault(factor, []).append(transform(split.changed(index, change)))
    where = {}
    for factor, found in changed.items():
        images = torch.stack(found)
        where[factor] = (images != image).any(0).any(0).numpy()
        # what takes the evidence's place is not where the evidence was
        pixels = None if factor == LIGHT else where[EVIDENCE if factor == EXCHANGED else factor]
        yield Intervention(factor, images, pixels)


def effects_on_images(subject: Subject) -> list[list[Effect]]:
    """Return the effects of all interventions on the images of metrics that take more passes, image by image.

    All processes that torchrun started compute them together.
    """
    images = subject.images(subject.options.metric_images, batch_size=1)

    def work(batches: Sequence[range]) -> Iterator[list[Effect]]:
        for rows, image in zip(batches, images.read(batches)):
            yield effects_on(subject, int(images.indices[rows.start]), image[0])

    return list(subject.progress("interventions", processes.distribute(images.batches, work), len(images)))


def effects_on(subject: Subject, index: int, image: Tensor) -> list[Effect]:
    """Return the effects of all interventions on one image.

    subject: the run.
    index: the image's number in the split.
    image: (3, H, W), as the model takes it.
    """
    found = list(interventions_on(subject.split, index, image, subject.run.config.data_config))
    model, target = subject.model.eval(), int(subject.split.labels[index])
    every = torch.cat([image[None], *(one.images for one in found)])
    with torch.inference_mode():
        logits = torch.cat([model(part.to(subject.device)).float().cpu() for part in every.split(32)])
    after = torch.split(logits[1:], [len(one.images) for one in found])
    return [
        Effect(one.factor, one.pixels, one.imputation, *effects(logits[0], changed, target))
        for one, changed in zip(found, after)
    ]


def save_effects(path: Path, found: Sequence[Sequence[Effect]]) -> None:
    """Write the effects of interventions on some images, in their order, to an .npz file."""
    rows = [(number, one) for number, effects_of in enumerate(found) for one in effects_of]
    shape = next(one.pixels.shape for _, one in rows if one.pixels is not None)
    nowhere = np.zeros(shape, dtype=bool)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            image=np.array([number for number, _ in rows]),
            factor=np.array([one.factor for _, one in rows]),
            imputation=np.array([one.imputation for _, one in rows]),
            sizes=np.array([[one.logit, one.log_probability] for _, one in rows]),
            everywhere=np.array([one.pixels is None for _, one in rows]),
            pixels=np.packbits(np.stack([nowhere if one.pixels is None else one.pixels for _, one in rows]), axis=-1),
            width=shape[-1],
        )


def load_effects(path: Path) -> list[list[Effect]]:
    """Read what `save_effects` wrote."""
    with np.load(path) as stored:
        pixels = np.unpackbits(stored["pixels"], axis=-1, count=int(stored["width"])).astype(bool)
        found: list[list[Effect]] = [[] for _ in range(int(stored["image"].max()) + 1)]
        columns = (stored[name].tolist() for name in ("image", "factor", "imputation", "sizes", "everywhere"))
        for number, factor, imputation, (logit, log_probability), everywhere, where in zip(*columns, pixels):
            found[number].append(Effect(factor, None if everywhere else where, imputation, logit, log_probability))
    return found
