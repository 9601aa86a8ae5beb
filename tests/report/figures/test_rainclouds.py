"""report.figures.rainclouds: every image, seed and fact is drawn, and no text is clipped or over another."""

import matplotlib
import numpy as np
import pytest
from PIL import Image
from texts import words_of

from report.figures.rainclouds import Cloud, Metric, rainclouds

VARIANT = "dora:blocks=9,targets=fc1,rank=4,alpha=8"
METHODS = ("linear", "full $5 $6", VARIANT, "dora:blocks=all,targets=qkv+proj,rank=16,alpha=32", "lora")


def cloud(label: str, shift: float, seeds: int = 1, images: int = 40) -> Cloud:
    """Return made-up differences with an interval and facts."""
    values = shift + np.random.default_rng(2).normal(0, 0.1, (seeds, images))
    mean = float(values.mean())
    facts = (f"mean {mean:.3f}", f"{images} images, permutation p = 0.012", f"{seeds} seeds, not all of one sign")
    return Cloud(label, values.mean(0), mean, mean - 0.05, mean + 0.05, tuple(values.mean(1)), facts)


@pytest.mark.parametrize("count, seeds", [(1, 1), (4, 3)])
def test_rainclouds_show_every_image_every_seed_and_the_figures(tmp_path, drawn, count, seeds):
    metrics = [
        Metric(
            title,
            unit,
            [cloud(f"linear minus {label}", 0.1 * i, seeds) for i, label in enumerate(METHODS[1 : 1 + count])],
        )
        for title, unit in (("Similarity of the two maps, " * 6, "Spearman"), ("Gain", "probability, $p"))
    ]
    rainclouds(tmp_path / "r.png", metrics, "What the methods change, image by image " * 3, note="A note.")
    words = words_of(drawn[0])
    assert "probability, $p" in words and "A note." in words and words.count("40 images") == 2 * count
    assert ("a training seed's mean" in words) == (seeds > 1)
    for axes, metric in zip(drawn[0].axes, metrics):
        dots = [points.get_offsets() for points in axes.collections if len(points.get_offsets()) > 1]
        assert [len(points) for points in dots] == [40] * count
        markers = [line for line in axes.lines if line.get_marker() == "|"]
        assert [len(line.get_xdata()) for line in markers] == ([seeds] * count if seeds > 1 else [])
        means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
        assert means == pytest.approx([c.mean for c in metric.clouds])
        low, high = axes.get_xlim()
        assert all(low < points[:, 0].min() and points[:, 0].max() < high for points in dots) and low < 0 < high


def test_rainclouds_of_nothing_and_of_no_difference(tmp_path, drawn):
    nan = float("nan")
    clouds = [
        Cloud("the same", np.zeros(30), 0.0, 0.0, 0.0, (0.0,)),
        Cloud("no value", np.full(30, nan), nan, nan, nan, (nan,), ("0 images (30 without a value)",)),
        Cloud("one image", np.full(1, 0.3), 0.3, nan, nan, (0.3,)),
    ]
    rainclouds(tmp_path / "r.png", [Metric("Nothing differs", "unit", clouds)], "t")
    assert "0 images (30 without a value)" in words_of(drawn[0])
    with pytest.raises(ValueError, match="at least one metric"):
        rainclouds(tmp_path / "none.png", [], "t")


def test_each_fact_starts_a_line_and_long_facts_are_wrapped(tmp_path, drawn):
    one = Cloud("a", np.arange(5.0), 2.0, 1.0, 3.0, (2.0,), ("first", "word " * 30, "last"))
    rainclouds(tmp_path / "r.png", [Metric("m", "u", [one])], "t")
    lines = [text.get_text() for text in drawn[0].texts]
    assert {"first", "last"} <= set(lines) and words_of(drawn[0]).count("word") == 30


def test_the_same_content_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    def draw(path):
        rainclouds(path, [Metric("m", "u", [cloud("c", 0.1)])], "t")
        return path.read_bytes()

    first = draw(tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "boxplot.notch": True, "lines.markersize": 20}):
        assert draw(tmp_path / "b.png") == first
    assert Image.open(tmp_path / "a.png").size[0] == 1100
