"""Show, for two or more runs side by side, what speaks for an image's true class and for another one."""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Sequence

import numpy as np
import torch

import commandline
from comparison import (INPUT_NOISE, OTHER, REGIONS, TRUE, Chosen, Explained, check_comparable, choose_targets, explain,
                        labels_of, load_explainable, probabilities_of, rows_of, summaries)
from data.datasets import ImageData, Split, load_data, stratified
from data.transforms import Prepared, drawing_size, evaluation_transform
from errors import UsageError
from explain import METHODS
from explain.heatmap import DEFAULT_COLOUR_MAP, SIGNED_COLOUR_MAP, normalise, overlay, to_heatmap
from files import atomic
from models.runs import Run, differing, read_json
from report.figures import CORRECT, WRONG, Cell, bars, grid, paired_strip
from report.statistics import paired, single
from report.tables import percent, write_csv, write_json

RESULT = "comparison.json"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of compare.py."""
    parser = commandline.parser(
        __doc__, "python compare.py results/study/linear-seed0 results/study/dora-seed0 --out results/compare")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders that train.py wrote; two or more")
    commandline.add_data(parser, default=None)
    commandline.add_relevance(parser)
    group = parser.add_argument_group("comparison")
    group.add_argument("--split", default="val", help="val, or val_shuffled of drawn scenes")
    group.add_argument("--rows", type=commandline.positive, default=8, metavar="N", help="images in the picture")
    group.add_argument("--images", type=commandline.positive, default=64, metavar="N", help="images for the numbers")
    group.add_argument("--normalise", choices=("heatmap", "shared"), default="heatmap",
                       help="scale every heatmap by its own maximum, or all of an image by one")
    group.add_argument("--colour-map", type=commandline.colour_map, metavar="NAME",
                       help=f"any of matplotlib's (default: {DEFAULT_COLOUR_MAP}, or {SIGNED_COLOUR_MAP} for signed maps)")
    group.add_argument("--batch-size", type=commandline.positive, default=16, metavar="N", help="images at a time")
    group.add_argument("--weights", metavar="FILE", help="where the runs' backbone lies now, if it was moved")
    group.add_argument("--out", type=Path, required=True, metavar="DIR")
    group.add_argument("--overwrite", action="store_true", help="replace a comparison of other settings in --out")
    commandline.add_device(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Load the runs, refuse what cannot be compared, then compare."""
    if len(args.runs) < 2:
        raise UsageError(f"one run was given ({args.runs[0]}); comparing takes two or more")
    commandline.relevance_options(args)  # refuses before anything is loaded
    device = commandline.device_of(args.device)
    runs = [load_explainable(folder, args.weights) for folder in args.runs]
    check_comparable(runs)
    data = data_of_runs(args, runs)
    compare(runs, data, args, device)


def data_of_runs(args: argparse.Namespace, runs: Sequence[Run]) -> ImageData:
    """Return the data that the first run was trained on, or what the command line names instead."""
    source = runs[0].config["data"]
    recorded = {key: source[key] for key in commandline.DATA_OPTIONS}
    options = recorded if args.data is None else commandline.data_options(args)
    data = load_data(args.data or source["spec"], image_size=drawing_size(runs[0].config["data_config"]),
                     progress=True, **options)
    if list(data.class_names) != runs[0].class_names:
        raise UsageError(f"--data {data.name} has other classes than {runs[0].folder}; give the data it was trained on")
    return data


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
    results = [explain(run, label, x, p, chosen, data, args, device)
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
        "data_seed": args.data_seed, "relevance": args.relevance, "options": commandline.relevance_options(args),
        "input_noise": INPUT_NOISE, "normalise": args.normalise, "colour_map": args.colour_map,
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
        title=f"What speaks for a class: {relevance_name(args)} on {len(shown)} images of {data.name}, {args.split}",
        **colour_scale(args.relevance, args.colour_map, "its own maximum" if args.normalise == "heatmap"
                       else "the maximum over an image's heatmaps"),
        footnote=("Under each heatmap: the class explained and the probability the run gives it. Frames: blue, the run "
                  "predicts the true class; orange, it does not (its prediction is named). "
                  + ("Half of the rows have a second sport's equipment lying unused; there the other class is that "
                     "sport, elsewhere it" if
                     chosen.distracted.any() else "The other class")
                  + " is drawn uniformly from the classes that are neither true nor predicted."),
    )


def relevance_name(args: argparse.Namespace) -> str:
    """Return the method with what changes it, as a figure names it."""
    return ", ".join([args.relevance, *(f"{k.replace('_', ' ')}" + ("" if v is True else f" {v}")
                                        for k, v in commandline.relevance_options(args).items())])


def colour_scale(method: str, colour_map: str | None, maximum: str) -> dict:
    """Return the colour map of a method's heatmaps and the words beside its bar, as `grid` takes them."""
    if METHODS[method].signed:
        return {"colour_map": colour_map or SIGNED_COLOUR_MAP, "colour_limits": ("against", "for"),
                "colour_label": f"relevance against and for the class, each heatmap scaled by {maximum} (of magnitudes)"}
    return {"colour_map": colour_map or DEFAULT_COLOUR_MAP, "colour_limits": ("0", "max"),
            "colour_label": f"relevance, each heatmap from 0 to {maximum}"}


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
        right = result.predicted[i] == chosen.targets[i, TRUE]
        pair = []
        for target in (TRUE, OTHER):
            c = chosen.targets[i, target]
            caption = f"{class_names[c]} {percent(result.probability[i, c])}"
            if target == TRUE and not right:
                caption += f"\npredicted: {class_names[result.predicted[i]]}"
            colours = colour_scale(args.relevance, args.colour_map, "")["colour_map"]
            picture = overlay(result.pixels[i], heat[target].numpy(), colours)
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


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser()))
