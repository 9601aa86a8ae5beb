"""What runs predict: as train.py wrote it, and for splits that training never sees."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.errors import ExplainedError, in_one_line
from data.datasets import ImageData
from evaluation.maps import probabilities_on
from evaluation.subjects import Subject

Rows = list[dict[str, Any]]  # one row per image: probability and correct are numbers, the rest is text


def prediction_row(
    split: str, image: str, names: Sequence[str], label: int, predicted: int, probability: float
) -> dict[str, Any]:
    """Return what is predicted for an image, as tables of predictions have it.

    split, image: its names.
    names: of the classes.
    label, predicted: true and predicted class.
    probability: of the true class.
    """
    return {
        "split": split,
        "image": image,
        "label": names[label],
        "predicted": names[predicted],
        "probability": probability,
        "correct": int(label == predicted),
    }


def predicted_rows(subject: Subject) -> Iterator[dict[str, Any]]:
    """Predict all images of a subject's split; yield a row per image, as train.py writes them."""
    images, names = subject.images(), subject.run.class_names
    places = [names.index(name) for name in subject.data.class_names]  # of the data's classes in the model's head
    probabilities = probabilities_on(subject, images)
    for image, number, chances in zip(images.names, images.labels.tolist(), probabilities):
        label = places[number]
        yield prediction_row(subject.split_name, image, names, label, int(chances.argmax()), float(chances[label]))


def predictions_of(folder: Path, data: ImageData, split: str) -> Rows:
    """Return the rows of a run's predictions.csv for a split.

    folder: the run.
    data: the images that it was evaluated on.
    split: a split of the data, "train" or "held_out".
    Raises ExplainedError where the file is missing or damaged.
    """
    path = folder / "predictions.csv"
    again = f"train the run again with --overwrite, or remove {folder}"
    count = len(data.splits[split]) if split not in ("train", "held_out") else None
    return read_predictions(path, split, count, again)


def read_predictions(path: Path, split: str, count: int | None, again: str) -> Rows:
    """Return the rows of a split from a table of predictions.

    count: how many there should be; None for any number.
    again: how to make the table again, for the error.
    Raises ExplainedError where the file is missing or damaged.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        found = [row | {name: float(row[name]) for name in ("probability", "correct")} for row in rows]
        if count is not None and len(found) != count:
            raise ValueError(f"it has {len(found)} of {count} images of {split}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ExplainedError(f"{path} is damaged ({in_one_line(error)}); {again}") from error
    return found
