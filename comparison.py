"""What two or more runs say about the same images: probabilities, maps, and numbers image by image."""

import argparse
from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch
from tqdm import tqdm

import commandline
from data.datasets import ImageData, Split
from data.transforms import scene_masks, to_pixels
from errors import UsageError
from explain import UnsupportedModel, check_explainable, relevance
from explain.heatmap import to_heatmap
from explain.metrics import cosine, entropy, mass, patch_coverage, rank_accuracy, repeatability, spearman
from models.runs import Run, load_run
from report.statistics import single
from report.tables import columns_of, percent

INPUT_NOISE = 1e-3  # standard deviation added to the normalised image: invisible
TRUE, OTHER = 0, 1  # the two targets of every image
REGIONS = ("evidence", "players", "people and the ball", "surface", "distractor")
NUMERIC = {"probability", "spearman", "cosine", "entropy", "noise", "share", "area", "ratio", "rank"}  # column prefixes


def load_explainable(folder: str, weights: str | None = None) -> Run:
    """Load a run; raises UsageError when relevance cannot follow its model."""
    run = load_run(folder, weights)
    require_explainable(run.model, str(folder))
    return run


def require_explainable(model: torch.nn.Module, name: str) -> None:
    """Raise UsageError, naming the part that stands in the way, when a model cannot be explained."""
    try:
        check_explainable(model)
    except UnsupportedModel as error:
        raise UsageError(f"{name} cannot be explained: {error}") from error


def check_comparable(runs: Sequence[Run]) -> None:
    """Raise UsageError unless all runs know the same classes in the same order."""
    for run in runs[1:]:
        if run.class_names != runs[0].class_names:
            odd = sorted(set(run.class_names) ^ set(runs[0].class_names))[:5]
            raise UsageError(f"{runs[0].folder} and {run.folder} know different classes "
                             f"({', '.join(odd) or 'same names, other order'}); train both on the same data")


@dataclass(frozen=True)
class Chosen:
    """The images compared: N indices into the split, both targets (N, 2), and which have a distractor (N,)."""

    indices: np.ndarray
    targets: np.ndarray
    distracted: np.ndarray


@dataclass(frozen=True)
class Explained:
    """What one run says: probabilities (N, C), maps (N, 2, grid_h, grid_w), their change under noise (N, 2)."""

    label: str
    head: str
    pixels: np.ndarray
    probability: np.ndarray
    maps: np.ndarray
    noise: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        return self.probability.argmax(1)


def labels_of(runs: Sequence[Run]) -> list[str]:
    """Return the methods' labels, made unique by seed or folder where they repeat."""
    labels = [run.label for run in runs]
    if len(set(labels)) < len(labels):
        labels = [f"{run.label} seed {run.config['seed']}" for run in runs]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({run.folder.name})" for label, run in zip(labels, runs)]
    return labels


@torch.inference_mode()
def probabilities_of(run: Run, images: torch.Tensor, batch_size: int, device: torch.device) -> np.ndarray:
    """Return softmax probabilities (N, C), float64."""
    model = run.model.to(device)
    logits = [model(batch.to(device)).double().cpu() for batch in images.split(batch_size)]
    return torch.cat(logits).softmax(-1).numpy()


def choose_targets(split: Split, indices: np.ndarray, predicted: np.ndarray, data_seed: int, classes: int) -> Chosen:
    """Return the true class and another for every image.

    The other is uniform over classes that are neither true nor predicted by any run (`predicted`: (runs, N)); on
    drawn scenes it is the class of the unused equipment where there is one.
    """
    targets, distracted = np.empty((len(indices), 2), dtype=np.int64), np.zeros(len(indices), dtype=bool)
    for row, index in enumerate(indices):
        true, scene = int(split.labels[index]), split.scene(int(index))
        taken = {true, *map(int, predicted[:, row])}
        free = [c for c in range(classes) if c not in taken] or [c for c in range(classes) if c != true]
        other = int(np.random.default_rng((data_seed, int(index))).choice(free))
        if scene is not None and scene.distractor >= 0:
            other, distracted[row] = scene.distractor, True
        targets[row] = true, other
    return Chosen(indices, targets, distracted)


def explain(run: Run, label: str, images: torch.Tensor, probability: np.ndarray, chosen: Chosen,
            data: ImageData, args: argparse.Namespace, device: torch.device) -> Explained:
    """Return a run's maps for both targets, and how far invisible input noise moves each."""
    targets, model = torch.from_numpy(chosen.targets), run.model.to(device)
    options = commandline.relevance_options(args)
    maps, noise = [], []
    starts = range(0, len(images), args.batch_size)
    for start in tqdm(starts, desc=f"{args.relevance} {label}", unit="batch", delay=2, leave=False, disable=None):
        x, t = (y[start:start + args.batch_size].to(device) for y in (images, targets))
        maps.append(relevance(model, x, t, args.relevance, **options))
        noise.append(repeatability(model, x, t, args.relevance, INPUT_NOISE, args.data_seed, maps[-1], **options))
    pixels = to_pixels(images, run.config["data_config"])
    head = head_of(run, label, probability, chosen, args.split, data)
    maps, noise = (torch.cat(parts).cpu().double().numpy() for parts in (maps, noise))
    return Explained(label, head, pixels, probability, maps, noise)


def head_of(run: Run, label: str, probability: np.ndarray, chosen: Chosen, split: str, data: ImageData) -> str:
    """Return a run's column head: its accuracy on the whole split, or, on other data than its own, on these images."""
    if run.config["data"]["fingerprint"] == data.fingerprint:
        accuracy = run.summary["accuracy"][split]
        return f"{label}\naccuracy {percent(accuracy['accuracy'])} of {accuracy['images']}"
    right = probability.argmax(1) == chosen.targets[:, TRUE]
    return f"{label}\naccuracy {percent(right.mean())} of the {len(right)} explained"


def rows_of(results, runs, split, chosen: Chosen, class_names, args) -> list[dict]:
    """Return one row for each image and run, for comparison.csv."""
    rows = []
    for result, run in zip(results, runs):
        shares = region_shares(result, run, split, chosen) if split.scene(int(chosen.indices[0])) else [{}] * len(chosen.indices)
        first = results[0].maps[:, TRUE]
        comparable = first.shape == result.maps[:, TRUE].shape
        columns = {
            "spearman_true_other": spearman(result.maps[:, TRUE], result.maps[:, OTHER]),
            "cosine_true_other": cosine(result.maps[:, TRUE], result.maps[:, OTHER]),
            "spearman_to_first_run": spearman(result.maps[:, TRUE], first) if comparable else None,
            "cosine_to_first_run": cosine(result.maps[:, TRUE], first) if comparable else None,
            "entropy_true": entropy(result.maps[:, TRUE]),
            "entropy_other": entropy(result.maps[:, OTHER]),
            "noise_true": result.noise[:, TRUE],
            "noise_other": result.noise[:, OTHER],
        }
        for i, index in enumerate(chosen.indices):
            true, other = chosen.targets[i]
            rows.append({
                "image": split.name(int(index)), "run": result.label, "true": class_names[true],
                "other": class_names[other], "other_is_distractor": int(chosen.distracted[i]),
                "predicted": class_names[result.predicted[i]], "correct": int(result.predicted[i] == true),
                "probability_true": result.probability[i, true], "probability_other": result.probability[i, other],
                **{name: None if values is None else values[i] for name, values in columns.items()}, **shares[i],
            })
    return rows


def region_shares(result: Explained, run: Run, split: Split, chosen: Chosen) -> list[dict]:
    """Return, for drawn scenes, where the positive relevance lies: share, area and their ratio for each region."""
    rows, grid_size = [], result.maps.shape[-2:]
    for i, index in enumerate(chosen.indices):
        masks = scene_masks(split.scene(int(index)), run.config["data_config"])
        masks["people and the ball"] = masks["players"] | masks["evidence"]
        row: dict = {}
        for region in REGIONS:
            coverage = patch_coverage(masks[region], grid_size)
            area = float(coverage.mean())
            share = float(mass(result.maps[i, TRUE], coverage)) if area else float("nan")
            key = region.replace(" ", "_")
            row |= {f"share_{key}": share, f"area_{key}": area, f"ratio_{key}": share / area if area else float("nan")}
        heat = to_heatmap(torch.from_numpy(result.maps[i][None]), masks["evidence"].shape)[0].numpy()
        row["rank_accuracy_evidence"] = float(rank_accuracy(heat[TRUE], masks["evidence"]))
        if chosen.distracted[i]:
            coverage = patch_coverage(masks["distractor"], grid_size)
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
        median = {key: float(np.median([row[key] for row in part])) for key in ("noise_true", "noise_other")}
        summary.append({"label": result.label, "folder": str(run.folder), "accuracy": run.summary["accuracy"],
                        "means": means, "median_noise": median})
        print(f"{result.label}: {describe(means, median)}")
    return summary


def describe(means: dict, median: dict) -> str:
    """Return one line about a run: likeness of its maps, their entropy, and their own noise beside it."""
    return (f"true class {percent(means['probability_true'].mean)}, likeness of the two maps "
            f"{means['spearman_true_other'].mean:.3f} (Spearman), entropy of the other class's map "
            f"{means['entropy_other'].mean:.3f}, {INPUT_NOISE:g} input noise moves maps by "
            f"{percent(median['noise_true'], 2)} (median)")
