"""report.figures.confused_classes: every method of every pair is drawn, and no text is clipped or over another."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from PIL import Image
from texts import words_of

from report.figures.confused_classes import Confusion, confusion_pairs, most_different

VARIANT = "dora:blocks=9,targets=fc1,rank=4,alpha=8"
METHODS = ("linear", "full $5 $6", VARIANT, "dora:blocks=all,targets=qkv+proj,rank=16,alpha=32", "lora")


def confusion(true: str, spread: float, images=5, methods=METHODS[:2]) -> Confusion:
    return Confusion(
        true,
        "wheelchair basketball",
        images,
        2,
        {m: (0.5 + spread * i / max(1, len(methods) - 1), 0.4, 0.99) for i, m in enumerate(methods)},
    )


def test_the_pairs_that_differ_most_come_first():
    alone = Confusion("archery", "golf", 9, 1, {"linear": (0.9, 0.8, 1.0), "dora": (np.nan,) * 3})
    pairs = [confusion("a", 0.1), confusion("b", -0.4), confusion("c", 0.3), confusion("few", 0.9, images=2), alone]
    assert [pair.true for pair in most_different(pairs)] == ["b", "c", "a"]
    assert [pair.true for pair in most_different(pairs, most=1)] == ["b"]
    assert [pair.true for pair in most_different(pairs, fewest_images=2)][0] == "few"
    assert pairs[1].spread == pytest.approx(0.4) and np.isnan(alone.spread)


@pytest.mark.parametrize("count, methods", [(1, 2), (8, 5)])
def test_confusions_draw_every_method_of_every_pair(tmp_path, drawn, count, methods):
    names = ("figure skating women", "Donaudampfschifffahrtsgesellschaft polo") * 4
    pairs = [confusion(name, 0.3, methods=METHODS[:methods]) for name in names[:count]]
    pairs[0] = replace(pairs[0], values={**pairs[0].values, "linear": (0.45, np.nan, np.nan)})
    confusion_pairs(
        tmp_path / "c.png", pairs, "similarity of the maps (Spearman), $p", "Where the maps differ most " * 4
    )
    words = words_of(drawn[0])
    assert all(label in words for label in METHODS[:methods]) and words.count("5 (2)") == count and "$p" in words
    means = [line.get_xdata()[0] for line in drawn[0].axes[0].lines if line.get_marker() not in ("None", "", None)]
    assert len(means) == count * methods and means[0] == 0.45
    with pytest.raises(ValueError, match="at least one pair"):
        confusion_pairs(tmp_path / "none.png", [], "m", "t")


def test_the_same_content_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    def draw(path):
        confusion_pairs(path, [confusion("a", 0.1)], "m", "t")
        return path.read_bytes()

    first = draw(tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "boxplot.notch": True, "lines.markersize": 20}):
        assert draw(tmp_path / "b.png") == first
    assert Image.open(tmp_path / "a.png").size[0] == 1100
