"""Show, for two or more runs side by side, what speaks for an image's true class and for another one."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cli import commandline
from common import processes
from common.errors import UsageError
from common.files import atomic
from common.tables import percent, write_csv, write_json
from data.datasets import ImageData, Split, load_data, nearest, stratified
from data.transforms import drawing_size
from evaluation.comparison import REGIONS, heads_add_up, heads_note, layer_statistics, rows_of, summaries
from evaluation.explained import (
    INPUT_NOISE,
    OTHER,
    TRUE,
    Chosen,
    Explained,
    Images,
    check_comparable,
    choose_targets,
    explain,
    knows,
    labels_of,
    load_explainable,
    save_probabilities,
    targets_of,
)
from evaluation.statistics.paired import single
from evaluation.statistics.verdicts import measure
from explain import METHODS
from models.runs import Run, differing, read_json
from report.figures.charts import CORRECT, WRONG, Cell, bars, grid, layer_profiles
from report.figures.grid import Scale
from report.figures.layers import layer_rows
from report.figures.overlay import DEFAULT_COLOUR_MAP, SIGNED_COLOUR_MAP, normalise, overlay
from report.figures.rainclouds import Cloud, Metric, rainclouds

RESULT = "comparison.json"
LAYERS = ("layers.png", "layers.csv")
NOTHING = "\n(the map is 0)"  # below a heatmap that would pass for a dark picture
INTERRUPTED = "the comparison is not finished; the same command starts it again"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of compare.py."""
    parser = commandline.parser(
        __doc__, "python compare.py results/study/linear-seed0 results/study/dora-seed0 --out results/compare"
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help=f"two or more: folders that train.py wrote; also {commandline.ELSEWHERE}"
    )
    commandline.add_data(parser, default=None)
    commandline.add_relevance(parser, comparing=True)
    group = parser.add_argument_group("comparison")
    group.add_argument("--split", default="val", help="val, or val_shuffled of drawn scenes")
    group.add_argument("--rows", type=commandline.positive, default=8, metavar="N", help="images in the picture")
    group.add_argument("--images", type=commandline.positive, default=64, metavar="N", help="images for the numbers")
    group.add_argument(
        "--pick",
        nargs="+",
        metavar="IMAGE",
        help="these images instead, all of them drawn, by the names that comparison.csv gives them",
    )
    group.add_argument(
        "--normalise",
        choices=("heatmap", "shared"),
        default="heatmap",
        help="scale every heatmap by its own maximum, or all of an image by one",
    )
    group.add_argument(
        "--colour-map",
        type=commandline.colour_map,
        metavar="NAME",
        help=f"any of matplotlib's (default: {DEFAULT_COLOUR_MAP}, or {SIGNED_COLOUR_MAP} for signed maps)",
    )
    group.add_argument(
        "--layers",
        action="store_true",
        help="also write each block's and head's share of the relevance of all heads (what that is, the "
        "figure says): layers.png, layers.csv",
    )
    group.add_argument(
        "--batch-size",
        type=commandline.positive,
        metavar="N",
        help="images at a time (default: 16, on a GPU up to 128)",
    )
    group.add_argument("--out", type=Path, required=True, metavar="DIR")
    group.add_argument("--overwrite", action="store_true", help="replace a comparison of other settings in --out")
    commandline.add_elsewhere(parser)
    commandline.add_workers(commandline.add_device(parser))
    return parser


def main(args: argparse.Namespace) -> None:
    """Load the runs, refuse what cannot be compared, then compare."""
    if len(args.runs) < 2:
        raise UsageError(f"one run was given ({args.runs[0]}); comparing takes two or more")
    places = [Path(given).resolve() for given in args.runs]
    if twice := [given for i, given in enumerate(args.runs) if places[i] in places[:i]]:
        raise UsageError(f"{twice[0]} was given twice; comparing takes different runs")
    commandline.relevance_options(args)  # refuses before anything is loaded
    device = commandline.device_of(args.device)
    with processes.first_goes_ahead():
        runs = load_explainable(args.runs, commandline.hints_of(args))
        check_comparable(runs)
        data = data_of_runs(args, runs)
    for run in runs:
        if not knows(run, data.class_names):
            commandline.warn(
                f"{run.label} has other classes than {data.name}: it is explained for the class that it "
                f"predicts, and its accuracy is not defined"
            )
    compare(runs, data, args, device)


def data_of_runs(args: argparse.Namespace, runs: Sequence[Run]) -> ImageData:
    """Return the data that a run was trained on, the first that recorded it, or what the command line names instead."""
    trained = next((run for run in runs if run.config["data"] is not None), None)
    if args.data is None and trained is None:
        raise UsageError(
            f"none of {', '.join(args.runs)} says which images it was trained on; give the images to "
            f"compare on as --data"
        )
    if args.data is None:
        source = trained.config["data"]
        spec, options = source["spec"], {key: source[key] for key in commandline.DATA_OPTIONS}
    else:
        spec, options = args.data, commandline.data_options(args)
    size = drawing_size((trained or runs[0]).config["data_config"])
    data = load_data(spec, image_size=size, progress=True, **options)
    if trained is not None and list(data.class_names) != trained.class_names:
        raise UsageError(f"--data {data.name} has other classes than {trained.folder}; give the data it was trained on")
    return data


def compare(runs: Sequence[Run], data: ImageData, args: argparse.Namespace, device: torch.device) -> dict:
    """Compare runs on one split and write everything to args.out; return the content of comparison.json.

    Images go through a batch at a time, spread over the processes that torchrun started; the first of them writes.
    """
    configuration = configuration_of(runs, data, args)
    if (found := processes.first_says(lambda: prepare(data, args, configuration))) is not None:
        print(f"{args.out} holds this very comparison, finished: reused")
        return found
    split = data.splits[args.split]
    indices = (
        picked(split, args.pick)
        if args.pick
        else stratified(split.labels, min(args.images, len(split)), args.data_seed)
    )
    at_once = commandline.batch_of(args.batch_size, device, len(indices))
    images = [
        Images(split, indices, run.config["data_config"], at_once, commandline.workers_of(args, device)) for run in runs
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".compare.", dir=args.out) as scratch:
        files = [(Path(scratch, f"probabilities-{i}.npy"), Path(scratch, f"maps-{i}.npy")) for i in range(len(runs))]
        probabilities = [save_probabilities(file, run, x, device) for (file, _), run, x in zip(files, runs, images)]
        chosen = choose_targets(split, indices, runs, probabilities, args.data_seed, data.class_names)
        shown = np.arange(len(indices)) if args.pick else rows_to_show(chosen, args.rows, args.data_seed)
        own = [targets_of(run, chosen, p, args.data_seed) for run, p in zip(runs, probabilities)]
        results = [
            explain(file, run, label, x, p, targets, shown, data, args, device)
            for (_, file), run, label, x, p, targets in zip(files, runs, labels_of(runs), images, probabilities, own)
        ]
        return processes.first_says(lambda: write(runs, results, split, chosen, data, args, configuration))


def picked(split: Split, names: Sequence[str]) -> np.ndarray:
    """Return the indices of images by name, ascending; raises UsageError, with the nearest names, for one that is not
    there."""
    number = {split.name(i): i for i in range(len(split))}
    for name in names:
        if name not in number:
            raise UsageError(f"--pick {name} is no image of this split; {nearest(name, list(number))}")
    return np.array(sorted({number[name] for name in names}))


def prepare(data: ImageData, args: argparse.Namespace, configuration: dict) -> dict | None:
    """Return what a finished comparison of this configuration found, or make args.out ready for a new one."""
    if (found := finished(args.out, configuration, args.overwrite)) is not None:
        return found
    if args.split not in data.splits or args.split in ("train", "test"):
        known = ", ".join(name for name in data.splits if name not in ("train", "test"))
        raise UsageError(f"--split {args.split} does not exist in {data.name}; expected {known}")
    if args.pick:
        picked(data.splits[args.split], args.pick)
    commandline.check_writable(args.out)
    for name in (RESULT, *LAYERS):  # the first marks a finished comparison and comes last; not all have the others
        (args.out / name).unlink(missing_ok=True)
    return None


def write(
    runs: Sequence[Run],
    results: Sequence[Explained],
    split: Split,
    chosen: Chosen,
    data: ImageData,
    args: argparse.Namespace,
    configuration: dict,
) -> dict:
    """Write maps, numbers and pictures to args.out; return the content of comparison.json."""
    rows = rows_of(results, runs, split, chosen)
    write_maps(args.out / "maps.npz", results, split, chosen)
    write_csv(args.out / "comparison.csv", rows)
    draw_grid(args.out / "grid.png", results, split, chosen, data, args)
    draw_plots(args.out, rows, results)
    if args.layers:
        write_layers(args.out, runs, results, chosen, data, args)
    result = {"configuration": configuration, "runs": summaries(runs, results, rows)}
    write_json(args.out / RESULT, result)
    names = ", ".join(["grid.png", "comparison.csv", RESULT, "maps.npz", *(LAYERS if args.layers else ())])
    print(f"{args.out}: {names} ({len(chosen.indices)} images of {args.split}, {args.relevance})")
    return result


def configuration_of(runs: Sequence[Run], data: ImageData, args: argparse.Namespace) -> dict:
    """Return all that the result depends on."""
    return {
        "runs": {label: run.identity for label, run in zip(labels_of(runs), runs)},
        "order": labels_of(runs),  # the first is what others are set against
        "data": data.fingerprint,
        "split": args.split,
        "images": args.images,
        "rows": args.rows,
        "data_seed": args.data_seed,
        "relevance": args.relevance,
        "options": commandline.relevance_options(args),
        "input_noise": INPUT_NOISE,
        "normalise": args.normalise,
        "colour_map": args.colour_map,
        **commandline.layers_option(args),
        **({"pick": sorted(args.pick)} if args.pick else {}),
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
        raise UsageError(
            f"{out} holds another comparison ({'; '.join(differences[:4])}); give another --out, or "
            f"--overwrite to replace it"
        )
    return None


def write_maps(path: Path, results: Sequence[Explained], split: Split, chosen: Chosen) -> None:
    """Write maps (N, 2, grid_h, grid_w) float32 a run, with image names, classes and run labels; no pickles.

    `classes_i` (N, 2) are the classes that run i is explained for; `true` and `other` (N,) are those of the data. numpy
    reads maps that lie in files a buffer at a time.
    """
    arrays = {f"maps_{i}": result.maps.astype(np.float32, copy=False) for i, result in enumerate(results)}
    arrays |= {f"classes_{i}": result.chosen.names for i, result in enumerate(results)}
    with atomic(path) as temporary:
        np.savez_compressed(
            temporary,
            **arrays,
            runs=np.array([r.label for r in results]),
            images=np.array([split.name(int(i)) for i in chosen.indices]),
            true=chosen.names[:, TRUE],
            other=chosen.names[:, OTHER],
        )


def draw_grid(path: Path, results, split, chosen: Chosen, data: ImageData, args) -> None:
    """Draw the picture: a row an image, the photo, then for each run the heatmaps of the two classes."""
    shown = sorted(results[0].pixels)
    rows = [
        [photo_cell(results[0], chosen, i, split if args.pick else None)]
        + [cell for cells in heat_cells(results, i, args) for cell in cells]
        for i in shown
    ]
    grid(
        path,
        rows,
        headers=[("", 1)] + [(result.head, 2) for result in results],
        subheaders=["image"] + [head for result in results for head in target_heads(result.chosen)],
        title=f"What speaks for a class: {relevance_name(args.relevance, args)} on {len(shown)} images of {data.name}, "
        f"{args.split}",
        scales=[
            colour_scale(
                args.relevance,
                args.colour_map,
                "its own maximum" if args.normalise == "heatmap" else "the maximum over an image's heatmaps",
            )
        ],
        footnote=grid_note(results, chosen),
    )


def grid_note(results: Sequence[Explained], chosen: Chosen) -> str:
    """Return what the frames and the classes under the heatmaps are, as far as the picture has them."""
    note = ["Under each heatmap: the class explained and the probability the run gives it."]
    if not all(result.chosen.own for result in results):
        note.append("Frames: blue, the run predicts the true class; orange, it does not (its prediction is named).")
        note.append(
            (
                "Where a second sport's equipment lies unused the other class is that sport, elsewhere it"
                if chosen.distracted.any()
                else "The other class"
            )
            + " is drawn uniformly from the classes that are neither true nor predicted."
        )
    if any(result.chosen.own for result in results):
        note.append(
            "A model with classes of its own is explained for the one that it predicts and for one drawn "
            "uniformly from its others."
        )
    return " ".join(note)


def target_heads(chosen: Chosen) -> tuple[str, str]:
    """Return what the two columns of a run show."""
    if chosen.own:
        return "predicted class", "random other class"
    return "true class", "unused or random class" if chosen.distracted.any() else "random other class"


def relevance_name(method: str, args: argparse.Namespace) -> str:
    """Return a method with what changes it, as a figure names it."""
    return ", ".join([method, *commandline.relevance_changes(args)])


def colour_scale(method: str, colour_map: str | None, maximum: str) -> Scale:
    """Return the colours of a method's heatmaps and the words beside their bar."""
    if METHODS[method].signed:
        return Scale(
            colour_map or SIGNED_COLOUR_MAP,
            f"relevance against and for the class, each heatmap scaled by {maximum} (of magnitudes)",
            ("against", "for"),
        )
    return Scale(colour_map or DEFAULT_COLOUR_MAP, f"relevance, each heatmap from 0 to {maximum}", ("0", "max"))


def rows_to_show(chosen: Chosen, count: int, seed: int) -> np.ndarray:
    """Choose images for the picture, spread over classes; half of them with unused equipment, where scenes have
    some."""
    groups = [np.flatnonzero(chosen.distracted), np.flatnonzero(~chosen.distracted)]
    first = min(len(groups[0]), max(count // 2, count - len(groups[1])))
    labels = chosen.targets[:, TRUE]
    picks = [
        group[stratified(labels[group], min(n, len(group)), seed)]
        for group, n in zip(groups, (first, count - first))
        if len(group) and n
    ]
    return np.sort(np.concatenate(picks))


def photo_cell(result: Explained, chosen: Chosen, i: int, split: Split | None) -> Cell:
    """Return an image with its class; split: name the image too, as one that was picked by name is looked up by it."""
    true, other = chosen.names[i]
    caption = f"{true}\nunused: {other}" if chosen.distracted[i] else str(true)
    return Cell(result.pixels[i], caption=f"{split.name(int(chosen.indices[i]))}\n{caption}" if split else caption)


def heat_cells(results: Sequence[Explained], i: int, args) -> list[list[Cell]]:
    """Return the two cells of every run for one image."""
    signed = METHODS[args.relevance].signed
    heats = [r.heatmaps(i, r.pixels[i].shape[:2]).numpy() for r in results]
    if args.normalise == "shared":
        together = normalise(np.concatenate(heats), shared=True, signed=signed)
        heats = np.split(together, len(results))
    else:
        heats = [normalise(heat, signed=signed) for heat in heats]
    cells = []
    for result, heat in zip(results, heats):
        right = result.predicted[i] == result.chosen.targets[i, TRUE]
        pair = []
        for target in (TRUE, OTHER):
            probability = result.probability[i, result.chosen.targets[i, target]]
            caption = f"{result.chosen.names[i, target]} {percent(probability)}"
            if target == TRUE and not right:
                caption += f"\npredicted: {result.chosen.class_names[result.predicted[i]]}"
            if not result.maps[i, target].any():
                caption += NOTHING
            colours = colour_scale(args.relevance, args.colour_map, "").colour_map
            picture = overlay(result.pixels[i], heat[target], colours, grey=signed)
            pair.append(
                Cell(
                    picture,
                    caption=caption,
                    colour=None if target == OTHER or result.chosen.own else CORRECT if right else WRONG,
                )
            )
        cells.append(pair)
    return cells


def draw_plots(out: Path, rows: list[dict], results: Sequence[Explained]) -> None:
    """Draw paired differences of every further run to the first and, on scenes, where the relevance lies."""
    table = {label: [row for row in rows if row["run"] == label] for label in (r.label for r in results)}
    measures = {
        "probability_true": ("Probability of the true class", "probability"),
        "spearman_true_other": ("Likeness of the two maps", "Spearman correlation"),
        "entropy_other": ("Entropy of the other class's map", "normalised entropy"),
    }
    first, own = results[0].label, {result.label for result in results if result.chosen.own}
    metrics = []
    for key, (title, unit) in measures.items():
        # A model with classes of its own gives the true class no probability.
        shown = [label for label in list(table)[1:] if key != "probability_true" or not own & {first, label}]
        values = {label: np.array([[row[key] for row in table[label]]], dtype=float) for label in (first, *shown)}
        clouds = [
            Cloud(f"{first} minus {label}", (values[first] - values[label])[0], measure(values[first], values[label]))
            for label in shown
        ]
        metrics += [Metric(title, f"difference in {unit}", clouds)] if clouds else []
    rainclouds(out / "differences.png", metrics, "Differences between runs, image by image")
    groups = {}
    for region in REGIONS:
        key = f"ratio_{region.replace(' ', '_')}"
        if any(key in row for row in rows):  # an image may lack a region, or all masks
            means = {label: single([row.get(key, np.nan) for row in part]) for label, part in table.items()}
            groups[region] = {label: (m.mean, m.low, m.high) for label, m in means.items()}
    if groups:
        bars(
            out / "regions.png",
            f"Where the true {'or predicted ' if own else ''}class's relevance lies",
            groups,
            "share of relevance / share of area",
            reference=1.0,
        )


def write_layers(
    out: Path,
    runs: Sequence[Run],
    results: Sequence[Explained],
    chosen: Chosen,
    data: ImageData,
    args: argparse.Namespace,
) -> None:
    """Write the mean share of relevance of each block and head, as a table and as a figure."""
    means, difference = layer_statistics(runs, results)
    write_csv(out / "layers.csv", layer_rows([*means, *([difference] if difference else [])], ("true", "other")))
    own = [result for result in results if result.chosen.own]
    heads, named = target_heads(own[0].chosen if len(own) == len(results) else chosen), ", ".join(r.label for r in own)
    where = "relevance arises" if heads_add_up(args.relevance) else "heads carry relevance"
    layer_profiles(
        out / "layers.png",
        means,
        difference,
        heads,
        title=f"Where in the network {where}: {relevance_name(args.relevance, args)} on {len(chosen.indices)} images of "
        f"{data.name}, {args.split}",
        footnote=(
            f"{heads_note(args.relevance)} A share: a head's relevance in magnitudes, summed over patches, over the "
            "same sum for all blocks and heads. Blocks and heads count from 0, as in timm; block 0 is next "
            "to the image. Intervals are of the mean over images, each by itself: of cells that do not differ, "
            "about one in twenty has a dot. "
            + (
                "Heads correspond by number where both runs start from one backbone."
                if difference
                else "No difference is drawn: the first and the last run have other numbers of blocks or heads."
            )
            + (
                f" For {named}, with classes of its own, the true class is the one it predicts."
                if 0 < len(own) < len(results)
                else ""
            )
        ),
    )


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser(), several=True, interrupted=INTERRUPTED))
