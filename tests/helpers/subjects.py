"""Runs with images to ask them about: `evaluation.subjects.Subject` in small."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from data.datasets import ImageData, load_data
from data.options import DataOptions
from evaluation.options import MeasurementOptions
from evaluation.subjects import Subject
from explain.registry import RelevanceOptions
from models.runs import load_run

METHOD = RelevanceOptions("lrp_magnitude")  # whose maps are never 0


def subject_of(run: Path, data: ImageData | Path, split: str = "val", label: str = "run", **options) -> Subject:
    """Return a run of train.py with a data set's images.

    data: a data set, or the folder of one. options: of MeasurementOptions; `correct` and `pick` are the subject's.
    """
    own = {name: options.pop(name) for name in ("correct", "pick") if name in options}
    found = load_data(DataOptions(str(data)), image_size=32) if isinstance(data, Path) else data
    asked = MeasurementOptions(**({"relevance": (METHOD,)} | options))
    return Subject(load_run(run), label, found, split, asked, torch.device("cpu"), **own)


class Labels:
    """A split of which only the labels are known, and perhaps which class's equipment lies about in an image."""

    def __init__(self, labels, distractors=None) -> None:
        self.labels, self.distractors = np.asarray(labels), distractors

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"image {index}"

    def scene(self, index: int):
        return None if self.distractors is None else SimpleNamespace(distractor=self.distractors[index])


def labelled(names, data_names, split: Labels, **options) -> Subject:
    """Return a subject without a model: a run that knows these classes, and a data set of others or the same."""
    run = SimpleNamespace(class_names=list(names), config=SimpleNamespace(data_config={}, seed=0))
    data = SimpleNamespace(name="data", class_names=tuple(data_names), splits={"val": split})
    return Subject(run, "run", data, "val", MeasurementOptions(**options), torch.device("cpu"))
