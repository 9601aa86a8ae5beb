"""Measurements stored beside the runs, and computed again only where something that they depend on has changed.

They belong to a model's weights, not to a run: runs with equal weights, such as a linear probe's seeds, share them.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common import processes
from common.console import warn
from common.files import atomic
from common.tables import write_csv, write_json
from evaluation.depth import DEPTH_VERSION, compare_depth, depth_run_of
from evaluation.interventions import Effect, effects_on_images, load_effects, save_effects
from evaluation.maps import StoredMaps, files_of, store_maps
from evaluation.measurements import MEASURES, MeasurementRequest
from evaluation.observations import Observation, read_results, write_results
from evaluation.options import COSTLY, MeasurementOptions
from evaluation.predictions import Rows, predicted_rows, read_predictions
from evaluation.statistics.depth import DepthRun
from evaluation.subjects import Subject
from explain.registry import RelevanceOptions

T = TypeVar("T")
FOLDER = "measurements"  # in the folder that a command writes to
FILES = "files"  # a card's entry with the hashes of the files that it marks as whole


@dataclass(frozen=True)
class Task:
    """One measurement of one run on one split by one relevance method.

    measurement: a name of MEASURES.
    method: the relevance method.
    imputation: what replaces removed patches, for faithfulness.
    """

    measurement: str
    method: RelevanceOptions
    imputation: str = ""

    def __str__(self) -> str:
        imputed = f", imputation {self.imputation}" if self.imputation else ""
        return f"{self.measurement} of {self.method.method}{imputed}"


def tasks(options: MeasurementOptions) -> list[Task]:
    """Return all tasks for one run; faithfulness and interventions also of `random` maps, as the baseline."""
    found = []
    for name in options.measurements:
        methods = options.relevance[:1] if name in COSTLY and options.costly_for == "first" else options.relevance
        with_random = dict.fromkeys([*methods, RelevanceOptions("random")])
        if name == "faithfulness":
            found += [Task(name, one, imputation) for imputation in options.imputations for one in with_random]
        else:
            found += [Task(name, one) for one in (with_random if name == "interventions" else methods)]
    return found


@dataclass(frozen=True)
class MeasurementCache:
    """Stored measurements of any number of models.

    folder: where they are; each model has a folder of its own there, named by the hash of its content.
    """

    folder: Path

    def measured(self, subject: Subject, task: Task) -> list[Observation]:
        """Return one measurement of one run, stored or computed now, by all processes together.

        The observations carry the names of this subject's data, method and seed.
        """
        if not processes.on_main_process(lambda: self.holds(subject, task)):
            self._measure(subject, task)
        about: dict[str, Any] = {
            "data": Path(subject.data.name).name,
            "method": subject.label,
            "seed": subject.run.config.seed,
        }
        return [replace(row, **about) for row in read_results(self._file(subject, task, ".csv"))]

    def maps(self, subject: Subject, method: RelevanceOptions) -> StoredMaps:
        """Return a run's maps by one method, stored or computed now."""
        task = Task("maps", method)
        path = self._file(subject, task, ".npy")
        if not processes.on_main_process(lambda: self._holds_maps(subject, task)):
            card = path.with_suffix(".maps.json")
            processes.on_main_process(lambda: card.unlink(missing_ok=True))
            stored = store_maps(subject, method, path)
            processes.on_main_process(lambda: _mark(card, self._cache_key(subject, task), *files_of(path)))
            return stored
        return StoredMaps.load(path)

    def effects(self, subject: Subject) -> list[list[Effect]]:
        """Return the effects of interventions on a run, image by image, stored or computed now."""
        arrays = self._folder(subject) / f"{subject.split_name}-effects.npz"
        key = {"model": subject.content_hash, **_images(subject), **MEASURES["interventions"].settings(subject)}
        _make_once(arrays, key, lambda: effects_on_images(subject), lambda found: save_effects(arrays, found))
        return load_effects(arrays)

    def predictions(self, subject: Subject) -> Rows:
        """Return a run's predictions of all images of a split, stored or computed now."""
        table = self._folder(subject) / f"{subject.split_name}-predictions.csv"
        key = {"model": subject.content_hash, "data": subject.data.fingerprint}
        _make_once(table, key, lambda: list(predicted_rows(subject)), lambda rows: write_csv(table, rows))
        return read_predictions(table, subject.split_name, len(subject.split), f"remove {table.parent}")

    def holds(self, subject: Subject, task: Task) -> bool:
        """Tell whether a measurement is stored and still that of this run, these images and these settings."""
        card, table = self._file(subject, task, ".json"), self._file(subject, task, ".csv")
        whole = _is_whole(card, self._cache_key(subject, task), table)
        return whole and (task.measurement != "maps" or self._holds_maps(subject, task))

    def depth(self, before: Subject, after: Subject, method: RelevanceOptions | None) -> tuple[DepthRun, DepthRun]:
        """Return attention, features and relevance by depth, before and after fine-tuning; stored with `after`.

        method: the relevance method that tells blocks apart; None leaves relevance out.
        """
        name = "none" if method is None else _name_of(method)
        arrays = self._folder(after) / f"{after.split_name}-depth-{name}.npz"
        key = {"before": before.content_hash, "after": after.content_hash, **_images(after)}
        key |= {"images": after.options.metric_images, "version": DEPTH_VERSION}

        def write(found: dict[str, Any]) -> None:
            with atomic(arrays) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(file, **found)

        _make_once(arrays, key, lambda: compare_depth(before, after, method), write)
        with np.load(arrays) as stored:
            first, second = (depth_run_of(one, place, stored) for place, one in enumerate((before, after)))
        return first, second

    def _measure(self, subject: Subject, task: Task) -> None:
        table = self._file(subject, task, ".csv")
        card = table.with_suffix(".json")
        processes.on_main_process(lambda: card.unlink(missing_ok=True))
        request = MeasurementRequest(
            subject,
            task.method,
            lambda: self.maps(subject, task.method),
            lambda: self.effects(subject),
            task.imputation,
        )
        rows = list(MEASURES[task.measurement].compute(request))

        def write() -> None:
            write_results(table, rows)
            _mark(card, self._cache_key(subject, task), table)

        processes.on_main_process(write)

    def _holds_maps(self, subject: Subject, task: Task) -> bool:
        path = self._file(subject, task, ".npy")
        return _is_whole(path.with_suffix(".maps.json"), self._cache_key(subject, task), *files_of(path))

    def _folder(self, subject: Subject) -> Path:
        return self.folder / subject.content_hash[:16]

    def _file(self, subject: Subject, task: Task, end: str) -> Path:
        parts = [subject.split_name, task.measurement, _name_of(task.method), task.imputation]
        if subject.pick:
            parts.append(hashlib.sha256(repr(subject.pick).encode()).hexdigest()[:8])
        return self._folder(subject) / ("-".join(filter(None, parts)) + end)

    def _cache_key(self, subject: Subject, task: Task) -> dict[str, Any]:
        one = MEASURES[task.measurement]
        about = {"model": subject.content_hash, **_images(subject), "relevance": asdict(task.method)}
        return about | {"version": one.version, **one.settings(subject)}


def _make_once(file: Path, key: dict[str, Any], compute: Callable[[], T], write: Callable[[T], None]) -> None:
    """Compute a file with all processes and write it with the first, unless it is stored for this key."""
    card = file.with_suffix(".json")
    if processes.on_main_process(lambda: _is_whole(card, key, file)):
        return
    found = compute()

    def write_and_mark() -> None:
        card.unlink(missing_ok=True)
        write(found)
        _mark(card, key, file)

    processes.on_main_process(write_and_mark)


def _mark(card: Path, key: dict[str, Any], *files: Path) -> None:
    """Write the card that marks files as whole; it comes last, and holds all that they depend on and their hashes."""
    write_json(card, key | {FILES: {file.name: _hash_of(file) for file in files}})


def _is_whole(card: Path, key: dict[str, Any], *files: Path) -> bool:
    """Tell whether files are those that were stored for this key; warn of damaged ones, which are made again."""
    if not card.is_file():
        return False
    try:
        found = json.loads(card.read_text(encoding="utf-8"))
        hashes = found.pop(FILES, {})
    except (OSError, ValueError, AttributeError, TypeError):
        warn(f"{card} is damaged: what it marks is measured again")
        return False
    if found != json.loads(json.dumps(key)):
        return False
    if damaged := [file for file in files if not file.is_file() or hashes.get(file.name) != _hash_of(file)]:
        warn(f"{damaged[0]} is missing or damaged: measured again")
    return not damaged


def _hash_of(file: Path) -> str:
    status = file.stat()
    return _hash_of_version(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_of_version(file: Path, size: int, changed: int) -> str:
    """Return a file's SHA-256, computed once as long as the file has this size and time of change."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _images(subject: Subject) -> dict[str, Any]:
    data = subject.data
    about = {"data": data.fingerprint, "masks": data.masks_fingerprint, "data_seed": subject.options.data_seed}
    return about | ({"pick": list(subject.pick)} if subject.pick else {})


def _name_of(method: RelevanceOptions) -> str:
    """Return a relevance method with its options as a part of a file's name."""
    options = json.dumps(method.keywords(), sort_keys=True)
    return method.method + ("" if options == "{}" else f"-{hashlib.sha256(options.encode()).hexdigest()[:8]}")
