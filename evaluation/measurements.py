"""What is measured of one run, image by image; `measurement_cache` stores it.

Letters: N images, T targets.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import processes
from evaluation.images import Images
from evaluation.interventions import GRID, Effect
from evaluation.maps import StoredMaps, compute_maps
from evaluation.metrics.complexity import entropy, gini, mass_outside_top, total_variation
from evaluation.metrics.faithfulness import Curves, perturbation_curves
from evaluation.metrics.grid_pointing_game import make_mosaics, mosaic_share
from evaluation.metrics.interventions import oracle_map, relevance_on
from evaluation.metrics.localisation import mass, patch_coverage, pointing_game, rank_accuracy
from evaluation.metrics.randomisation import cascading_randomisation, emprt
from evaluation.metrics.robustness import input_noise_change
from evaluation.metrics.similarity import cosine, spearman, ssim
from evaluation.observations import Observation
from evaluation.options import DISTRACTOR, ORACLE, RANDOM, RUNNER_UP, TRUE, MeasurementOptions
from evaluation.regions import regions_of
from evaluation.subjects import Subject
from explain import relevance
from explain.heatmap import to_heatmap
from explain.registry import METHODS, RelevanceOptions

INPUT_NOISE = 1e-3  # standard deviation of the noise added to the normalised image; it is invisible
STEPS = 10  # of removing patches; as many as there are patches where these are fewer
CELLS = 2  # mosaics have 2 x 2 images
CHUNK = 256  # images whose maps are in memory at once
SIMILARITY = {"spearman": spearman, "cosine": cosine, "ssim": ssim}
COMPLEXITY = {
    "entropy": entropy,
    "gini": gini,
    "total_variation": total_variation,
    "mass_outside_top": mass_outside_top,
}


@dataclass(frozen=True)
class MeasurementRequest:
    """One measurement of one run.

    subject: the run, its images and options.
    method: the relevance method.
    stored: returns the run's maps by this method.
    effects: returns the effects of interventions on the run, image by image.
    imputation: what replaces removed patches, for faithfulness.
    """

    subject: Subject
    method: RelevanceOptions
    stored: Callable[[], StoredMaps]
    effects: Callable[[], list[list[Effect]]]
    imputation: str = ""

    @property
    def name(self) -> str:
        """The name of the relevance method."""
        return self.method.method

    @property
    def metric_images(self) -> Images:
        """The images of metrics that take more passes."""
        return self.subject.images(self.subject.options.metric_images)

    def tensors(self, images: Images) -> tuple[Tensor, Tensor]:
        """Return images as tensors (N, 3, H, W), and their true classes (N, 1), on the device."""
        device = self.subject.device
        labels = torch.from_numpy(images.labels)[:, None].to(device)
        return torch.cat(list(images.read(images.batches))).to(device), labels

    def batches(self, what: str, *tensors: Tensor, size: int | None = None):
        """Split tensors that belong together into batches, with a progress bar."""
        size = size or self.metric_images.batch_size
        parts = zip(*(one.split(size) for one in tensors))
        return self.subject.progress(f"{what}, {self.name}", parts, -(-len(tensors[0]) // size))

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, K, grid_h, grid_w) of images (B, 3, H, W) for targets (B, K)."""
        maps = relevance(self.subject.model, images, targets, self.name, **self.method.keywords())
        assert isinstance(maps, Tensor)  # only options that nothing here gives return more
        return maps


# ---- maps: probabilities, similarity between classes, complexity, localisation


def measure_maps(request: MeasurementRequest) -> Iterator[Observation]:
    """Measure the similarity of the first target's map to others', complexity, and localisation where masks exist."""
    subject, stored, name = request.subject, request.stored(), request.name
    images, targets = subject.images(subject.options.images), stored.targets
    names, rows = images.names, np.arange(len(images))
    probability = {"probability": stored.probability[rows, targets.classes[:, 0]]}
    if targets.first == TRUE:
        probability["correct"] = stored.predicted == targets.classes[:, 0]
    yield from subject.rows(names, "", targets.first, probability)
    for target in (RANDOM, RUNNER_UP):
        yield from subject.rows(names, name, target, similarity(stored.maps, stored.maps, targets.columns(target)))
    for target in (targets.first, RANDOM):
        yield from subject.rows(names, name, target, complexity(stored.maps, targets.columns(target)))
    yield from _localisation(request, images, stored)


def similarity(first: np.ndarray, maps: np.ndarray, columns: slice, suffix: str = "") -> dict[str, np.ndarray]:
    """Return the mean similarity of each image's first map to some others, metric -> (N,).

    first, maps: (N, T, grid_h, grid_w); of `first` only target 0 is used. columns: the others, among `maps`.
    """

    def mean_of(measure: Callable, part: slice) -> np.ndarray:
        others = maps[part, columns]
        return np.nanmean(measure(first[part, :1], others), axis=1) if others.size else np.full(len(others), np.nan)

    return {
        metric + suffix: np.concatenate([mean_of(measure, part) for part in _chunks(len(maps))])
        for metric, measure in SIMILARITY.items()
    }


def complexity(maps: np.ndarray, columns: slice) -> dict[str, np.ndarray]:
    """Return the complexity of some targets' maps, mean over these, metric -> (N,)."""
    return {
        metric: np.concatenate([measure(maps[part, columns]).mean(1) for part in _chunks(len(maps))])
        for metric, measure in COMPLEXITY.items()
    }


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]


def _localisation(request: MeasurementRequest, images: Images, stored: StoredMaps) -> Iterator[Observation]:
    """Measure the first target's positive relevance on each known region: share, area, and their ratio.

    For the evidence also rank accuracy and the pointing game, by pixels, and the share outside it; for a distractor
    also the share that its own class's map has on it.
    """
    subject, name, first = request.subject, request.name, stored.targets.first
    for row, (image, index) in enumerate(zip(images.names, images.indices.tolist())):
        found = np.array(stored.maps[row])
        masks = regions_of(subject.split, index, subject.run.config.data_config)
        for region, mask in masks.items():
            coverage = patch_coverage(mask, found.shape[-2:])
            share, area = float(mass(found[0], coverage)), float(coverage.mean())
            for metric, value in (("share", share), ("area", area), ("ratio", share / area)):
                yield subject.observe(image, name, first, metric, value, place=region)
            if region == "distractor" and stored.targets.distracted[row]:
                own = float(mass(found[-1], coverage))
                yield subject.observe(image, name, DISTRACTOR, "share", own, place=region)
        if (evidence := masks.get("evidence")) is not None:
            for metric, value in _on_evidence(found, evidence).items():
                yield subject.observe(image, name, first, metric, value, place="evidence")


def _on_evidence(found: np.ndarray, evidence: np.ndarray) -> dict[str, float]:
    heat = to_heatmap(torch.from_numpy(found[:1][None]).double(), evidence.shape)[0, 0].numpy()
    return {
        "rank_accuracy": float(rank_accuracy(heat, evidence)),
        "pointing": float(pointing_game(heat, evidence)),
        "outside": float(1 - mass(found[0], patch_coverage(evidence, found.shape[-2:]))),
    }


def measure_centred(request: MeasurementRequest) -> Iterator[Observation]:
    """Measure similarity between classes of maps with a centred head; nothing for methods that explain a contrast.

    Centring subtracts from the head's rows their mean over classes, so that what all classes share is left out.
    """
    info = METHODS[request.name]
    if info.contrast != "none" or request.method.contrast not in (None, "none") or request.method.centre_head:
        return
    subject, stored = request.subject, request.stored()
    images, classes = subject.images(subject.options.images), stored.targets.classes

    def centred_maps(of: np.ndarray) -> np.ndarray:
        return np.concatenate(list(compute_maps(subject, images, of, request.method, centre_head=True)))

    if info.signed:  # linear: what centring subtracts is the same for every class of an image
        centred = stored.maps - (stored.maps[:, :1] - centred_maps(classes[:, :1]))
    else:
        centred = centred_maps(classes)
    for target in (RANDOM, RUNNER_UP):
        found = similarity(centred, centred, stored.targets.columns(target), suffix="_centred")
        yield from subject.rows(images.names, request.name, target, found)


# ---- metrics that take more passes, of fewer images


def measure_robustness(request: MeasurementRequest) -> Iterator[Observation]:
    """Measure the relative change of the first target's map under invisible input noise."""
    subject, images, stored = request.subject, request.metric_images, request.stored()
    row_of = {index: row for row, index in enumerate(subject.images(subject.options.images).indices.tolist())}
    if set(images.indices.tolist()) <= set(row_of):
        rows = [row_of[index] for index in images.indices.tolist()]
        classes, known = stored.targets.classes[rows, :1], stored.maps[rows, :1]
    else:
        classes, known = images.labels[:, None], None

    def work(batches):
        for part, x in zip(batches, images.read(batches)):
            some = slice(part.start, part.stop)
            maps = None if known is None else torch.from_numpy(known[some].copy()).to(subject.device)
            targets = torch.from_numpy(classes[some]).to(subject.device)
            drawn: dict[str, Any] = {"noise": INPUT_NOISE, "seed": subject.options.data_seed, "maps": maps}
            change = input_noise_change(
                subject.model, x.to(subject.device), targets, request.name, **drawn, **request.method.keywords()
            )
            yield change[:, 0].cpu().numpy()

    found = processes.distribute(images.batches, work)
    changes = list(subject.progress(f"robustness, {request.name}", found, len(images.batches)))
    yield from subject.rows(images.names, request.name, stored.targets.first, {"noise": np.concatenate(changes)})


def measure_faithfulness(request: MeasurementRequest) -> Iterator[Observation]:
    """Measure faithfulness for the true class: SRG, MoRF, LeRF, insertion, deletion, and the points of the curves."""
    images = request.metric_images
    x, labels = request.tensors(images)
    subject, names = request.subject, images.names
    # each image comes back as many changed ones
    size = 4 if subject.device.type == "cpu" else max(1, images.batch_size // 4)
    curves = [_curves(request, a, b) for a, b in request.batches("faithfulness", x, labels, size=size)]
    for metric in ("srg", "morf_mean", "lerf_mean", "insertion", "deletion"):
        values = {metric.removesuffix("_mean"): np.concatenate([getattr(curve, metric)[:, 0] for curve in curves])}
        yield from subject.rows(names, request.name, TRUE, values, request.imputation)
    for order in ("morf", "lerf"):
        points = np.concatenate([getattr(curve, order)[:, 0] for curve in curves])
        for i, fraction in enumerate(curves[0].fractions):
            values = {f"{order}_curve": points[:, i]}
            yield from subject.rows(names, request.name, TRUE, values, request.imputation, f"{fraction:g}")


def _curves(request: MeasurementRequest, images: Tensor, targets: Tensor) -> Curves:
    maps = request.explain(images, targets)
    steps = min(STEPS, maps[0, 0].numel())
    return perturbation_curves(request.subject.model, images, targets, maps, steps=steps, imputation=request.imputation)


def measure_grid_pointing(request: MeasurementRequest) -> Iterator[Observation]:
    """Play the grid pointing game: the share of each class's positive relevance in its own cell of a mosaic.

    The mosaics are disjoint, and of images that every compared run predicts correctly (Boehle et al., CVPR 2021);
    nothing is measured where these have fewer classes than a mosaic has cells.
    """
    subject, cells = request.subject, CELLS**2
    # A mosaic uses several images: with no more than other metrics have, too few mosaics would decide anything.
    images = subject.images(cells * subject.options.metric_images)
    names = images.names
    among = np.flatnonzero([name in subject.correct for name in names])
    if len(np.unique(images.labels[among])) < cells:
        return
    x, labels = request.tensors(images)
    mosaics, targets, which = make_mosaics(x, labels[:, 0], n=CELLS, seed=subject.options.data_seed, among=among)
    maps = [request.explain(a, b).cpu().numpy() for a, b in request.batches("mosaics", mosaics, targets)]
    for members, share in zip(which.tolist(), mosaic_share(np.concatenate(maps), CELLS)):
        mosaic = " | ".join(names[i] for i in members)
        yield subject.observe(mosaic, request.name, TRUE, "mosaic_share", float(share))


def measure_randomisation(request: MeasurementRequest) -> Iterator[Observation]:
    """Measure whether maps depend on learned parameters: cascading randomisation and eMPRT.

    The random-logit test is the similarity to random classes' maps, which `measure_maps` measures.
    """
    images = request.metric_images
    x, labels = request.tensors(images)
    subject, names, options = request.subject, images.names, request.method.keywords()
    maps = request.explain(x, labels)
    cascade = cascading_randomisation(subject.model, x, labels, request.name, maps=maps, **options)
    for stage, values in zip(cascade.stages, cascade.similarity):
        yield from subject.rows(names, request.name, TRUE, {"cascade": values[:, 0]}, place=stage)
    values = emprt(subject.model, x, labels, request.name, maps=maps, **options)[:, 0]
    yield from subject.rows(names, request.name, TRUE, {"emprt": values})


def measure_interventions(request: MeasurementRequest) -> Iterator[Observation]:
    """Measure the effect of each intervention, and how much relevance lay on what was changed.

    Also for ORACLE, a map of patches that spreads each effect evenly over its factor's pixels.
    """
    images, subject, name = request.metric_images, request.subject, request.name
    x, labels = request.tensors(images)
    maps = np.concatenate([request.explain(a, b).cpu().numpy() for a, b in request.batches("maps", x, labels)])[:, 0]
    for image, effects, found in zip(images.names, request.effects(), maps, strict=True):
        for one in effects:
            about: dict[str, str] = {"imputation": one.imputation, "place": one.factor}
            yield subject.observe(image, "", TRUE, "effect", one.logit, **about)
            yield subject.observe(image, "", TRUE, "effect_log_p", one.log_probability, **about)
        for imputation in dict.fromkeys(one.imputation for one in effects):
            seen = [one for one in effects if one.imputation == imputation and one.pixels is not None]
            where = [one.pixels for one in seen if one.pixels is not None]
            ideal = oracle_map(np.array([one.logit for one in seen]), np.stack(where), found.shape)
            for kind, heat in ((name, found), (ORACLE, ideal)):
                for one, pixels in zip(seen, where):
                    about = {"imputation": imputation, "place": one.factor}
                    total, share = relevance_on(heat, pixels)
                    yield subject.observe(image, kind, TRUE, "relevance_on", float(total), **about)
                    yield subject.observe(image, kind, TRUE, "relevance_share", float(share), **about)


# ---- the table of measurements


@dataclass(frozen=True)
class Measurement:
    """One kind of measurement.

    compute: yields its observations.
    settings: returns all that they depend on beside the run and its images, constants included.
    version: increased when the code measures something else.
    """

    compute: Callable[[MeasurementRequest], Iterator[Observation]]
    settings: Callable[[Subject], dict[str, Any]]
    version: int = 1


def _of_maps(subject: Subject) -> dict[str, Any]:
    options: MeasurementOptions = subject.options
    return {"images": options.images, "random_classes": options.random_classes}


def _of_expensive(subject: Subject) -> dict[str, Any]:
    return {"images": subject.options.metric_images}


MEASURES = {
    "maps": Measurement(measure_maps, _of_maps, version=3),
    "centred": Measurement(measure_centred, _of_maps),
    "robustness": Measurement(
        measure_robustness,
        lambda subject: _of_maps(subject) | {"metric_images": subject.options.metric_images, "noise": INPUT_NOISE},
        version=2,
    ),
    "faithfulness": Measurement(
        measure_faithfulness, lambda subject: _of_expensive(subject) | {"steps": STEPS}, version=2
    ),
    "grid_pointing": Measurement(
        measure_grid_pointing,
        lambda subject: _of_expensive(subject) | {"cells": CELLS, "correct": sorted(subject.correct)},
        version=3,
    ),
    "randomisation": Measurement(measure_randomisation, _of_expensive, version=2),
    "interventions": Measurement(measure_interventions, lambda subject: _of_expensive(subject) | {"grid": GRID}),
}
