"""Predictions of runs: read, whatever the classes are called, and made of images that training never sees."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import SIZE

from common.errors import ExplainedError
from data.datasets import load_data
from data.options import DataOptions
from evaluation.options import MeasurementOptions
from evaluation.predictions import predicted_rows, predictions_of
from evaluation.subjects import Subject
from models.runs import load_run

HEADER = "split,image,label,predicted,probability,correct"
ROWS = ["train,train/007/0.png,007,nan,0.25,0", "val,val/1/2.png,1,007,0.5,0", "val,val/nan/3.png,nan,nan,0.75,1"]
DATA = SimpleNamespace(splits={"train": range(1), "val": range(2)})


def written(folder, lines):
    (folder / "predictions.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    return folder


def test_class_names_that_look_like_numbers_stay_names(tmp_path):
    first, second = predictions_of(written(tmp_path, ROWS), DATA, "val")
    assert (first["label"], first["predicted"], second["label"]) == ("1", "007", "nan")
    assert (first["probability"], first["correct"], second["correct"]) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    "lines, words",
    [(ROWS[:2], "it has 1 of 2 images of val"), ([*ROWS[:2], "val,val/nan/3.png,nan"], "damaged"), (None, "damaged")],
)
def test_damaged_predictions_are_said(tmp_path, lines, words):
    if lines is not None:
        written(tmp_path, lines)
    with pytest.raises(ExplainedError, match="train the run again with --overwrite") as caught:
        predictions_of(tmp_path, DATA, "val")
    assert words in str(caught.value)


def test_what_is_predicted_is_what_training_predicted(shop):
    """Image by image; a run whose classes stand in another order predicts the same names."""
    run, data = load_run(shop.dora), load_data(DataOptions(str(shop.colours)), image_size=SIZE)
    subject = Subject(run, "dora", data, "val", MeasurementOptions(batch_size=4), torch.device("cpu"))
    found, expected = list(predicted_rows(subject)), predictions_of(shop.dora, data, "val")
    assert len(found) == 18
    for one, row in zip(found, expected, strict=True):
        assert one == row | {"probability": pytest.approx(row["probability"], rel=1e-4)}
    split = replace(data.splits["val"], labels=2 - data.splits["val"].labels)
    turned = replace(data, class_names=data.class_names[::-1], splits={"val": split})
    again = list(predicted_rows(replace(subject, data=turned)))
    assert [row["predicted"] for row in again] == [row["predicted"] for row in found]
    assert [row["correct"] for row in again] == [row["correct"] for row in found]
