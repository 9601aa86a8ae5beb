"""What is measured of one run, image by image, and of two by depth; kept.py keeps it."""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cli.commandline import batch_of
from common.files import atomic
from data.datasets import ImageData, Split
from data.sampling import stratified
from evaluation.comparison import regions_of
from evaluation.explained import Images, layer_shares, probabilities_of
from evaluation.metrics.depth import measure_depth
from evaluation.metrics.faithfulness import Curves, perturbation_curves
from evaluation.metrics.grid_pointing_game import cell_share, make_mosaics
from evaluation.metrics.maps import (
    cosine,
    entropy,
    gini,
    mass,
    mass_outside_top,
    patch_coverage,
    pointing_game,
    rank_accuracy,
    repeatability,
    spearman,
    ssim,
    total_variation,
)
from evaluation.metrics.randomisation import cascading_randomisation, emprt
from evaluation.observations import Observation
from evaluation.statistics.depth import DepthRun
from explain import METHODS, find_method, relevance
from explain.heatmap import to_heatmap
from models.backbone import content_hash
from models.runs import Run

INPUT_NOISE = 1e-3  # standard deviation added to the normalised image: invisible
STEPS = 10  # of removal; as many as patches where they are fewer
CELLS = 2  # mosaics of 2 x 2 images
DEPTH_VERSION = 1  # counted up when the code comes to measure something else
TRUE, RANDOM, RUNNER_UP, DISTRACTOR = "true", "random", "runner-up", "distractor"


@dataclass(frozen=True)
class Subject:
    """A run, the images it is asked about, and how.

    args: others (random classes an image), images (how many for what is cheap; None: all), metric_images (for what
    is dear), data_seed, images_at_once (None: by the device).
    """

    run: Run
    method: str
    data: ImageData
    split_name: str
    args: argparse.Namespace
    device: torch.device

    @property
    def split(self) -> Split:
        return self.data.splits[self.split_name]

    def images(self, count: int | None, at_once: int | None = None) -> Images:
        """`count` images, spread over classes, or all; fewer are the same for every run."""
        indices = stratified(self.split.labels, min(count or len(self.split), len(self.split)), self.args.data_seed)
        return Images(self.split, indices, self.run.config["data_config"], at_once or self.at_once(len(indices)), 0)

    def at_once(self, count: int) -> int:
        return batch_of(self.args.images_at_once, self.device, count)

    @cached_property
    def content(self) -> str:
        """SHA-256 of the model's weights and of how it sees images."""
        about = json.dumps([self.run.config["data_config"], self.run.class_names])
        return hashlib.sha256((content_hash(self.run.model, head=True) + about).encode()).hexdigest()

    @cached_property
    def model(self) -> torch.nn.Module:
        return self.run.model.to(self.device)

    def tensors(self, count: int) -> tuple[Images, Tensor, Tensor]:
        """A few images at once: which they are, (N, 3, H, W), and their true classes (N, 1)."""
        images = self.images(count)
        labels = torch.from_numpy(np.asarray(self.split.labels)[images.indices]).long()
        return images, torch.cat(list(images.read(images.batches))).to(self.device), labels[:, None].to(self.device)

    def names(self, images: Images) -> list[str]:
        return [self.split.name(int(index)) for index in images.indices]

    def observe(
        self,
        image: str,
        relevance_name: str,
        target: str,
        metric: str,
        value: float,
        removal: str = "",
        place: str = "",
    ) -> Observation:
        return Observation(
            Path(self.data.name).name,
            self.split_name,
            self.method,
            self.run.config["seed"],
            image,
            relevance_name,
            target,
            metric,
            removal,
            place,
            float(value),
        )

    def rows(
        self, images: Images, name: str, target: str, columns: dict[str, np.ndarray], removal: str = "", place: str = ""
    ) -> Iterator[Observation]:
        for metric, values in columns.items():
            for image, value in zip(self.names(images), values):
                yield self.observe(image, name, target, metric, value, removal, place)

    def batches(self, what: str, *tensors: Tensor, size: int | None = None):
        """Pieces of tensors that belong together, with a progress bar."""
        size = size or self.at_once(len(tensors[0]))
        return self.progress(what, zip(*(one.split(size) for one in tensors)), -(-len(tensors[0]) // size))

    def progress(self, what: str, batches, total: int):
        return tqdm(
            batches, desc=f"{what}, {self.method}", total=total, unit="batch", delay=2, leave=False, disable=None
        )


# ---- maps: likeness and scatter


@dataclass(frozen=True)
class Maps:
    """Stored maps (N, T, grid_h, grid_w) float32 of targets (N, T): the true class, the random ones, the runner-up and,
    on drawn scenes, the class of the unused equipment (or the true one again where there is none)."""

    maps: np.ndarray
    targets: np.ndarray
    probability: np.ndarray

    def save(self, path: Path) -> None:
        with atomic(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, maps=self.maps, targets=self.targets, probability=self.probability)

    @classmethod
    def load(cls, path: Path) -> "Maps":
        with np.load(path) as found:
            return cls(found["maps"], found["targets"], found["probability"])


def targets_of(subject: Subject, images: Images, probability: np.ndarray) -> np.ndarray:
    """Return the classes explained, (N, 1 + others + 1 + 1 on drawn scenes)."""
    rows = []
    for index, p in zip(images.indices.tolist(), probability):
        true = int(subject.split.labels[index])
        free = [c for c in range(len(p)) if c != true]
        drawn = np.random.default_rng((subject.args.data_seed, index)).choice(
            free, min(subject.args.others, len(free)), replace=False
        )
        runner_up = max(free, key=lambda c: p[c])
        scene = subject.split.scene(index)
        unused = [] if scene is None else [scene.distractor if scene.distractor >= 0 else true]
        rows.append([true, *drawn.tolist(), runner_up, *unused])
    return np.array(rows)


def measure_maps(subject: Subject, name: str, keep: Path) -> Iterator[Observation]:
    """Likeness of the true class's map to others', scatter, and regions on drawn scenes; stores the maps at `keep`."""
    images, model = subject.images(subject.args.images), subject.model
    probability = np.concatenate(
        [probabilities_of(subject.run, x, subject.device) for x in images.read(images.batches)]
    )
    targets = targets_of(subject, images, probability)
    others = min(subject.args.others, probability.shape[1] - 1)

    def maps_of(classes: np.ndarray, **options) -> np.ndarray:
        batches = zip(images.batches, images.read(images.batches))
        return np.concatenate(
            [
                relevance(
                    model,
                    x.to(subject.device),
                    torch.from_numpy(classes[rows.start : rows.stop]).to(subject.device),
                    name,
                    **options,
                )
                .cpu()
                .numpy()
                for rows, x in subject.progress(name, batches, len(images.batches))
            ]
        )

    maps = maps_of(targets)
    Maps(maps.astype(np.float32), targets, probability).save(keep)
    rows = np.arange(len(targets))
    yield from subject.rows(
        images,
        "",
        TRUE,
        {"probability": probability[rows, targets[:, 0]], "correct": probability.argmax(1) == targets[:, 0]},
    )
    yield from subject.rows(images, name, RANDOM, likeness(maps, slice(1, 1 + others)))
    yield from subject.rows(images, name, RUNNER_UP, likeness(maps, slice(1 + others, 2 + others)))
    for target, part in ((TRUE, slice(0, 1)), (RANDOM, slice(1, 1 + others))):
        yield from subject.rows(images, name, target, scatter(maps[:, part]))
    if METHODS[name].contrast == "none":  # a contrast is centred already
        if METHODS[name].signed:  # linear: what is taken off is the same for every class of an image
            centred = maps - (maps[:, :1] - maps_of(targets[:, :1], centre_head=True))
        else:
            centred = maps_of(targets, centre_head=True)
        for target, part in ((RANDOM, slice(1, 1 + others)), (RUNNER_UP, slice(1 + others, 2 + others))):
            found = likeness(centred, part)
            yield from subject.rows(images, name, target, {f"{key}_centred": value for key, value in found.items()})
    yield from regions(subject, images, name, maps)


def has_option(name: str, option: str) -> bool:
    try:
        find_method(name, {option: True})
    except ValueError:
        return False
    return True


def likeness(maps: np.ndarray, others: slice) -> dict[str, np.ndarray]:
    """Mean likeness of the first map of each image to some others."""
    return {
        metric: np.nanmean(measure(maps[:, :1], maps[:, others]), axis=1)
        if maps[:, others].size
        else np.full(len(maps), np.nan)
        for metric, measure in (("spearman", spearman), ("cosine", cosine), ("ssim", ssim))
    }


def scatter(maps: np.ndarray) -> dict[str, np.ndarray]:
    """How scattered maps (N, T, ...) are, mean over T."""
    return {
        metric: measure(maps).mean(1)
        for metric, measure in (
            ("entropy", entropy),
            ("gini", gini),
            ("total_variation", total_variation),
            ("mass_outside_top", mass_outside_top),
        )
    }


def regions(subject: Subject, images: Images, name: str, maps: np.ndarray) -> Iterator[Observation]:
    """Where masks exist: share of the true class's positive relevance on each region, the region's area, their ratio;
    of the evidence also rank accuracy and the pointing game, by pixel, and the relevance outside it."""
    for image, index, found in zip(subject.names(images), images.indices.tolist(), maps):
        masks = regions_of(subject.split, index, subject.run.config["data_config"])
        for region, mask in masks.items():
            coverage = patch_coverage(mask, maps.shape[-2:])
            share, area = float(mass(found[0], coverage)), float(coverage.mean())
            for metric, value in (("share", share), ("area", area), ("ratio", share / area)):
                yield subject.observe(image, name, TRUE, metric, value, place=region)
            if region == "distractor" and subject.split.scene(index).distractor >= 0:
                own = float(mass(found[-1], coverage))
                yield subject.observe(image, name, DISTRACTOR, "share", own, place=region)
        if (evidence := masks.get("evidence")) is not None:
            heat = to_heatmap(torch.from_numpy(found[:1][None]).double(), evidence.shape)[0, 0].numpy()
            for metric, value in (
                ("rank_accuracy", rank_accuracy(heat, evidence)),
                ("pointing", pointing_game(heat, evidence)),
                ("outside", 1 - mass(found[0], patch_coverage(evidence, maps.shape[-2:]))),
            ):
                yield subject.observe(image, name, TRUE, metric, value, place="evidence")


# ---- what is dear


def measure_noise(subject: Subject, name: str, keep: Path) -> Iterator[Observation]:
    """Relative change of the true class's map under invisible input noise."""
    images, x, labels = subject.tensors(subject.args.metric_images)
    moved = torch.cat(
        [
            repeatability(subject.model, a, b, name, INPUT_NOISE, subject.args.data_seed)
            for a, b in subject.batches(f"noise, {name}", x, labels)
        ]
    )
    yield from subject.rows(images, name, TRUE, {"noise": moved[:, 0].cpu().numpy()})


def measure_perturbation(subject: Subject, name: str, keep: Path, removal: str) -> Iterator[Observation]:
    """Faithfulness for the true class: SRG, MoRF, LeRF, insertion, deletion, and the curves' points."""
    images, x, labels = subject.tensors(subject.args.metric_images)
    size = (
        4 if subject.device.type == "cpu" else max(1, subject.at_once(len(x)) // 4)
    )  # each image comes back as many changed ones
    curves = [
        _curves(subject, a, b, name, removal) for a, b in subject.batches(f"perturbation, {name}", x, labels, size=size)
    ]
    for metric in ("srg", "morf_mean", "lerf_mean", "insertion", "deletion"):
        values = np.concatenate([getattr(curve, metric)[:, 0] for curve in curves])
        yield from subject.rows(images, name, TRUE, {metric.removesuffix("_mean"): values}, removal)
    for order in ("morf", "lerf"):
        points = np.concatenate([getattr(curve, order)[:, 0] for curve in curves])
        for i, fraction in enumerate(curves[0].fractions):
            yield from subject.rows(images, name, TRUE, {f"{order}_curve": points[:, i]}, removal, f"{fraction:g}")


def _curves(subject: Subject, images: Tensor, targets: Tensor, name: str, removal: str) -> Curves:
    maps = relevance(subject.model, images, targets, name)
    return perturbation_curves(
        subject.model, images, targets, maps, steps=min(STEPS, maps[0, 0].numel()), removal=removal
    )


def measure_mosaics(subject: Subject, name: str, keep: Path) -> Iterator[Observation]:
    """Grid pointing game: share of each class's positive relevance in its own cell, mean over a mosaic's cells."""
    images, x, labels = subject.tensors(subject.args.metric_images)
    if len(torch.unique(labels)) < CELLS**2:
        return
    mosaics, targets, which = make_mosaics(
        x, labels[:, 0], count=max(1, len(x) // 2), n=CELLS, seed=subject.args.data_seed
    )
    names = subject.names(images)
    shares = np.concatenate(
        [
            cell_share(relevance(subject.model, a, b, name).cpu().numpy(), CELLS)
            for a, b in subject.batches(f"mosaics, {name}", mosaics, targets)
        ]
    )
    for members, share in zip(which.tolist(), shares):
        yield subject.observe(
            " | ".join(names[i] for i in members), name, TRUE, "mosaic_share", float(np.nanmean(share))
        )


def measure_sanity(subject: Subject, name: str, keep: Path) -> Iterator[Observation]:
    """Does the map depend on what the model learned: cascading randomisation and eMPRT. (The third check, random logit,
    is the likeness to random classes' maps that `measure_maps` measures.)"""
    images, x, labels = subject.tensors(subject.args.metric_images)
    maps = relevance(subject.model, x, labels, name)
    cascade = cascading_randomisation(subject.model, x, labels, name, maps=maps)
    for stage, values in zip(cascade.stages, cascade.similarity):
        yield from subject.rows(images, name, TRUE, {"cascade": values[:, 0]}, place=stage)
    yield from subject.rows(images, name, TRUE, {"emprt": emprt(subject.model, x, labels, name, maps=maps)[:, 0]})


@dataclass(frozen=True)
class Measurement:
    """compute: (subject, relevance method's name, a file for what is kept beside, and a removal where there are
    several) -> observations; settings: all that it depends on beside run and images, constants included; version:
    counted up when the code comes to measure something else; quick: cheap; keeps: it fills that file."""

    compute: Callable[..., Iterator[Observation]]
    settings: Callable[[argparse.Namespace], dict]
    version: int = 1
    quick: bool = False
    keeps: bool = False


MEASUREMENTS = {
    "maps": Measurement(
        measure_maps, lambda args: {"images": args.images, "others": args.others}, version=2, quick=True, keeps=True
    ),
    "noise": Measurement(measure_noise, lambda args: {"images": args.metric_images, "noise": INPUT_NOISE}, quick=True),
    "perturbation": Measurement(
        measure_perturbation, lambda args: {"images": args.metric_images, "steps": STEPS}, version=2
    ),
    "mosaics": Measurement(measure_mosaics, lambda args: {"images": args.metric_images, "cells": CELLS}),
    "sanity": Measurement(measure_sanity, lambda args: {"images": args.metric_images}, version=2),
}


# ---- two runs by depth


def depth_rows(subject: Subject, run: DepthRun) -> Iterator[Observation]:
    """A run's depth profile as observations: block by block, heads together; CKA is one figure of all images."""
    names = subject.names(subject.images(subject.args.metric_images))
    profiles = {f"depth_{name}": run.by_block(name) for name in run.measures}
    if run.divergence is not None:
        profiles["depth_divergence"] = run.divergence.mean(-1)
    for metric, values in profiles.items():
        for image, row in zip(names, values):
            for block, value in zip(run.blocks, row):
                yield subject.observe(
                    image, "", TRUE if metric == "depth_relevance" else "", metric, value, place=block
                )
    for block, value in zip(("input", *run.blocks), () if run.cka is None else run.cka):
        yield subject.observe("", "", "", "depth_cka", value, place=block)


def compare_depth(before: Subject, after: Subject, name: str | None) -> dict[str, np.ndarray]:
    """Attention, features and (by relevance method `name`, if any) relevance by depth, before (0_) and after (1_)."""
    images = after.images(
        after.args.metric_images, after.args.images_at_once or 16
    )  # all blocks of two models lie in memory
    batches = (x.to(after.device) for x in images.read(images.batches))
    depths = measure_depth([before.model, after.model], after.progress("depth", batches, len(images.batches)))
    found = {f"{i}_{key}": value for i, one in enumerate(depths) for key, value in one.measures.items()}
    found |= {
        f"{i}_uniform_{key}": np.float64(value) for i, one in enumerate(depths) for key, value in one.uniform.items()
    }
    found |= {"divergence": depths[1].divergence, "cka": depths[1].cka}
    for i, subject in enumerate((before, after)):
        if name is not None:
            found[f"{i}_relevance"] = _relevance_shares(subject, images, name)
    return found


def _relevance_shares(subject: Subject, images: Images, name: str) -> np.ndarray:
    """Share of the true class's relevance by block and head, (N, L, h)."""
    labels, parts = np.asarray(subject.split.labels)[images.indices], []
    batches = zip(images.batches, images.read(images.batches))
    for rows, x in subject.progress(f"{name} by depth", batches, len(images.batches)):
        targets = torch.from_numpy(labels[rows.start : rows.stop]).long()[:, None].to(subject.device)
        parts.append(layer_shares(relevance(subject.model, x.to(subject.device), targets, name, layers=True)[1])[:, 0])
    return torch.cat(parts).numpy()
