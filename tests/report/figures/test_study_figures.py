"""The figures of a study's statistics: every number that went in is drawn, and no text is clipped or over another."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from PIL import Image
from texts import check_texts

from evaluation.statistics.claims import Claim, Wording
from evaluation.statistics.paired import over_seeds
from evaluation.statistics.verdicts import Judgement, measure
from report.figures import canvas
from report.figures.confused_classes import Confusion, confusion_pairs, most_different
from report.figures.perturbation_curves import RunCurves, mean_band, removal_curves
from report.figures.rainclouds import Cloud, Metric, rainclouds
from report.figures.verdict_overview import CLAIMED, verdict_overview

VARIANT = "dora:blocks=9,targets=fc1,rank=4,alpha=8"
METHODS = ("linear", "full $5 $6", VARIANT, "dora:blocks=all,targets=qkv+proj,rank=16,alpha=32", "lora")
FRACTIONS = np.arange(6) / 5


def words_of(figure) -> str:
    return " ".join(text.get_text() for text in check_texts(figure)).replace("\n", " ").replace("\\$", "$")


# Perturbation curves


def curves(label: str, seeds=1, images=30, random=True, rate=3.0) -> RunCurves:
    noise = np.random.default_rng(0).uniform(0.5, 0.9, (seeds, images, 1))
    morf, lerf, chance = (noise * np.exp(-rate * factor * FRACTIONS) for factor in (2, 0.3, 1))
    return RunCurves(label, morf, lerf, chance if random else None)


def test_the_band_is_students_t_over_images_with_seeds_averaged_first():
    values = np.random.default_rng(1).uniform(0.4, 0.6, (3, 16, 2))
    values[1, 4, 0] = np.nan  # an image that one seed cannot measure
    kept = np.delete(values, 4, axis=1).mean(0)
    mean, low, high = mean_band(values)
    half = 2.1448 * kept.std(axis=0, ddof=1) / np.sqrt(15)  # t with 14 degrees of freedom at 97.5 %
    assert mean == pytest.approx(kept.mean(0)) and low == pytest.approx(mean - half, abs=1e-5)
    assert high == pytest.approx(mean + half, abs=1e-5)


def test_the_band_stays_a_probability_and_needs_two_images():
    _, low, high = mean_band(np.array([[[0.0], [0.0], [1.0]]]))
    assert low == 0 and high == 1
    mean, low, high = mean_band(np.array([[[0.25]]]))
    assert mean == 0.25 and np.isnan([low, high]).all()
    assert np.isnan(mean_band(np.empty((1, 0, 3)))).all()


@pytest.mark.parametrize("count, seeds, random", [(2, 1, True), (5, 3, True), (1, 1, False)])
def test_removal_curves_draw_every_run_and_its_chance(tmp_path, drawn, count, seeds, random):
    runs = [curves(label, seeds, random=random, rate=1 + i) for i, label in enumerate(METHODS[:count])]
    removal_curves(tmp_path / "c.png", FRACTIONS, runs, "Probability as patches are removed " * 3, note="Mean colour.")
    words = words_of(drawn[0])
    assert all(label in words for label in METHODS[:count]) and ("random order" in words) == random
    assert ("averaged over 3 training seeds" in words) == (seeds == 3) and "mean over 30 images" in words
    morf, lerf = drawn[0].axes
    assert len(morf.lines) == len(lerf.lines) == count * (1 + random) and morf.get_ylim() == lerf.get_ylim()
    assert morf.lines[0].get_ydata() == pytest.approx(100 * runs[0].morf.mean((0, 1)))
    assert lerf.lines[0].get_xdata() == pytest.approx(100 * FRACTIONS)
    if random:
        assert lerf.lines[1].get_linestyle() == "--" and lerf.lines[1].get_ydata()[0] == lerf.lines[0].get_ydata()[0]


def test_removal_curves_refuse_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        removal_curves(tmp_path / "c.png", FRACTIONS, [], "t")
    with pytest.raises(ValueError, match=r"random of linear as .* = \(1, 30, 6\), got \(1, 29, 6\)"):
        removal_curves(tmp_path / "c.png", FRACTIONS, [replace(curves("linear"), random=np.zeros((1, 29, 6)))], "t")
    with pytest.raises(ValueError, match=r"morf of dora"):
        removal_curves(tmp_path / "c.png", FRACTIONS, [curves("linear"), curves("dora", images=29)], "t")


# Rainclouds


def cloud(label: str, shift: float, seeds=1, images=40) -> Cloud:
    generator = np.random.default_rng(2)
    b = generator.uniform(0.2, 0.6, (seeds, images))
    a = b + shift + generator.normal(0, 0.1, (seeds, images))
    return Cloud(label, (a - b).mean(0), measure(a, b))


@pytest.mark.parametrize("count, seeds", [(1, 1), (4, 3)])
def test_rainclouds_show_every_image_every_seed_and_the_figures(tmp_path, drawn, count, seeds):
    metrics = [
        Metric(
            title,
            unit,
            [cloud(f"linear minus {label}", 0.1 * i, seeds) for i, label in enumerate(METHODS[1 : 1 + count])],
        )
        for title, unit in (("Likeness of the two maps, " * 6, "Spearman"), ("Gain", "probability, $p"))
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
        assert means == pytest.approx([c.measured.difference for c in metric.clouds])
        low, high = axes.get_xlim()
        assert all(low < points[:, 0].min() and points[:, 0].max() < high for points in dots) and low < 0 < high


def test_rainclouds_of_nothing_and_of_no_difference(tmp_path, drawn):
    zeros, none = np.zeros((1, 30)), np.full((1, 30), np.nan)
    one = np.full((1, 1), 0.3)
    clouds = [
        Cloud("the same", zeros[0], measure(zeros, zeros)),
        Cloud("no value", none[0], measure(none, zeros)),
        Cloud("one image", one[0], measure(one, 0 * one)),
    ]
    rainclouds(tmp_path / "r.png", [Metric("Nothing differs", "unit", clouds)], "t")
    words = words_of(drawn[0])
    assert "0 images (30 without a value)" in words and "smallest detectable: –" in words
    with pytest.raises(ValueError, match="at least one metric"):
        rainclouds(tmp_path / "none.png", [], "t")


# Verdicts


def claim(letter: str, word: str, shift: float, seeds=1, sign=1, points=False, label="dora") -> Claim:
    generator = np.random.default_rng(3)
    b = generator.uniform(0.2, 0.6, (seeds, 60))
    measured = measure(b + shift + generator.normal(0, 0.1, b.shape), b)
    wording = Wording("how much", f"{label} is", "more", "less", "linear", "" if points else "Spearman", points)
    return Claim(letter, wording, ("linear", label), measured, sign, 0.01, Judgement(word) if word else None)


@pytest.mark.parametrize("seeds, label", [(1, VARIANT), (5, "dora")])
def test_the_overview_has_a_panel_a_claim_and_a_row_a_data_set(tmp_path, drawn, seeds, label):
    sets = {
        "drawn scenes, val": [
            claim("a", "supported", 0.1, seeds, label=label),
            claim("d", "not supported", 0.2, seeds, -1, True, label),
        ],
        "a folder of photographs with a long name, $1": [claim("a", "undecided", 0.0, seeds, label=label)],
        "others": [claim("a", "", -0.2, seeds, label=label)],
    }
    verdict_overview(tmp_path / "v.png", sets, "What the earlier study saw, on several data sets " * 2)
    words = words_of(drawn[0])
    assert all(word in words for word in ("supported", "not supported", "undecided", "not judged"))
    assert "smallest detectable" in words
    assert ("One training seed: says nothing" in words) == (seeds == 1) and "a folder of" in words and "$1" in words
    first, second = drawn[0].axes
    for axes, names, scale in ((first, list(sets), 1), (second, ["drawn scenes, val"], 100)):
        seen = [line for line in axes.lines if line.get_marker() == "o"]
        expected = [next(c for c in sets[name] if (c.letter == "a") == (scale == 1)) for name in names]
        for dots, c in zip(seen, expected, strict=True):
            assert dots.get_xdata() == pytest.approx(scale * np.array(c.measured.seeds.differences))
        bars = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 7]
        assert np.concatenate(bars) == pytest.approx(
            [scale * value for c in expected for value in (c.measured.low, c.measured.high)]
        )
    sides = [
        next(patch for patch in axes.patches if patch.get_facecolor() == matplotlib.colors.to_rgba(CLAIMED))
        for axes in (first, second)
    ]
    assert sides[0].get_x() == 0 < sides[0].get_width() and sides[1].get_x() + sides[1].get_width() <= 0


def test_the_overview_needs_a_claim(tmp_path):
    with pytest.raises(ValueError, match="at least one claim"):
        verdict_overview(tmp_path / "v.png", {"scenes": []}, "t")


def test_a_claim_without_a_difference_is_drawn(tmp_path, drawn):
    nothing = measure(np.zeros((2, 30)), np.zeros((2, 30)))
    verdict_overview(tmp_path / "v.png", {"s": [replace(claim("a", "undecided", 0.1), measured=nothing)]}, "t")
    assert "0 [0, 0]" in words_of(drawn[0]) and nothing.seeds == over_seeds([0.0, 0.0])


# Confusions


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
    confusion_pairs(tmp_path / "c.png", pairs, "likeness of the maps (Spearman), $p", "Where the maps differ most " * 4)
    words = words_of(drawn[0])
    assert all(label in words for label in METHODS[:methods]) and words.count("5 (2)") == count and "$p" in words
    means = [line.get_xdata()[0] for line in drawn[0].axes[0].lines if line.get_marker() not in ("None", "", None)]
    assert len(means) == count * methods and means[0] == 0.45
    with pytest.raises(ValueError, match="at least one pair"):
        confusion_pairs(tmp_path / "none.png", [], "m", "t")


def test_the_same_content_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    def draw(folder):
        removal_curves(folder / "removal.png", FRACTIONS, [curves("linear")], "t")
        rainclouds(folder / "rain.png", [Metric("m", "u", [cloud("c", 0.1)])], "t")
        verdict_overview(folder / "verdicts.png", {"s": [claim("a", "supported", 0.1)]}, "t")
        confusion_pairs(folder / "confusions.png", [confusion("a", 0.1)], "m", "t")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    first = draw(tmp_path / "a")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "boxplot.notch": True, "lines.markersize": 20}):
        assert draw(tmp_path / "b") == first
    assert all(Image.open(tmp_path / "a" / name).size[0] == 1100 for name in first) and len(first) == 4
    assert canvas.DOTS_PER_INCH == 100
