"""Write a comparison: the table, the summary, the maps, the grid of heatmaps, and the other figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from commands.figure_inputs import cloud
from commands.options import CompareOptions
from common.files import atomic
from common.tables import number, percent, write_csv, write_json
from evaluation.comparison import ComparedRun, Comparison, region_means, summaries, wide_rows
from evaluation.depth import heads_add_up, layer_names, relevance_shares
from evaluation.measurements import INPUT_NOISE
from evaluation.options import AUTO, RUNNER_UP
from evaluation.regions import REGIONS
from evaluation.statistics.layers import LayerMeans, layer_means, layer_rows
from evaluation.statistics.measured import measure
from explain.heatmap import to_heatmap
from explain.registry import METHODS, RelevanceOptions
from report.figures.bars import bars
from report.figures.comparison_grid import (
    GridRow,
    GridRun,
    GridStyle,
    HeatCell,
    comparison_grid,
    grid_note,
    heat_caption,
    photo_caption,
    target_heads,
)
from report.figures.layer_profiles import layer_profiles
from report.figures.rainclouds import Metric, rainclouds

PICTURE, TABLE, RESULT, ARRAYS = "grid.png", "comparison.csv", "comparison.json", "maps.npz"
Layers = tuple[list[LayerMeans], LayerMeans | None]  # of each run, and the last run's less the first's
LAYERS = ("layers.png", "layers.csv")
# Column of the table -> title and unit of its panel.
DIFFERENCES = {
    "probability_true": ("Probability of the true class", "probability"),
    "spearman_random": ("Similarity of the maps of the true class and of random classes", "Spearman correlation"),
    "entropy_random": ("Complexity of random classes' maps", "normalised entropy"),
}


def write_comparison(
    comparison: Comparison,
    shown: np.ndarray,
    layers: Layers | None,
    options: CompareOptions,
    configuration: dict[str, Any],
) -> dict[str, Any]:
    """Write all files of a comparison to `options.out`; return the content of comparison.json, which comes last.

    shown: rows of the images in the picture.
    layers: what `layer_statistics` returns, where relevance by block and head is wanted.
    configuration: all that the result depends on, recorded with it.
    """
    out, rows = options.out, wide_rows(comparison)
    write_maps(out / ARRAYS, comparison)
    write_csv(out / TABLE, rows)
    draw_grid(out / PICTURE, comparison, shown, options)
    draw_plots(out, rows, comparison)
    if layers is not None:
        write_layers(out, comparison, layers, options.second)
    result = {"configuration": configuration, "runs": summaries(comparison, rows)}
    write_json(out / RESULT, result)
    return result


def write_maps(path: Path, comparison: Comparison) -> None:
    """Write the maps of all targets without pickles.

    For run i: `maps_i` (N, T, grid_h, grid_w) float32 and `classes_i` (N, T), the names of the classes explained: the
    true class, random classes, the runner-up, and on drawn scenes the distractor's class. `runs` are the labels,
    `images` (N,) the names, `true` (N,) the true classes.
    """
    arrays: dict[str, Any] = {}
    for i, one in enumerate(comparison.runs):
        arrays[f"maps_{i}"] = one.stored.maps
        arrays[f"classes_{i}"] = np.array(one.subject.run.class_names)[one.stored.targets.classes]
    labels = comparison.runs[0].subject.data.class_names
    with atomic(path) as temporary:
        np.savez_compressed(
            temporary,
            **arrays,
            runs=np.array([one.label for one in comparison.runs]),
            images=np.array(comparison.images.names),
            true=np.array(labels)[comparison.images.labels],
        )


# ---- the grid of heatmaps


def draw_grid(path: Path, comparison: Comparison, shown: Sequence[int] | np.ndarray, options: CompareOptions) -> None:
    """Draw one row per image: the photo, then the heatmaps of two classes for each run."""
    rows, data = [int(row) for row in shown], comparison.runs[0].subject.data
    pixels = [one.subject.images(one.subject.options.images).pixels(rows) for one in comparison.runs]
    distractors = bool(comparison.distracted.any()) and options.second == AUTO
    runner_up = options.second == RUNNER_UP
    own = [one.subject.own_classes for one in comparison.runs]
    heads = [
        GridRun(head_of(one, options.split), target_heads(mine, distractors, runner_up))
        for one, mine in zip(comparison.runs, own)
    ]
    comparison_grid(
        path,
        heads,
        [grid_row(comparison, row, [seen[row] for seen in pixels], options) for row in rows],
        GridStyle(options.picture.normalise, options.picture.colour_map, METHODS[comparison.method.method].signed),
        title=f"What speaks for a class: {method_name(comparison.method)} on {len(rows)} images of {data.name}, "
        f"{options.split}",
        footnote=grid_note(own, distractors, runner_up),
    )


def grid_row(comparison: Comparison, row: int, pixels: Sequence[np.ndarray], options: CompareOptions) -> GridRow:
    """Return one image's row of the grid; pixels: what each run's model sees of it."""
    first = comparison.runs[0]
    data, index = first.subject.data, int(comparison.images.indices[row])
    split = first.subject.split
    scene = split.scene(index)
    unused = data.class_names[scene.distractor] if scene is not None and scene.distractor >= 0 else None
    caption = photo_caption(
        data.class_names[int(split.labels[index])], unused, split.name(index) if options.pick else None
    )
    return GridRow(pixels[0], caption, [heat_cells(one, row, seen) for one, seen in zip(comparison.runs, pixels)])


def heat_cells(one: ComparedRun, row: int, pixels: np.ndarray) -> tuple[HeatCell, HeatCell]:
    """Return a run's two heatmaps of one image."""
    columns = [0, int(one.second[row])]
    maps = np.asarray(one.stored.maps[row][columns], dtype=np.float64)
    heats = to_heatmap(torch.from_numpy(maps[None]), pixels.shape[:2])[0].numpy()
    classes, right = one.shown()[row], None if one.correct is None else bool(one.correct[row])
    predicted = int(one.stored.predicted[row])
    cells = []
    for place, (heat, found) in enumerate(zip(heats, maps)):
        wrong = place == 0 and predicted != int(classes[0])
        caption = heat_caption(
            one.name(classes[place]),
            one.stored.probability[row, classes[place]],
            one.name(predicted) if wrong else None,
        )
        frame: Literal["correct", "wrong"] | None = None
        if not place and right is not None:
            frame = "correct" if right else "wrong"
        cells.append(HeatCell(pixels, heat, caption, frame, not found.any()))
    return cells[0], cells[1]


def head_of(one: ComparedRun, split: str) -> str:
    """Return a run's column header: its accuracy on the whole split or, where that is not known, on these images."""
    run, data = one.subject.run, one.subject.data
    if one.correct is None:
        return f"{one.label}\nown classes: predicted class"
    own = (run.config.data or {}).get("fingerprint") == data.fingerprint
    if own and (accuracy := run.summary["accuracy"].get(split)):
        return f"{one.label}\naccuracy {percent(accuracy['accuracy'])} of {accuracy['images']}"
    return f"{one.label}\naccuracy {percent(one.correct.mean())} of the {len(one.correct)} explained"


def method_name(method: RelevanceOptions) -> str:
    """Return a relevance method with what changes it, as figures name it."""
    return ", ".join([method.method, *method.changes()])


# ---- other figures


def draw_plots(out: Path, rows: Sequence[dict[str, Any]], comparison: Comparison) -> None:
    """Draw paired differences of every further run to the first and, where masks exist, where relevance lies."""
    table = {one.label: [row for row in rows if row["run"] == one.label] for one in comparison.runs}
    own = {one.label for one in comparison.runs if one.subject.own_classes}
    metrics = [panel for key in DIFFERENCES if (panel := _panel(key, table, own)) is not None]
    rainclouds(out / "differences.png", metrics, "Differences between runs, image by image")
    if found := region_means(rows, list(table), REGIONS):
        groups = {
            region: {label: (m.mean, m.low, m.high) for label, m in means.items()} for region, means in found.items()
        }
        title = f"Where the true {'or predicted ' if own else ''}class's relevance lies"
        bars(out / "regions.png", title, groups, "share of relevance / share of area", reference=1.0)


def _panel(key: str, table: dict[str, list[dict[str, Any]]], own: set[str]) -> Metric | None:
    first, *others = table
    # A model with classes of its own gives the true class no probability.
    shown = [label for label in others if key != "probability_true" or not own & {first, label}]
    values = {label: np.array([[row[key] for row in table[label]]], dtype=float) for label in (first, *shown)}
    clouds = [
        cloud(f"{first} minus {label}", (values[first] - values[label])[0], measure(values[first], values[label]))
        for label in shown
    ]
    title, unit = DIFFERENCES[key]
    return Metric(title, f"difference in {unit}", clouds) if clouds else None


def write_layers(out: Path, comparison: Comparison, layers: Layers, second: str) -> None:
    """Write the mean share of relevance of each block and head, as a table and as a figure.

    layers: what `layer_statistics` returns. second: which class is the second, a name in `evaluation.options.SECOND`.
    """
    means, difference = layers
    method, own = comparison.method.method, [one for one in comparison.runs if one.subject.own_classes]
    all_own = len(own) == len(comparison.runs)
    distractors = bool(comparison.distracted.any()) and second == AUTO
    heads = target_heads(all_own, distractors, second == RUNNER_UP)
    write_csv(out / "layers.csv", layer_rows([*means, *([difference] if difference else [])], ("true", "second")))
    where = "relevance arises" if heads_add_up(method) else "heads carry relevance"
    subject = comparison.runs[0].subject
    layer_profiles(
        out / "layers.png",
        means,
        difference,
        heads,
        title=f"Where in the network {where}: {method_name(comparison.method)} on {len(comparison.images)} images of "
        f"{subject.data.name}, {subject.split_name}",
        footnote=_layers_note(method, difference is not None, "" if all_own else ", ".join(one.label for one in own)),
    )


def layer_statistics(comparison: Comparison) -> Layers:
    """Return every run's mean shares by block and head, and the mean difference of the last run to the first.

    Differences are paired by image; None where the two runs have other blocks or numbers of heads.
    """
    shares = [
        relevance_shares(one.subject, one.subject.images(one.subject.options.images), one.shown(), comparison.method)
        for one in comparison.runs
    ]
    names = [layer_names(one.subject.model, share.shape[2]) for one, share in zip(comparison.runs, shares)]
    labels = [one.label for one in comparison.runs]
    means = [layer_means(label, blocks, share) for label, blocks, share in zip(labels, names, shares)]
    if names[0] != names[-1] or shares[0].shape != shares[-1].shape:
        return means, None
    return means, layer_means(f"{labels[-1]} minus {labels[0]}", names[0], shares[-1] - shares[0])


def heads_note(method: str) -> str:
    """Return what a head's relevance is, by one method, for a figure's footnote."""
    if heads_add_up(method):
        return (
            "A head's relevance is what it adds to the map: all heads of all blocks add up to it (where tokens are "
            "averaged, to the map less its even start)."
        )
    return (
        "A head's relevance is what it carries away from each patch to where it mixes values. It does not add up to "
        "the map: skip connections and MLPs carry the rest, and what one block carries, another may carry again."
    )


def _layers_note(method: str, difference: bool, own: str) -> str:
    drawn = (
        "Heads correspond by number where both runs start from one backbone."
        if difference
        else "No difference is drawn: the first and the last run have other numbers of blocks or heads."
    )
    more = f" For {own}, with classes of its own, the true class is the one it predicts." if own else ""
    return (
        f"{heads_note(method)} A share is a head's relevance in magnitudes, summed over patches, divided by the same "
        "sum for all blocks and heads. Blocks and heads count from 0, as in timm; block 0 is next to the image. "
        "Intervals are of the mean over images, each by itself: of cells that do not differ, about one in twenty has "
        f"a dot. {drawn}{more}"
    )


def describe(means: dict[str, Any], median: dict[str, float]) -> str:
    """Return one line about a run: probability, similarity, complexity, and the maps' robustness beside them."""
    true = means.get("probability_true")
    text = (
        f"{'own classes' if true is None or not true.n else f'true class {percent(true.mean)}'}, similarity to random "
        f"classes' maps {number(means['spearman_random'].mean)} (Spearman), entropy of random classes' maps "
        f"{number(means['entropy_random'].mean)}"
    )
    if "noise_true" not in median:
        return text
    noise = means["noise_true"]
    zero = f"; {noise.n_dropped} of {noise.n + noise.n_dropped} maps are 0 and left out" if noise.n_dropped else ""
    change = percent(median["noise_true"], 2)
    return f"{text}, input noise of {INPUT_NOISE:g} changes maps by {change} (median{zero})"
