"""What a study reads of its runs: predictions, whatever the classes are called."""

from types import SimpleNamespace

import pytest

from common.errors import ExplainedError
from evaluation.study_results import predictions_of

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
