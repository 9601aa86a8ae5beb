"""Validation photos of a run with two targets each, for benchmarks of relevance methods."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import cost, plain_forward
from torch import Tensor, nn

from cli.arguments import EXTERNAL, add_data, add_external, data_options, external_options
from cli.parser import positive
from commands.compare import data_of_runs
from commands.options import CompareOptions
from common.errors import UsageError
from common.tables import percent
from data.datasets import ImageData
from data.sampling import stratified
from evaluation.images import Images, probabilities_of
from evaluation.metrics.faithfulness import perturbation_curves
from evaluation.subjects import load_explainable
from models.backbone import content_hash
from models.run_config import RunConfig
from models.runs import Run

STEPS, BATCH = 10, 8
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Photos:
    """Validation photos in a random order.

    run: the run that is explained.
    data: the data set.
    images: (N, 3, H, W) float32, preprocessed for the run's model.
    targets: (N, 2) int64, the predicted and a random other class.
    identity: all that values per photo depend on, besides the code.
    """

    run: Run
    data: ImageData
    images: Tensor
    targets: Tensor
    identity: dict[str, Any]

    @property
    def half(self) -> int:
        """The number of photos in the first half, on which choices are made."""
        return len(self.images) // 2

    def srg(self, maps: Tensor, which: slice = slice(None)) -> np.ndarray:
        """Compute the symmetric relevance gain of maps for the predicted class.

        maps: (n, 1, gh, gw), of the photos in `which`.
        which: some of the photos.
        Returns (n,).
        """
        steps = min(STEPS, maps[0, 0].numel())
        batches = zip(*(x.split(BATCH) for x in (self.images[which], self.targets[which, :1], maps)))
        return np.concatenate(
            [perturbation_curves(self.run.model, x, t, m, steps=steps).srg[:, 0] for x, t, m in batches]
        )


def add_photos(parser: argparse.ArgumentParser) -> None:
    """Add the options of `load_photos`."""
    parser.add_argument("run", metavar="RUN", help=f"a folder that train.py wrote, or {EXTERNAL}")
    parser.add_argument("--images", type=positive, default=200, metavar="N", help="number of validation photos")
    add_data(parser, default=None)
    add_external(parser)


def load_photos(args: argparse.Namespace, held_out: int | None = None) -> Photos:
    """Load a run and choose photos of its validation split, in proportion to the classes.

    args: the options of `add_photos`.
    held_out: None takes --images photos. A number takes so many of the remaining ones instead, on which no choice was
        made.

    Raises UsageError where no photo remains.
    """
    (run,) = load_explainable([args.run], external_options(args, [args.run]))
    chosen = None if args.data is None else data_options(args)
    data = data_of_runs(CompareOptions((args.run,), Path(), chosen), [run])
    split, generator = data.splits["val"], np.random.default_rng(args.data_seed)
    indices = generator.permutation(stratified(split.labels, min(args.images, len(split)), args.data_seed))
    if held_out is not None:
        indices = generator.permutation(np.setdiff1d(np.arange(len(split)), indices))[:held_out]
        if not len(indices):
            raise UsageError(
                f"--images {args.images} leaves no held-out photo of {len(split)}; give fewer, or --held-out 0"
            )
    reader = Images(split, indices, run.config.data_config, BATCH)
    images = torch.cat(list(reader.read(reader.batches)))
    predicted = np.concatenate([probabilities_of(run, x, CPU).argmax(-1) for x in images.split(BATCH)])
    classes = len(run.class_names)
    other = (predicted + generator.integers(1, classes, len(predicted))) % classes
    targets = torch.from_numpy(np.stack([predicted, other], axis=1))
    identity = {
        "steps": STEPS,
        "model": content_hash(run.model, head=True),
        "images": args.images,
        "held_out": held_out,
        "data": data.fingerprint,
        "data_seed": args.data_seed,
    }
    return Photos(run, data, images, targets, identity)


def passes(photos: Photos, explain: Callable[[nn.Module, Tensor, Tensor], object], rounds: int) -> float:
    """Return the cost of a map in forward passes, for both targets of a batch of photos; see `timing.cost`."""
    model, images, targets = photos.run.model, photos.images[:BATCH], photos.targets[:BATCH]
    return cost(lambda: explain(model, images, targets), plain_forward(model, images), rounds) / targets.shape[1]


def described(run: Run) -> str:
    """Describe a run for documents: backbone, method, accuracy, number of classes."""
    accuracy = run.summary.get("accuracy")
    backbone = f"{run.config.backbone.name} with " if isinstance(run.config, RunConfig) else ""
    shown = f" ({percent(accuracy['val']['accuracy'])} accuracy on validation)" if accuracy else ""
    return f"{backbone}{run.label}{shown}, {len(run.class_names)} classes"


def provenance(photos: Photos) -> str:
    """Say how the run was trained, and what the check of the photos found."""
    config, lines = photos.run.config, []
    if isinstance(config, RunConfig):
        weights = " --weights FILE" if config.backbone.weights else ""
        lines.append(
            f"RUN was trained by `python train.py --data PHOTOS --model {config.backbone.name}{weights} "
            f"--method {photos.run.label} --seed {config.seed} --out RUN`; its config.json has every other setting."
        )
    return " ".join([*lines, *(f"Of PHOTOS: {warning}." for warning in photos.data.warnings)])
