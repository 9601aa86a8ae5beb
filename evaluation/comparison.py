"""What runs say about the same images, in numbers: image by image, by block and head, and in short."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from common.tables import columns_of, percent
from data.datasets import Split
from data.transforms import prepared_masks
from evaluation.explained import INPUT_NOISE, OTHER, TRUE, Chosen, Explained
from evaluation.metrics.maps import cosine, entropy, mass, patch_coverage, rank_accuracy, spearman
from evaluation.statistics.paired import single
from explain import METHODS
from models.runs import Run
from report.figures.layers import LayerMeans, layer_means

CHUNK = 256  # maps that are measured at a time
REGIONS = ("evidence", "players", "people and the ball", "surface", "distractor")
NUMERIC = {"probability", "spearman", "cosine", "entropy", "noise", "share", "area", "ratio", "rank"}  # column prefixes


def heads_add_up(method: str) -> bool:
    """Tell whether the relevance of all heads of all blocks (`layers`) is the method's map.

    It is where a map is made block by block of what heads add; these maps are unsigned. Signed maps are input times
    gradient: a head has what it carries away from each patch on the way down, and there are other ways down.
    """
    return not METHODS[method].signed


def heads_note(method: str) -> str:
    """Return what a head's relevance is, by one method, as a figure's footnote says it."""
    if heads_add_up(method):
        return (
            "A head's relevance is what it adds to the map: all heads of all blocks add up to it (where tokens are "
            "averaged, to the map less their even start)."
        )
    return (
        "A head's relevance is what it carries away from each patch to where it mixes values. It does not add up to "
        "the map: skip connections and MLPs carry the rest, and what one block carries, another may carry again."
    )


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
            rows.append(
                {
                    "image": split.name(int(index)),
                    "run": result.label,
                    "true": chosen.names[i, TRUE],
                    "explained": result.chosen.names[i, TRUE],
                    "other": result.chosen.names[i, OTHER],
                    "other_is_distractor": int(result.chosen.distracted[i]),
                    "predicted": result.chosen.class_names[result.predicted[i]],
                    "correct": None if own else int(result.correct[i]),
                    "probability_true": None if own else result.probability[i, first_class],
                    "probability_other": result.probability[i, other_class],
                    **{name: None if values is None else values[i] for name, values in columns.items()},
                    **shares[i],
                }
            )
    return rows


def in_chunks(measure: Callable[..., np.ndarray], *maps: np.ndarray) -> np.ndarray:
    """Return a measure (N,) of maps (N, grid_h, grid_w) that lie in files, of which it reads some at a time."""
    starts = range(0, len(maps[0]), CHUNK)
    return np.concatenate([measure(*(one[start : start + CHUNK] for one in maps)) for start in starts])


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
        summary.append(
            {
                "label": result.label,
                "folder": str(run.folder),
                "accuracy": run.summary.get("accuracy"),
                "accuracy_explained": right,
                "means": means,
                "median_noise": median,
            }
        )
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
    return (
        ("own classes" if not true.n else f"true class {percent(true.mean)}") + f", likeness of the two maps "
        f"{means['spearman_true_other'].mean:.3f} (Spearman), entropy of the other class's map "
        f"{means['entropy_other'].mean:.3f}, {INPUT_NOISE:g} input noise moves maps by "
        f"{percent(median['noise_true'], 2)} (median{zero})"
    )
