"""Show, for two or more runs side by side, what speaks for an image's true class and for another one."""

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from tqdm import tqdm

import commandline
from data.datasets import ImageData, Split, load_data, stratified
from data.transforms import Prepared, drawing_size, evaluation_transform, scene_masks, to_pixels
from errors import UsageError
from explain import DEFAULT_METHOD, METHODS, UnsupportedModel, check_explainable, relevance
from explain.heatmap import normalise, overlay, to_heatmap
from explain.metrics import cosine, entropy, mass, patch_coverage, rank_accuracy, repeatability, spearman
from files import atomic
from models.runs import Run, differing, load_run, read_json
from report.figures import CORRECT, WRONG, Cell, bars, grid, paired_strip
from report.statistics import paired, single
from report.tables import percent, write_csv, write_json

INPUT_NOISE = 1e-3  # standard deviation added to the normalised image: invisible
TRUE, OTHER = 0, 1  # the two targets of every image
REGIONS = ("evidence", "players", "people and the ball", "surface", "distractor")
RESULT = "comparison.json"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of compare.py."""
    parser = commandline.parser(
        __doc__, "python compare.py results/study/linear-seed0 results/study/dora-seed0 --out results/compare")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders that train.py wrote; two or more")
    commandline.add_data(parser, default=None)
    group = parser.add_argument_group("comparison")
    group.add_argument("--split", default="val", help="val, or val_shuffled of drawn scenes")
    group.add_argument("--rows", type=commandline.positive, default=8, metavar="N", help="images in the picture")
    group.add_argument("--images", type=commandline.positive, default=64, metavar="N", help="images for the numbers")
    group.add_argument("--relevance", default=DEFAULT_METHOD, choices=list(METHODS), metavar="NAME",
                       help=f"one of {', '.join(METHODS)} (default: %(default)s)")
    group.add_argument("--normalise", choices=("heatmap", "shared"), default="heatmap",
                       help="scale every heatmap by its own maximum, or all of an image by one")
    group.add_argument("--colour-map", default="inferno", type=commandline.colour_map, metavar="NAME",
                       help="any of matplotlib's")
    group.add_argument("--batch-size", type=commandline.positive, default=16, metavar="N", help="images at a time")
    group.add_argument("--weights", metavar="FILE", help="where the runs' backbone lies now, if it was moved")
    group.add_argument("--out", type=Path, required=True, metavar="DIR")
    group.add_argument("--overwrite", action="store_true", help="replace a comparison of other settings in --out")
    commandline.add_running(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Load the runs, refuse what cannot be compared, then compare."""
    if len(args.runs) < 2:
        raise UsageError(f"one run was given ({args.runs[0]}); comparing takes two or more")
    device = commandline.device_of(args.device)
    runs = [load_explainable(folder, args.weights) for folder in args.runs]
    check_comparable(runs)
    data = data_of_runs(args, runs)
    compare(runs, data, args, device)


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


def data_of_runs(args: argparse.Namespace, runs: Sequence[Run]) -> ImageData:
    """Return the data that the first run was trained on, or what the command line names instead."""
    source = runs[0].config["data"]
    options = {key: source[key] for key in ("data_seed", "classes", "train_images", "val_images", "context_bias")}
    if args.data is not None:
        options = {"data_seed": args.data_seed, "classes": args.classes, "train_images": args.train_images,
                   "val_images": args.val_images, "context_bias": args.context_bias}
    data = load_data(args.data or source["spec"], image_size=drawing_size(runs[0].config["data_config"]),
                     progress=True, **options)
    if list(data.class_names) != runs[0].class_names:
        raise UsageError(f"--data {data.name} has other classes than {runs[0].folder}; give the data it was trained on")
    return data


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


def compare(runs: Sequence[Run], data: ImageData, args: argparse.Namespace, device: torch.device) -> dict:
    """Compare runs on one split and write everything to args.out; return the content of comparison.json."""
    configuration = configuration_of(runs, data, args)
    if (found := finished(args.out, configuration, args.overwrite)) is not None:
        print(f"{args.out} holds this very comparison, finished: reused")
        return found
    if args.split not in data.splits or args.split in ("train", "test"):
        known = ", ".join(name for name in data.splits if name not in ("train", "test"))
        raise UsageError(f"--split {args.split} does not exist in {data.name}; expected {known}")
    commandline.check_writable(args.out)
    (args.out / RESULT).unlink(missing_ok=True)  # it marks a finished comparison and comes last
    split = data.splits[args.split]
    indices = stratified(split.labels, min(args.images, len(split)), args.data_seed)
    images = [torch.stack([Prepared(split, evaluation_transform(run.config["data_config"]))[int(i)][0] for i in indices])
              for run in runs]
    probabilities = [probabilities_of(run, x, args.batch_size, device) for run, x in zip(runs, images)]
    chosen = choose_targets(split, indices, np.stack([p.argmax(1) for p in probabilities]), args.data_seed,
                            len(data.class_names))
    results = [explain(run, label, x, p, chosen, args, device)
               for run, label, x, p in zip(runs, labels_of(runs), images, probabilities)]
    rows = rows_of(results, runs, split, chosen, data.class_names, args)
    write_maps(args.out / "maps.npz", results, split, chosen, data.class_names)
    write_csv(args.out / "comparison.csv", rows)
    draw_grid(args.out / "grid.png", results, split, chosen, data, args)
    draw_plots(args.out, rows, results)
    result = {"configuration": configuration, "runs": summaries(runs, results, rows)}
    write_json(args.out / RESULT, result)
    print(f"{args.out}: grid.png, comparison.csv, comparison.json, maps.npz ({len(indices)} images of {args.split}, "
          f"{args.relevance})")
    return result


def configuration_of(runs: Sequence[Run], data: ImageData, args: argparse.Namespace) -> dict:
    """Return all that the result depends on."""
    def identity(run: Run) -> str:
        config = {k: v for k, v in run.config.items() if k != "versions"}
        heads = (run.folder / "head.safetensors").read_bytes()
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode() + heads).hexdigest()

    return {
        "runs": {label: identity(run) for label, run in zip(labels_of(runs), runs)},
        "data": data.fingerprint, "split": args.split, "images": args.images, "rows": args.rows,
        "data_seed": args.data_seed, "relevance": args.relevance, "input_noise": INPUT_NOISE,
        "normalise": args.normalise, "colour_map": args.colour_map,
    }


def finished(out: Path, configuration: dict, overwrite: bool) -> dict | None:
    """Return a finished comparison of the same configuration; raises UsageError when another one lies there."""
    if not (out / RESULT).is_file():
        return None
    found = read_json(out / RESULT)
    differences = differing(found.get("configuration", {}), configuration)
    if not differences:
        return found
    if not overwrite:
        raise UsageError(f"{out} holds another comparison ({'; '.join(differences[:4])}); give another --out, or "
                         f"--overwrite to replace it")
    return None


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
            args: argparse.Namespace, device: torch.device) -> Explained:
    """Return a run's maps for both targets, and how far invisible input noise moves each."""
    targets, model = torch.from_numpy(chosen.targets), run.model.to(device)
    maps, noise = [], []
    starts = range(0, len(images), args.batch_size)
    for start in tqdm(starts, desc=f"{args.relevance} {label}", unit="batch", delay=2, leave=False, disable=None):
        x, t = (y[start:start + args.batch_size].to(device) for y in (images, targets))
        maps.append(relevance(model, x, t, args.relevance))
        noise.append(repeatability(model, x, t, args.relevance, INPUT_NOISE, seed=args.data_seed, maps=maps[-1]))
    accuracy = run.summary["accuracy"][args.split]
    head = f"{label}\naccuracy {percent(accuracy['accuracy'])} of {accuracy['images']}"
    pixels = to_pixels(images, run.config["data_config"])
    return Explained(label, head, pixels, probability, *(torch.cat(parts).cpu().double().numpy() for parts in (maps, noise)))


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


def write_maps(path: Path, results: Sequence[Explained], split: Split, chosen: Chosen, class_names) -> None:
    """Write maps (N, 2, grid_h, grid_w) float32 a run, with image names, classes and run labels; no pickles."""
    arrays = {f"maps_{i}": result.maps.astype(np.float32) for i, result in enumerate(results)}
    names = np.array(class_names)
    with atomic(path) as temporary:
        np.savez_compressed(
            temporary, **arrays, runs=np.array([r.label for r in results]),
            images=np.array([split.name(int(i)) for i in chosen.indices]),
            true=names[chosen.targets[:, TRUE]], other=names[chosen.targets[:, OTHER]])


def draw_grid(path: Path, results, split, chosen: Chosen, data: ImageData, args) -> None:
    """Draw the picture: a row an image, the photo, then for each run the heatmaps of the two classes."""
    shown = rows_to_show(chosen, args.rows, args.data_seed)
    rows = [[photo_cell(results[0], chosen, i, data.class_names)]
            + [cell for cells in heat_cells(results, chosen, i, data.class_names, args) for cell in cells] for i in shown]
    other = "unused or random class" if chosen.distracted.any() else "random other class"
    grid(
        path, rows,
        headers=[("", 1)] + [(result.head, 2) for result in results],
        subheaders=["image"] + ["true class", other] * len(results),
        title=f"What speaks for a class: {args.relevance} on {len(shown)} images of {data.name}, {args.split}",
        colour_map=args.colour_map,
        colour_label=("relevance, each heatmap from 0 to its own maximum" if args.normalise == "heatmap"
                      else "relevance, from 0 to the maximum over an image's heatmaps"),
        colour_limits=("0", "max"),
        footnote=("Under each heatmap: the class explained and the probability the run gives it. Frames: blue, the run "
                  "predicts the true class; orange, it does not (its prediction is named). "
                  + ("Half of the rows have a second sport's equipment lying unused; there the other class is that "
                     "sport, elsewhere it" if
                     chosen.distracted.any() else "The other class")
                  + " is drawn uniformly from the classes that are neither true nor predicted."),
    )


def rows_to_show(chosen: Chosen, count: int, seed: int) -> np.ndarray:
    """Choose images for the picture, spread over classes; half of them with unused equipment, where scenes have some."""
    groups = [np.flatnonzero(chosen.distracted), np.flatnonzero(~chosen.distracted)]
    first = min(len(groups[0]), max(count // 2, count - len(groups[1])))
    labels = chosen.targets[:, TRUE]
    picks = [group[stratified(labels[group], min(n, len(group)), seed)]
             for group, n in zip(groups, (first, count - first)) if len(group) and n]
    return np.sort(np.concatenate(picks))


def photo_cell(result: Explained, chosen: Chosen, i: int, class_names) -> Cell:
    unused = f"unused: {class_names[chosen.targets[i, OTHER]]}" if chosen.distracted[i] else ""
    return Cell(result.pixels[i], caption=f"{class_names[chosen.targets[i, TRUE]]}" + (f"\n{unused}" if unused else ""))


def heat_cells(results, chosen: Chosen, i: int, class_names, args) -> list[list[Cell]]:
    """Return the two cells of every run for one image."""
    signed = METHODS[args.relevance].signed
    heats = [to_heatmap(torch.from_numpy(r.maps[i][None]), r.pixels[i].shape[:2])[0] for r in results]
    if args.normalise == "shared":
        together = normalise(torch.cat(heats), shared=True, signed=signed)
        heats = list(together.split(2))
    else:
        heats = [normalise(heat, signed=signed) for heat in heats]
    cells = []
    for result, heat in zip(results, heats):
        true, right = chosen.targets[i, TRUE], result.predicted[i] == chosen.targets[i, TRUE]
        pair = []
        for target in (TRUE, OTHER):
            c = chosen.targets[i, target]
            caption = f"{class_names[c]} {percent(result.probability[i, c])}"
            if target == TRUE and not right:
                caption += f"\npredicted: {class_names[result.predicted[i]]}"
            picture = overlay(result.pixels[i], heat[target].numpy(), args.colour_map)
            pair.append(Cell(picture, caption=caption,
                             colour=None if target == OTHER else CORRECT if right else WRONG))
        cells.append(pair)
    return cells


def draw_plots(out: Path, rows: list[dict], results: Sequence[Explained]) -> None:
    """Draw paired differences of every further run to the first and, on scenes, where the relevance lies."""
    table = {label: [row for row in rows if row["run"] == label] for label in (r.label for r in results)}
    measures = {"probability_true": "probability of the true class",
                "spearman_true_other": "likeness of the two maps (Spearman)",
                "entropy_other": "entropy of the other class's map"}
    first = results[0].label
    panels = []
    for label in list(table)[1:]:
        for key, title in measures.items():
            a, b = (np.array([row[key] for row in table[name]], dtype=float) for name in (first, label))
            panels.append({"title": title, "label_a": first, "label_b": label, "a": a, "b": b, "paired": paired(a, b)})
    paired_strip(out / "differences.png", panels, "Differences between runs, image by image")
    if "ratio_evidence" in rows[0]:
        groups = {}
        for region in REGIONS:
            key = f"ratio_{region.replace(' ', '_')}"
            means = {label: single([row[key] for row in part]) for label, part in table.items()}
            groups[region] = {label: (m.mean, m.low, m.high) for label, m in means.items()}
        bars(out / "regions.png", "Where the true class's relevance lies", groups,
             "share of relevance / share of area", reference=1.0)


def summaries(runs, results, rows: list[dict]) -> list[dict]:
    """Return, for each run, its accuracy and the mean of every number over the images, with 95 % intervals."""
    summary = []
    for run, result in zip(runs, results):
        part = [row for row in rows if row["run"] == result.label]
        numeric = [k for k, v in part[0].items() if k.split("_")[0] in NUMERIC]
        means = {key: single([np.nan if row.get(key) is None else row[key] for row in part]) for key in numeric}
        median = {key: float(np.median([row[key] for row in part])) for key in ("noise_true", "noise_other")}
        summary.append({"label": result.label, "folder": str(run.folder), "accuracy": run.summary["accuracy"],
                        "means": means, "median_noise": median})
        print(f"{result.label}: {describe(means, median)}")
    return summary


NUMERIC = {"probability", "spearman", "cosine", "entropy", "noise", "share", "area", "ratio", "rank"}


def describe(means: dict, median: dict) -> str:
    """Return one line about a run: likeness of its maps, their entropy, and their own noise beside it."""
    return (f"true class {percent(means['probability_true'].mean)}, likeness of the two maps "
            f"{means['spearman_true_other'].mean:.3f} (Spearman), entropy of the other class's map "
            f"{means['entropy_other'].mean:.3f}, {INPUT_NOISE:g} input noise moves maps by "
            f"{percent(median['noise_true'], 2)} (median)")


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser()))
