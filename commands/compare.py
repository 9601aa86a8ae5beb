"""What compare.py does: load the runs, measure them on the same images, write numbers and pictures."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from commands.comparison_output import (
    ARRAYS,
    LAYERS,
    PICTURE,
    RESULT,
    TABLE,
    describe,
    layer_statistics,
    write_comparison,
)
from commands.options import CompareOptions
from common import processes
from common.console import warn
from common.devices import device_of, workers_of
from common.errors import ExplainedError, UsageError
from common.files import check_writable
from common.names import nearest
from data.datasets import ImageData, Split, load_data
from data.options import DataOptions
from data.sampling import stratified
from data.transforms import drawing_size
from evaluation.comparison import Comparison, compare_runs
from evaluation.measurement_cache import FOLDER, MeasurementCache
from evaluation.measurements import INPUT_NOISE
from evaluation.subjects import Subject, check_comparable, knows_classes, labels_of, load_explainable
from models.runs import Run, differing, read_json


def compare(options: CompareOptions) -> dict[str, Any]:
    """Compare runs on one split and write everything to `options.out`; return the content of comparison.json.

    All processes that torchrun started compute; the first of them writes.
    """
    device = device_of(options.running.device)
    with processes.main_process_first():  # the others find what it has downloaded
        runs = load_explainable(options.runs, options.external)
        check_comparable(runs)
        data = data_of_runs(options, runs)
    for run in runs:
        if not knows_classes(run, data.class_names):
            warn(
                f"{run.label} has other classes than {data.name}: it is explained for the class that it "
                f"predicts, and its accuracy is not defined"
            )
    return compare_loaded(runs, data, options, device)


def data_of_runs(options: CompareOptions, runs: Sequence[Run]) -> ImageData:
    """Return the data that the options name or, without, the data of the first run that recorded its own."""
    trained = next((run for run in runs if run.config.data is not None), None)
    if options.data is None and trained is None:
        raise UsageError(
            f"none of {', '.join(options.runs)} says which images it was trained on; give the images to compare on as "
            f"--data"
        )
    recorded = options.data or DataOptions.of_record(trained.config.data)  # type: ignore[union-attr]
    size = drawing_size((trained or runs[0]).config.data_config)
    data = load_data(recorded, image_size=size, progress=True)
    if trained is not None and list(data.class_names) != trained.class_names:
        raise UsageError(f"--data {data.name} has other classes than {trained.folder}; give the data it was trained on")
    return data


def compare_loaded(
    runs: Sequence[Run], data: ImageData, options: CompareOptions, device: torch.device
) -> dict[str, Any]:
    """Compare loaded runs; see `compare`."""
    configuration = configuration_of(runs, data, options)
    found = processes.on_main_process(lambda: prepare(data, options, configuration))
    if found is not None:
        print(f"{options.out} holds this very comparison, finished: reused")
        return found
    split = data.splits[options.split]
    pick = tuple(picked(split, options.pick).tolist()) if options.pick else ()
    measurement = replace(options.measurement, metric_images=options.measurement.images or len(split))
    workers = workers_of(options.running, device)
    subjects = [
        Subject(run, label, data, options.split, measurement, device, workers, pick)
        for run, label in zip(runs, labels_of(runs))
    ]
    cache = MeasurementCache(options.out / FOLDER)
    comparison = compare_runs(subjects, cache, options.second, ("maps", "robustness"))
    shown = np.arange(len(comparison.images)) if pick else rows_to_show(comparison, options.rows)
    layers = layer_statistics(comparison) if options.layers else None

    def write() -> dict[str, Any]:
        result = write_comparison(comparison, shown, layers, options, configuration)
        _say(result, comparison, options)
        return result

    return processes.on_main_process(write)


def _say(result: dict[str, Any], comparison: Comparison, options: CompareOptions) -> None:
    for one in result["runs"]:
        print(f"{one['label']}: {describe(one['means'], one['median_noise'])}")
    names = ", ".join([PICTURE, TABLE, RESULT, ARRAYS, *(LAYERS if options.layers else ())])
    print(f"{options.out}: {names} ({len(comparison.images)} images of {options.split}, {comparison.method.method})")


def prepare(data: ImageData, options: CompareOptions, configuration: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a finished comparison of this configuration found, or make the folder ready for a new one."""
    if (found := finished(options.out, configuration, options.overwrite)) is not None:
        return found
    if options.split not in data.splits or options.split in ("train", "test"):
        known = ", ".join(name for name in data.splits if name not in ("train", "test"))
        reserved = options.split == "test" and "test" in data.splits
        why = "is kept for study.py --split test" if reserved else f"does not exist in {data.name}"
        raise UsageError(f"--split {options.split} {why}; expected {known}")
    if options.pick:
        picked(data.splits[options.split], options.pick)
    check_writable(options.out)
    for name in (RESULT, *LAYERS):  # the first marks a finished comparison and comes last; not all have the others
        (options.out / name).unlink(missing_ok=True)
    return None


def picked(split: Split, names: Sequence[str]) -> np.ndarray:
    """Return the indices of images by name, ascending; raises UsageError for an unknown name."""
    number = {split.name(i): i for i in range(len(split))}
    for name in names:
        if name not in number:
            raise UsageError(f"--pick {name} is not an image of this split; {nearest(name, list(number))}")
    return np.array(sorted({number[name] for name in names}))


def configuration_of(runs: Sequence[Run], data: ImageData, options: CompareOptions) -> dict[str, Any]:
    """Return all that the result depends on."""
    measurement, labels = options.measurement, labels_of(runs)
    return {
        "runs": {label: run.identity for label, run in zip(labels, runs)},
        "order": labels,  # differences are taken from the first
        "data": data.fingerprint,
        "split": options.split,
        "images": measurement.images,
        "rows": options.rows,
        "pick": sorted(options.pick),
        "second": options.second,
        "data_seed": measurement.data_seed,
        "random_classes": measurement.random_classes,
        "relevance": asdict(measurement.relevance[0]),
        "input_noise": INPUT_NOISE,
        "layers": options.layers,
        **asdict(options.picture),
    }


def finished(out: Path, configuration: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Return a finished comparison of the same configuration; raises UsageError where another one is there."""
    if not (out / RESULT).is_file():
        return None
    try:
        found = read_json(out / RESULT)
    except ExplainedError:
        if overwrite:
            return None
        raise
    recorded = found.get("configuration")
    differences = differing(recorded if isinstance(recorded, dict) else {}, configuration)
    if not differences:
        return found if all((out / name).is_file() for name in (PICTURE, TABLE, ARRAYS)) else None
    if not overwrite:
        raise UsageError(
            f"{out} holds another comparison ({'; '.join(differences[:4])}); give another --out, or "
            f"--overwrite to replace it"
        )
    return None


def rows_to_show(comparison: Comparison, count: int) -> np.ndarray:
    """Choose images for the picture, spread over classes; half of them with a distractor, where scenes have some."""
    distracted, seed = comparison.distracted, comparison.runs[0].subject.options.data_seed
    groups = [np.flatnonzero(distracted), np.flatnonzero(~distracted)]
    first = min(len(groups[0]), max(count // 2, count - len(groups[1])))
    labels = comparison.images.labels
    picks = [
        group[stratified(labels[group], min(n, len(group)), seed)]
        for group, n in zip(groups, (first, count - first))
        if len(group) and n
    ]
    return np.sort(np.concatenate(picks))
