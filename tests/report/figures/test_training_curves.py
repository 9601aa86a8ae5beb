"""report.figures.training_curves: what the history holds is drawn, and no text is clipped or over another."""

import matplotlib
import pytest
from PIL import Image
from texts import check_texts

from report.figures.training_curves import training_curves

VARIANT = "dora:blocks=9,targets=fc1,rank=4,alpha=8"
HISTORY = [
    {"epoch": e, "train_loss": 2 / e, "train_accuracy": 1 - 0.5 / e, "val_loss": 3 / e, "val_accuracy": 0.5, "lr": 0.1}
    | ({"val_shuffled_accuracy": 0.4, "val_shuffled_loss": float("nan")} if e > 2 else {"held_out_accuracy": None})
    for e in range(1, 8)
]


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], [{"epoch": 1, "train_loss": 1.0}]])
def test_training_curves_show_percent_and_mark_the_epoch(tmp_path, drawn, history):
    training_curves(tmp_path / "curves.png", history, 1, f"{VARIANT} on scenes, bundled backbone, seed 0, " * 3)
    texts = {text.get_text() for text in check_texts(drawn[0])}
    assert {"accuracy (%)", "loss", "chosen epoch (1)"} <= texts
    if "train_accuracy" in history[0]:
        line = drawn[0].axes[1].lines[0]
        assert line.get_ydata()[0] == pytest.approx(50.0)
    assert Image.open(tmp_path / "curves.png").size[0] == 1100
    with pytest.raises(ValueError, match="at least one record"):
        training_curves(tmp_path / "none.png", [], 1, "t")


def test_a_probes_curves_go_along_its_penalties(tmp_path, drawn):
    history = [
        {"penalty": 10.0**-i, "train_loss": 1 / (i + 1), "train_accuracy": 0.5, "val_loss": 0.7} for i in range(5)
    ]
    training_curves(tmp_path / "curves.png", history, 3, "linear on scenes")
    texts = {text.get_text() for text in check_texts(drawn[0])}
    assert {"penalty", "chosen penalty (0.01)"} <= texts
    left, right = drawn[0].axes[0].get_xlim()
    assert left > 1 and right < 1e-4, "the largest penalty first"


def test_what_was_not_recorded_is_said(tmp_path, drawn):
    training_curves(tmp_path / "curves.png", [{"epoch": 1, "train_loss": 1.0}], None, "t")
    assert "not recorded" in {text.get_text() for text in check_texts(drawn[0])}


def test_the_same_content_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    training_curves(tmp_path / "a.png", HISTORY, 3, "t")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "savefig.dpi": 50, "lines.markersize": 20}):
        training_curves(tmp_path / "b.png", HISTORY, 3, "t")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
