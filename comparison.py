"""What two or more runs say about the same images: probabilities, maps, and numbers image by image."""

import argparse
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import commandline
import processes
from data.datasets import ImageData, Split
from data.transforms import Prepared, evaluation_transform, prepared_masks, to_pixels
from errors import UsageError
from explain import METHODS, UnsupportedModel, check_explainable, relevance
from explain.heatmap import to_heatmap
from explain.metrics import cosine, entropy, mass, patch_coverage, rank_accuracy, repeatability, spearman
from explain.stream import save_chunks
from models.backbone import BackboneSpec, architecture
from models.elsewhere import Hints, check_hints, is_pretrained, load_model
from models.runs import Run
from report.layers import LayerMeans, layer_means
from report.statistics import single
from report.tables import columns_of, percent

INPUT_NOISE = 1e-3  # standard deviation added to the normalised image: invisible
TRUE, OTHER = 0, 1  # the two targets of every image
CHUNK = 256  # maps that are measured at a time
REGIONS = ("evidence", "players", "people and the ball", "surface", "distractor")
NUMERIC = {"probability", "spearman", "cosine", "entropy", "noise", "share", "area", "ratio", "rank"}  # column prefixes


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
            raise UsageError(f"{trained[0].folder} and {run.folder} know different classes "
                             f"({', '.join(odd) or 'same names, other order'}); train both on the same data")


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
        return [rows[start:start + self.batch_size] for start in rows[::self.batch_size]]

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


def choose_targets(split: Split, indices: np.ndarray, runs: Sequence[Run], probabilities: Sequence[np.ndarray],
                   data_seed: int, class_names: Sequence[str]) -> Chosen:
    """Return the true class and another for every image, among the data's classes.

    The other is uniform over classes that are neither true nor predicted by any run that knows the data's classes
    (`probabilities`: (N, C) a run); on drawn scenes it is the class of the unused equipment where there is one.
    """
    number = {name: c for c, name in enumerate(class_names)}
    predicted = [[number[run.class_names[c]] for c in p.argmax(1)]
                 for run, p in zip(runs, probabilities) if knows(run, class_names)]
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
    targets = np.array([(c, draw_other(len(run.class_names), c, set(), data_seed, int(index)))
                        for c, index in zip(probability.argmax(1).tolist(), chosen.indices)])
    return Chosen(chosen.indices, targets, np.zeros(len(targets), dtype=bool), run.class_names, own=True)


def explain(path: Path, run: Run, label: str, images: Images, probability: np.ndarray, chosen: Chosen,
            shown: Sequence[int], data: ImageData, args: argparse.Namespace, device: torch.device) -> Explained:
    """Return a run's maps for both targets, and how far invisible input noise moves each.

    All processes compute them together and batch by batch, and write the maps to a .npy file at `path`. shown: the rows
    whose pixels are wanted.
    """
    targets, model = torch.from_numpy(chosen.targets), run.model.to(device)
    options = commandline.relevance_options(args)
    noise, shares = [], []

    def work(batches: Sequence[range]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        for rows, x in zip(batches, images.read(batches)):
            x, t, share = x.to(device), targets[rows.start:rows.stop].to(device), None
            maps = relevance(model, x, t, args.relevance, **options, **commandline.layers_option(args))
            if args.layers:
                maps, layers = maps
                share = layer_shares(layers).numpy()
            moved = repeatability(model, x, t, args.relevance, INPUT_NOISE, args.data_seed, maps, **options)
            yield maps.cpu().numpy(), moved.cpu().double().numpy(), share

    def maps_of_batches() -> Iterator[np.ndarray]:
        for maps, moved, share in tqdm(processes.spread(images.batches, work), desc=f"{args.relevance} {label}",
                                       total=len(images.batches), unit="batch", delay=2, leave=False, disable=None):
            noise.append(moved)
            shares.append(share)
            yield maps

    maps = save_chunks(path, maps_of_batches(), len(images.indices))
    head = head_of(run, label, probability, chosen, args.split, data)
    return Explained(label, head, chosen, images.pixels(shown), probability, maps, np.concatenate(noise),
                     np.concatenate(shares) if args.layers else None)


def layer_shares(layers: torch.Tensor) -> torch.Tensor:
    """Return each block's and head's share of the relevance of all heads, (B, K, L, h) float64 on the CPU.

    layers: the relevance of each head of each block, (B, K, L, h, grid_h, grid_w), as `explain.relevance` returns it; what
    that is, `heads_note` says. A share is the sum of magnitudes over patches, over that of all blocks and heads: relevance
    for and against the target counts alike. NaN where no head has any.
    """
    sums = layers.abs().sum((-2, -1)).cpu().double()
    return sums / sums.sum((-2, -1), keepdim=True)


def heads_add_up(method: str) -> bool:
    """Tell whether the relevance of all heads of all blocks (`layers`) is the method's map.

    It is where a map is made block by block of what heads add; these maps are unsigned. Signed maps are input times
    gradient: a head has what it carries away from each patch on the way down, and there are other ways down.
    """
    return not METHODS[method].signed


def heads_note(method: str) -> str:
    """Return what a head's relevance is, by one method, as a figure's footnote says it."""
    if heads_add_up(method):
        return ("A head's relevance is what it adds to the map: all heads of all blocks add up to it (where tokens are "
                "averaged, to the map less their even start).")
    return ("A head's relevance is what it carries away from each patch to where it mixes values. It does not add up to "
            "the map: skip connections and MLPs carry the rest, and what one block carries, another may carry again.")


def layer_statistics(runs: Sequence[Run], results: Sequence[Explained]) -> tuple[list[LayerMeans], LayerMeans | None]:
    """Return every run's mean shares by block and head, and the mean difference of the last run to the first.

    Differences are taken image by image; None where the two runs have other blocks or numbers of heads.
    """
    names = [layer_names(run.model, result.shares.shape[2]) for run, result in zip(runs, results)]
    means = [layer_means(result.label, blocks, result.shares) for blocks, result in zip(names, results)]
    first, last = results[0], results[-1]
    if names[0] != names[-1] or first.shares.shape != last.shares.shape:
        return means, None
    return means, layer_means(f"{last.label} minus {first.label}", names[0], last.shares - first.shares)


def layer_names(model: torch.nn.Module, count: int) -> list[str]:
    """Return the last `count` layers' names: blocks as timm counts them, then attention pooling, if there is one."""
    names = [str(i) for i in range(len(model.blocks))] + (["pool"] if model.attn_pool is not None else [])
    return names[-count:]


def head_of(run: Run, label: str, probability: np.ndarray, chosen: Chosen, split: str, data: ImageData) -> str:
    """Return a run's column head: its accuracy on the whole split, or, on other data than its own, on these images."""
    if chosen.own:
        return f"{label}\nown classes: predicted class"
    if (run.config["data"] or {}).get("fingerprint") == data.fingerprint:
        accuracy = run.summary["accuracy"][split]
        return f"{label}\naccuracy {percent(accuracy['accuracy'])} of {accuracy['images']}"
    right = probability.argmax(1) == chosen.targets[:, TRUE]
    return f"{label}\naccuracy {percent(right.mean())} of the {len(right)} explained"


def rows_of(results: Sequence[Explained], runs: Sequence[Run], split: Split, chosen: Chosen) -> list[dict]:
    """Return one row for each image and run, for comparison.csv; `chosen` holds the data's own targets.

    Columns named after the true class are about the class explained first, `explained`, which is another one only
    where a model has classes of its own; that model has no probability of the true class.
    """
    rows = []
    for result, run in zip(results, runs):
        shares = region_shares(result, run, split, result.chosen)
        first, true, other = results[0].maps[:, TRUE], result.maps[:, TRUE], result.maps[:, OTHER]
        comparable = first.shape == true.shape
        columns = {
            "spearman_true_other": in_chunks(spearman, true, other),
            "cosine_true_other": in_chunks(cosine, true, other),
            "spearman_to_first_run": in_chunks(spearman, true, first) if comparable else None,
            "cosine_to_first_run": in_chunks(cosine, true, first) if comparable else None,
            "entropy_true": in_chunks(entropy, true),
            "entropy_other": in_chunks(entropy, other),
            "noise_true": result.noise[:, TRUE],
            "noise_other": result.noise[:, OTHER],
        }
        for i, index in enumerate(chosen.indices):
            first_class, other_class = result.chosen.targets[i]
            own = result.chosen.own
            rows.append({
                "image": split.name(int(index)), "run": result.label, "true": chosen.names[i, TRUE],
                "explained": result.chosen.names[i, TRUE], "other": result.chosen.names[i, OTHER],
                "other_is_distractor": int(result.chosen.distracted[i]),
                "predicted": result.chosen.class_names[result.predicted[i]],
                "correct": None if own else int(result.correct[i]),
                "probability_true": None if own else result.probability[i, first_class],
                "probability_other": result.probability[i, other_class],
                **{name: None if values is None else values[i] for name, values in columns.items()}, **shares[i],
            })
    return rows


def in_chunks(measure: Callable[..., np.ndarray], *maps: np.ndarray) -> np.ndarray:
    """Return a measure (N,) of maps (N, grid_h, grid_w) that lie in files, of which it reads some at a time."""
    starts = range(0, len(maps[0]), CHUNK)
    return np.concatenate([measure(*(one[start:start + CHUNK] for one in maps)) for start in starts])


def regions_of(split: Split, index: int, config: dict) -> dict[str, np.ndarray]:
    """Return an image's REGIONS as a model sees them, name -> bool (H, W), as far as they are known and not empty."""
    masks = prepared_masks(split.masks(index) or {}, config)
    if "players" in masks:
        masks["people and the ball"] = masks["players"] | masks["evidence"]
    return {region: masks[region] for region in REGIONS if region in masks and masks[region].any()}


def region_shares(result: Explained, run: Run, split: Split, chosen: Chosen) -> list[dict]:
    """Return where the positive relevance of images with masks lies: share, area and their ratio for each region."""
    rows, grid_size = [], result.maps.shape[-2:]
    for i, index in enumerate(chosen.indices):
        row: dict = {}
        regions = regions_of(split, int(index), run.config["data_config"])
        for region, mask in regions.items():
            coverage, key = patch_coverage(mask, grid_size), region.replace(" ", "_")
            share, area = float(mass(result.maps[i, TRUE], coverage)), float(coverage.mean())
            row |= {f"share_{key}": share, f"area_{key}": area, f"ratio_{key}": share / area}
        if "evidence" in regions:
            heat = result.heatmaps(i, regions["evidence"].shape).numpy()
            row["rank_accuracy_evidence"] = float(rank_accuracy(heat[TRUE], regions["evidence"]))
        if chosen.distracted[i]:
            coverage = patch_coverage(regions["distractor"], grid_size)
            row["share_distractor_for_its_class"] = float(mass(result.maps[i, OTHER], coverage))
        rows.append(row)
    return rows


def summaries(runs, results, rows: list[dict]) -> list[dict]:
    """Return, for each run, its accuracy and the mean of every number over the images, with 95 % intervals."""
    summary = []
    for run, result in zip(runs, results):
        part = [row for row in rows if row["run"] == result.label]
        numeric = [key for key in columns_of(part) if key.split("_")[0] in NUMERIC]  # some columns only some rows have
        means = {key: single([np.nan if row.get(key) is None else row[key] for row in part]) for key in numeric}
        median = {key: finite_median([row[key] for row in part]) for key in ("noise_true", "noise_other")}
        right = None if result.correct is None else float(result.correct.mean())
        summary.append({"label": result.label, "folder": str(run.folder), "accuracy": run.summary.get("accuracy"),
                        "accuracy_explained": right, "means": means, "median_noise": median})
        print(f"{result.label}: {describe(means, median)}")
    return summary


def finite_median(values: Sequence[float]) -> float:
    """Return the median of the values that are numbers; NaN where there is none."""
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[np.isfinite(kept)]
    return float(np.median(kept)) if len(kept) else float("nan")


def describe(means: dict, median: dict) -> str:
    """Return one line about a run: likeness of its maps, their entropy, and their own noise beside it."""
    true, noise = means["probability_true"], means["noise_true"]
    zero = f"; {noise.n_dropped} of {noise.n + noise.n_dropped} maps are 0 and left out" if noise.n_dropped else ""
    return (("own classes" if not true.n else f"true class {percent(true.mean)}") + f", likeness of the two maps "
            f"{means['spearman_true_other'].mean:.3f} (Spearman), entropy of the other class's map "
            f"{means['entropy_other'].mean:.3f}, {INPUT_NOISE:g} input noise moves maps by "
            f"{percent(median['noise_true'], 2)} (median{zero})")
