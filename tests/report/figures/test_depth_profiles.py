"""report.figures.depth_profiles, depth_heads: pictures show the numbers that were handed in, and nothing is clipped."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image
from texts import check_texts, words_of

from report.figures.depth_heads import HeadMeasure, depth_heads
from report.figures.depth_profiles import DepthLine, DepthMeasure, depth_profiles

LAYERS, HEADS = 4, 3
LABELS = ("linear", "dora:blocks=9,targets=fc1,rank=4,alpha=8")
BLOCKS = ("0", "1", "2", "3")
TITLES = (
    "Entropy of attention (of its maximum, log N)",
    "Mean attention distance (patches)",
    "Attention on itself (%)",
)


def line(seed: int, layers: int = LAYERS, heads: int | None = HEADS, changed: tuple[int, ...] = ()) -> DepthLine:
    values = np.random.default_rng(seed).uniform(0.3, 0.6, (layers, heads or 1))
    mean = values.mean(1)
    return DepthLine(mean, mean - 0.02, mean + 0.02, values if heads else None, changed)


def measures(layers: int = LAYERS, heads: int = HEADS, changed: tuple[int, ...] = ()) -> list[DepthMeasure]:
    return [
        DepthMeasure(title, [line(i, layers, heads), line(i + 9, layers, heads, changed)], even=0.5)
        for i, title in enumerate(TITLES)
    ]


def head_measures(layers: int = LAYERS, heads: int = HEADS, smallest: float = 0.02) -> list[HeadMeasure]:
    found = []
    for i, title in enumerate(TITLES):
        before = np.random.default_rng(i).uniform(0.3, 0.6, (layers, heads))
        after, changed = before.copy(), np.zeros((layers, heads), bool)
        after[0, 0] += 0.3
        changed[0, 0] = True
        found.append(HeadMeasure(title, before, after, changed, smallest))
    return found


@pytest.mark.parametrize("layers, heads", [(1, 1), (13, 12), (4, 3)])
def test_figures_clip_nothing_and_overlap_nothing(tmp_path, drawn, layers, heads):
    blocks = (*map(str, range(layers - 1)), "pool")
    divergence, similarity = [None, line(5, layers, heads)], [None, np.linspace(1, 0.8, layers + 1)]
    note = "A *rule* of many words. " * 12
    given = [LABELS, blocks, measures(layers, heads), "What changed at which depth " * 4, note, divergence, similarity]
    depth_profiles(tmp_path / "depth.png", *given)
    depth_heads(tmp_path / "heads.png", LABELS, blocks, head_measures(layers, heads), "Attention by head", note)
    for figure in drawn:
        words = words_of(figure)
        assert "linear" in words and words.count("A rule of many words.") == 12, "without asterisks"
        assert all(title in words for title in TITLES)
    assert Image.open(tmp_path / "depth.png").size[0] == 1100


def test_profiles_show_means_and_mark_what_changed(tmp_path, drawn):
    lines = [line(0), line(1, changed=(2,))]
    divergence, similarity = line(2), np.linspace(1, 0.8, LAYERS + 1)
    depth_profiles(
        tmp_path / "depth.png",
        LABELS,
        BLOCKS,
        [DepthMeasure("a", lines, even=0.4), DepthMeasure("b", [line(3, heads=None), line(4, heads=None)])],
        "t",
        divergence=[None, divergence],
        similarity=[None, similarity],
    )
    first, second, third, fourth = drawn[0].axes
    means = [one for one in first.lines if len(one.get_xdata()) == LAYERS]
    assert [one.get_ydata().tolist() for one in means] == [one.mean.tolist() for one in lines]
    (marked,) = [one for one in first.lines if list(one.get_xdata()) == [2]]
    assert marked.get_ydata() == lines[1].mean[[2]] and to_rgba(marked.get_markerfacecolor()) != to_rgba("white")
    assert [one for one in first.lines if list(one.get_ydata()) == [0.4, 0.4]], "even attention"
    dots = [points.get_offsets() for points in first.collections if len(points.get_offsets()) == LAYERS * HEADS]
    assert [sorted(points[:, 1]) for points in dots] == [sorted(one.heads.ravel()) for one in lines]
    assert not any(len(points.get_offsets()) == LAYERS for points in second.collections), "no heads, no dots"
    assert third.lines[0].get_ydata().tolist() == divergence.mean.tolist() and third.get_ylim()[0] == 0
    assert fourth.lines[0].get_ydata().tolist() == similarity.tolist() and fourth.get_xlim() == (-0.5, LAYERS + 0.5)
    words = words_of(drawn[0])
    assert "divergence from linear" in words and "similarity to linear" in words


def test_a_run_without_a_measure_is_left_out(tmp_path, drawn):
    depth_profiles(tmp_path / "depth.png", LABELS, BLOCKS, [DepthMeasure("a", [line(0), None])], "t")
    check_texts(drawn[0])
    assert [len(one.get_xdata()) for one in drawn[0].axes[0].lines] == [LAYERS, 0]


def test_matrices_share_a_scale_and_their_difference_is_centred(tmp_path, drawn):
    large, small = (
        head_measures()[0],
        HeadMeasure("b", np.full((4, 3), 0.5), np.full((4, 3), 0.501), ~np.eye(4, 3, dtype=bool), 0.02),
    )
    divergence = np.random.default_rng(0).uniform(0, 0.1, (LAYERS, HEADS))
    depth_heads(tmp_path / "heads.png", LABELS, BLOCKS, [large, small], "t", divergence=divergence)
    images = [axes.images[0] for axes in drawn[0].axes if axes.get_ylabel() == "block"]
    before, after, difference, _, _, pale, last = images
    assert before.get_clim() == after.get_clim() and after.get_clim()[1] == large.after.max()
    assert np.array_equal(difference.get_array(), large.after - large.before)
    assert difference.get_clim() == pytest.approx((-0.3, 0.3))
    assert difference.axes.collections[0].get_offsets().tolist() == [[0, 0]], "column, row"
    assert pale.get_clim() == (-0.02, 0.02), "what is too small to count stays pale"
    assert np.array_equal(last.get_array(), divergence)


def test_values_that_are_not_defined_are_drawn_as_nothing(tmp_path, drawn):
    nothing = np.full((LAYERS, HEADS), np.nan)
    depth_heads(tmp_path / "h.png", LABELS, BLOCKS, [HeadMeasure("a", nothing, nothing, nothing > 0, 0.1)], "t")
    check_texts(drawn[0])


def test_the_same_content_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    def draw(folder):
        folder.mkdir()
        depth_profiles(folder / "depth.png", LABELS, BLOCKS, measures(), "t")
        depth_heads(folder / "heads.png", LABELS, BLOCKS, head_measures(), "t")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = draw(tmp_path / "a")
    settings = {"font.size": 20, "image.cmap": "jet", "savefig.dpi": 50, "lines.markeredgewidth": 5}
    with matplotlib.rc_context(settings):
        assert draw(tmp_path / "b") == first and len(first) == 2


def test_what_does_not_fit_is_refused(tmp_path):
    path, short = tmp_path / "x.png", line(0, layers=2)
    two = [line(0), line(1)]
    for wrong, message in (
        (lambda: depth_profiles(path, LABELS, BLOCKS, [DepthMeasure("a", two[:1])], "t"), "1 lines of"),
        (lambda: depth_profiles(path, LABELS, BLOCKS, [DepthMeasure("a", [line(0), short])], "t"), "for each of 0, 1"),
        (lambda: depth_profiles(path, LABELS, BLOCKS, [], "t", similarity=[None, np.ones(LAYERS)]), "in, 0, 1, 2, 3"),
        (lambda: depth_heads(path, LABELS, BLOCKS[:2], head_measures(), "t"), "for each of 2 blocks"),
        (lambda: depth_heads(path, LABELS, BLOCKS, head_measures(), "t", divergence=np.ones((2, 3))), "expected one"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
    assert not list(tmp_path.iterdir())
