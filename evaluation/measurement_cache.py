"""Measurements kept beside the runs, and made again only where something that they depend on has changed.

They belong to a model's weights, not to a run: runs that came out equal, as a linear probe's seeds do, share them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.files import atomic
from common.tables import write_json
from evaluation.comparison import layer_names
from evaluation.measurements import DEPTH_VERSION, MEASUREMENTS, Subject, compare_depth
from evaluation.observations import Observation, read_results, write_results
from evaluation.statistics.depth import DepthRun
from models.runs import read_json

FOLDER = "measures"  # beside the runs' folders


@dataclass(frozen=True)
class Task:
    """One measurement of one run on one split by one relevance method; `removal` where it removes patches."""

    measurement: str
    relevance: str
    removal: str = ""

    def __str__(self) -> str:
        return f"{self.measurement} of {self.relevance}" + (
            f", removed patches: {self.removal}" if self.removal else ""
        )


def tasks(metrics: list[str], relevances: list[str], removals: list[str]) -> list[Task]:
    """What is measured of a run on `val`. metrics: all, quick, or names of MEASUREMENTS; maps are always among them,
    and perturbation by `random` is the baseline."""
    chosen = {"all": list(MEASUREMENTS), "quick": [name for name, one in MEASUREMENTS.items() if one.quick]}
    wanted = {"maps", *(name for given in metrics for name in chosen.get(given, [given]))}
    found = []
    for name in (one for one in MEASUREMENTS if one in wanted):
        if name == "perturbation":
            found += [
                Task(name, one, removal) for removal in removals for one in dict.fromkeys([*relevances, "random"])
            ]
        else:
            found += [Task(name, one) for one in relevances]
    return found


def measured(subject: Subject, task: Task) -> tuple[list[Observation], Path]:
    """Return one measurement of one run, from where it is kept if nothing it depends on has changed.

    The path is of what it keeps beside: the maps, for `maps`.
    """
    one, table = MEASUREMENTS[task.measurement], _file(subject, task, ".csv")
    keep, card, settings = table.with_suffix(".npz"), table.with_suffix(".json"), _card(subject, task)
    if not is_measured(subject, task):
        card.unlink(missing_ok=True)
        extra = [task.removal] if task.removal else []
        write_results(table, one.compute(subject, task.relevance, keep, *extra))
        write_json(card, settings)  # it says that the rest is there, and comes last
    names = {"data": Path(subject.data.name).name, "method": subject.method, "seed": subject.run.config["seed"]}
    return [replace(row, **names) for row in read_results(table)], keep


def is_measured(subject: Subject, task: Task) -> bool:
    """Tell whether a measurement is kept and still that of this run, these images and these settings."""
    ends = [".json", ".csv"] + [".npz"] * MEASUREMENTS[task.measurement].keeps
    files = [_file(subject, task, end) for end in ends]
    return all(file.is_file() for file in files) and read_json(files[0]) == _card(subject, task)


def folder_of(subject: Subject) -> Path:
    """Return where measurements of a run's model are kept: beside the run, with those of all models."""
    return subject.run.folder.parent / FOLDER / subject.content[:16]


def _file(subject: Subject, task: Task, end: str) -> Path:
    parts = [subject.split_name, task.measurement, task.relevance, task.removal]
    return folder_of(subject) / ("-".join(filter(None, parts)) + end)


def _card(subject: Subject, task: Task) -> dict:
    one = MEASUREMENTS[task.measurement]
    return {"model": subject.content, **_images(subject), "version": one.version, **one.settings(subject.args)}


def _images(subject: Subject) -> dict:
    data = subject.data
    return {"data": data.fingerprint, "masks": data.masks_fingerprint, "data_seed": subject.args.data_seed}


def measured_depth(before: Subject, after: Subject, name: str | None) -> tuple[DepthRun, DepthRun]:
    """Attention, features and (by relevance method `name`, if any) relevance by depth, before and after; kept with
    `after`."""
    arrays, card = (folder_of(after) / f"{after.split_name}-depth-{name}{end}" for end in (".npz", ".json"))
    settings = {
        "before": before.content,
        "after": after.content,
        **_images(after),
        "images": after.args.metric_images,
        "version": DEPTH_VERSION,
    }
    if not (card.is_file() and arrays.is_file() and read_json(card) == settings):
        card.unlink(missing_ok=True)
        found = compare_depth(before, after, name)
        with atomic(arrays) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **found)
        write_json(card, settings)
    with np.load(arrays) as found:
        return tuple(_depth_run(subject, place, found) for place, subject in enumerate((before, after)))


def _depth_run(subject: Subject, place: int, found) -> DepthRun:
    own = {key.removeprefix(f"{place}_"): found[key] for key in found.files if key.startswith(f"{place}_")}
    measures = {key: value for key, value in own.items() if not key.startswith("uniform_")}
    uniform = {key.removeprefix("uniform_"): float(value) for key, value in own.items() if key.startswith("uniform_")}
    layers = next(iter(measures.values())).shape[1]
    return DepthRun(
        subject.method,
        tuple(layer_names(subject.model, layers)),
        measures,
        uniform,
        found["divergence"] if place else None,
        found["cka"] if place else None,
    )
