"""What runs are explained for, and on which images: who may be compared, the classes asked for, and the maps."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from cli import commandline
from common import processes
from common.errors import UsageError
from common.tables import percent
from data.datasets import ImageData, Split
from data.transforms import Prepared, evaluation_transform, to_pixels
from evaluation.metrics.maps import repeatability
from explain import UnsupportedModel, check_explainable, relevance
from explain.heatmap import to_heatmap
from explain.storage import save_chunks
from models.backbone import BackboneSpec, architecture
from models.external import Hints, check_hints, is_pretrained, load_model
from models.runs import Run

INPUT_NOISE = 1e-3  # standard deviation added to the normalised image: invisible
TRUE, OTHER = 0, 1  # the two targets of every image


def load_explainable(given: Sequence[str], hints: Hints) -> list[Run]:
    """Load runs and models trained elsewhere; raises UsageError when relevance cannot follow one's model."""
    check_hints(given, hints)
    return [_load_explainable(name, hints) for name in given]


def _load_explainable(given: str, hints: Hints) -> Run:
    if is_pretrained(given):  # refused before its weights are downloaded
        blank = architecture(BackboneSpec(given, hints.weights, hints.image_size))
        if blank.num_classes:  # otherwise loading says that it has no head
            require_explainable(blank, given)
    run = load_model(given, hints)
    require_explainable(run.model, given)
    return run


def require_explainable(model: torch.nn.Module, name: str) -> None:
    """Raise UsageError, naming the part that stands in the way, when a model cannot be explained."""
    try:
        check_explainable(model)
    except UnsupportedModel as error:
        raise UsageError(f"{name} cannot be explained: {error}") from error


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise UsageError unless all runs of train.py know the same classes in the same order."""
    trained = [run for run in runs if run.config["data"] is not None]
    for run in trained[1:]:
        if run.class_names != trained[0].class_names:
            odd = sorted(set(run.class_names) ^ set(trained[0].class_names))[:5]
            raise UsageError(
                f"{trained[0].folder} and {run.folder} know different classes "
                f"({', '.join(odd) or 'same names, other order'}); train both on the same data"
            )


@dataclass(frozen=True)
class Chosen:
    """The images compared: N indices into the split, both targets (N, 2) among `class_names`, and which have a
    distractor (N,). `own`: the classes are a model's own and not the data's; the first target is the predicted one.
    """

    indices: np.ndarray
    targets: np.ndarray
    distracted: np.ndarray
    class_names: Sequence[str]
    own: bool = False

    @property
    def names(self) -> np.ndarray:
        """Both targets' names, (N, 2)."""
        return np.array(self.class_names)[self.targets]


@dataclass(frozen=True)
class Explained:
    """What one run says: probabilities (N, C), maps (N, 2, grid_h, grid_w), their change under noise (N, 2).

    Probabilities and maps lie in files and are read as they are needed. `chosen` holds the run's targets, among its
    own C classes; `pixels` the images shown, row -> uint8 (H, W, 3); `shares`, where asked for, the layer_shares
    (N, 2, L, h).
    """

    label: str
    head: str
    chosen: Chosen
    pixels: dict[int, np.ndarray]
    probability: np.ndarray
    maps: np.ndarray
    noise: np.ndarray
    shares: np.ndarray | None = None

    def heatmaps(self, row: int, size: tuple[int, int]) -> torch.Tensor:
        """Return one image's maps at the size of its pixels, (2, H, W) float64."""
        return to_heatmap(torch.from_numpy(self.maps[row][None].astype(np.float64)), size)[0]

    @cached_property
    def predicted(self) -> np.ndarray:
        """The classes predicted (N,)."""
        return self.probability.argmax(1)

    @property
    def correct(self) -> np.ndarray | None:
        """Whether the true class is predicted (N,), or None where the classes are the model's own."""
        return None if self.chosen.own else self.predicted == self.chosen.targets[:, TRUE]


def labels_of(runs: Sequence[Run]) -> list[str]:
    """Return the methods' labels, made unique by seed or folder where they repeat."""
    labels = [run.label for run in runs]
    if len(set(labels)) < len(labels):
        labels = [run.label if run.config["seed"] is None else f"{run.label} seed {run.config['seed']}" for run in runs]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({run.folder.name})" for label, run in zip(labels, runs)]
    if len(set(labels)) < len(labels):  # files of one name in two folders
        labels = [f"{run.label} ({run.folder})" for run in runs]
    return labels


@dataclass(frozen=True)
class Images:
    """The N images compared as one run's model takes them, read when they are asked for, a batch at a time."""

    split: Split
    indices: np.ndarray
    config: dict
    batch_size: int
    workers: int

    @property
    def batches(self) -> list[range]:
        """The rows of every batch: the same whatever the number of processes, so that results are."""
        rows = range(len(self.indices))
        return [rows[start : start + self.batch_size] for start in rows[:: self.batch_size]]

    def read(self, batches: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """Yield the images (B, 3, H, W) of each batch of rows."""
        prepared = Prepared(self.split, evaluation_transform(self.config))
        order = [[int(self.indices[row]) for row in rows] for rows in batches]
        return (images for images, _ in DataLoader(prepared, batch_sampler=order, num_workers=self.workers))

    def pixels(self, rows: Sequence[int]) -> dict[int, np.ndarray]:
        """Return what the model sees of some images: row -> uint8 (H, W, 3)."""
        images = self.read([[row] for row in rows])
        return {int(row): to_pixels(image[0], self.config) for row, image in zip(rows, images)}


@torch.inference_mode()
def probabilities_of(run: Run, images: torch.Tensor, device: torch.device) -> np.ndarray:
    """Return the softmax probabilities (B, C) of one batch, float64."""
    return run.model.to(device)(images.to(device)).double().softmax(-1).cpu().numpy()


def save_probabilities(path: Path, run: Run, images: Images, device: torch.device) -> np.ndarray:
    """Write all images' probabilities (N, C), which all processes compute together, to a .npy file; return it."""

    def work(batches: Sequence[range]) -> Iterator[np.ndarray]:
        return (probabilities_of(run, x, device) for x in images.read(batches))

    return save_chunks(path, processes.spread(images.batches, work), len(images.indices))


def knows(run: Run, class_names: Sequence[str]) -> bool:
    """Tell whether a run's classes are these, in whatever order."""
    return sorted(run.class_names) == sorted(class_names)


def choose_targets(
    split: Split,
    indices: np.ndarray,
    runs: Sequence[Run],
    probabilities: Sequence[np.ndarray],
    data_seed: int,
    class_names: Sequence[str],
) -> Chosen:
    """Return the true class and another for every image, among the data's classes.

    The other is uniform over classes that are neither true nor predicted by any run that knows the data's classes
    (`probabilities`: (N, C) a run); on drawn scenes it is the class of the unused equipment where there is one.
    """
    number = {name: c for c, name in enumerate(class_names)}
    predicted = [
        [number[run.class_names[c]] for c in p.argmax(1)]
        for run, p in zip(runs, probabilities)
        if knows(run, class_names)
    ]
    targets, distracted = np.empty((len(indices), 2), dtype=np.int64), np.zeros(len(indices), dtype=bool)
    for row, index in enumerate(indices):
        true, scene = int(split.labels[index]), split.scene(int(index))
        targets[row] = true, draw_other(len(class_names), true, {p[row] for p in predicted}, data_seed, int(index))
        if scene is not None and scene.distractor >= 0:
            targets[row, OTHER], distracted[row] = scene.distractor, True
    return Chosen(indices, targets, distracted, class_names)


def draw_other(classes: int, first: int, predicted: set[int], data_seed: int, index: int) -> int:
    """Draw a class that is neither the first nor predicted, or, where there is none, any but the first."""
    free = [c for c in range(classes) if c != first and c not in predicted] or [c for c in range(classes) if c != first]
    return int(np.random.default_rng((data_seed, index)).choice(free))


def targets_of(run: Run, chosen: Chosen, probability: np.ndarray, data_seed: int) -> Chosen:
    """Return a run's targets, as indices into its own classes.

    They are those of the data where the run knows its classes; otherwise the class that the run predicts
    (`probability`: (N, C)) and a random other of its own.
    """
    if knows(run, chosen.class_names):
        number = np.array([run.class_names.index(name) for name in chosen.class_names])
        return replace(chosen, targets=number[chosen.targets], class_names=run.class_names)
    targets = np.array(
        [
            (c, draw_other(len(run.class_names), c, set(), data_seed, int(index)))
            for c, index in zip(probability.argmax(1).tolist(), chosen.indices)
        ]
    )
    return Chosen(chosen.indices, targets, np.zeros(len(targets), dtype=bool), run.class_names, own=True)


def explain(
    path: Path,
    run: Run,
    label: str,
    images: Images,
    probability: np.ndarray,
    chosen: Chosen,
    shown: Sequence[int],
    data: ImageData,
    args: argparse.Namespace,
    device: torch.device,
) -> Explained:
    """Return a run's maps for both targets, and how far invisible input noise moves each.

    All processes compute them together and batch by batch, and write the maps to a .npy file at `path`. shown: the rows
    whose pixels are wanted.
    """
    targets, model = torch.from_numpy(chosen.targets), run.model.to(device)
    options = commandline.relevance_options(args)
    noise, shares = [], []

    def work(batches: Sequence[range]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        for rows, x in zip(batches, images.read(batches)):
            x, t, share = x.to(device), targets[rows.start : rows.stop].to(device), None
            maps = relevance(model, x, t, args.relevance, **options, **commandline.layers_option(args))
            if args.layers:
                maps, layers = maps
                share = layer_shares(layers).numpy()
            moved = repeatability(model, x, t, args.relevance, INPUT_NOISE, args.data_seed, maps, **options)
            yield maps.cpu().numpy(), moved.cpu().double().numpy(), share

    def maps_of_batches() -> Iterator[np.ndarray]:
        for maps, moved, share in tqdm(
            processes.spread(images.batches, work),
            desc=f"{args.relevance} {label}",
            total=len(images.batches),
            unit="batch",
            delay=2,
            leave=False,
            disable=None,
        ):
            noise.append(moved)
            shares.append(share)
            yield maps

    maps = save_chunks(path, maps_of_batches(), len(images.indices))
    head = head_of(run, label, probability, chosen, args.split, data)
    return Explained(
        label,
        head,
        chosen,
        images.pixels(shown),
        probability,
        maps,
        np.concatenate(noise),
        np.concatenate(shares) if args.layers else None,
    )


def head_of(run: Run, label: str, probability: np.ndarray, chosen: Chosen, split: str, data: ImageData) -> str:
    """Return a run's column head: its accuracy on the whole split, or, on other data than its own, on these images."""
    if chosen.own:
        return f"{label}\nown classes: predicted class"
    if (run.config["data"] or {}).get("fingerprint") == data.fingerprint:
        accuracy = run.summary["accuracy"][split]
        return f"{label}\naccuracy {percent(accuracy['accuracy'])} of {accuracy['images']}"
    right = probability.argmax(1) == chosen.targets[:, TRUE]
    return f"{label}\naccuracy {percent(right.mean())} of the {len(right)} explained"


def layer_shares(layers: torch.Tensor) -> torch.Tensor:
    """Return each block's and head's share of the relevance of all heads, (B, K, L, h) float64 on the CPU.

    layers: the relevance of each head of each block, (B, K, L, h, grid_h, grid_w), as `explain.relevance` returns it;
    what that is, `comparison.heads_note` says. A share is the sum of magnitudes over patches, over that of all blocks
    and heads: relevance for and against the target counts alike. NaN where no head has any.
    """
    sums = layers.abs().sum((-2, -1)).cpu().double()
    return sums / sums.sum((-2, -1), keepdim=True)
