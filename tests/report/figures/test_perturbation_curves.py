"""report.figures.perturbation_curves: every run's curves are drawn, and no text is clipped or over another."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from PIL import Image
from texts import words_of

from report.figures.perturbation_curves import RunCurves, mean_band, removal_curves

VARIANT = "dora:blocks=9,targets=fc1,rank=4,alpha=8"
METHODS = ("linear", "full $5 $6", VARIANT, "dora:blocks=all,targets=qkv+proj,rank=16,alpha=32", "lora")
FRACTIONS = np.arange(6) / 5


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


def test_the_same_content_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    def draw(path):
        removal_curves(path, FRACTIONS, [curves("linear")], "t")
        return path.read_bytes()

    first = draw(tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "boxplot.notch": True, "lines.markersize": 20}):
        assert draw(tmp_path / "b.png") == first
    assert Image.open(tmp_path / "a.png").size[0] == 1100
