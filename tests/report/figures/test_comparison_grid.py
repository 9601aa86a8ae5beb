"""report.figures.comparison_grid: which cells are drawn of which heatmaps, in which colours, under which words."""

import numpy as np
import pytest
from texts import words_of

from report.figures import comparison_grid as module
from report.figures.canvas import CORRECT, WRONG
from report.figures.comparison_grid import (
    GridRow,
    GridRun,
    GridStyle,
    HeatCell,
    comparison_grid,
    grid_note,
    heat_caption,
    photo_caption,
    target_heads,
)
from report.figures.overlay import normalise, overlay

RANDOM = np.random.default_rng(0)
PHOTO = RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8)
RUNS = [GridRun(f"{name} · accuracy 87.2 %", ("true class", "random class")) for name in ("linear", "dora")]


def heat(largest: float, size: int = 32) -> np.ndarray:
    values = np.random.default_rng(1).uniform(-1, 1, (size, size))
    return largest * values / values.max()


def row(largest=(1.0, 2.0, 4.0, 8.0), **more) -> GridRow:
    a, b, c, d = (HeatCell(PHOTO, heat(value), f"class {value:g}", **more) for value in largest)
    return GridRow(PHOTO, "tennis", [(a, b), (c, d)])


@pytest.fixture
def asked(monkeypatch) -> list[dict]:
    """What is asked of `grid`, a dictionary per picture; nothing is drawn."""
    found: list[dict] = []
    monkeypatch.setattr(module, "grid", lambda path, rows, **named: found.append({"rows": rows, **named}))
    return found


def test_a_row_has_the_photo_and_a_pair_of_heatmaps_a_run(tmp_path, drawn):
    comparison_grid(tmp_path / "grid.png", RUNS, [row(), row()], GridStyle(), "The title " * 20, "A footnote.")
    words = words_of(drawn[0])
    assert words.count("tennis") == words.count("class 8") == 2 and "A footnote." in words
    assert words.count("true class") == 2 and words.count("accuracy 87.2") == 2 and "image" in words
    assert "relevance, each heatmap from 0 to its own maximum" in words


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("colour_map", [None, "viridis"])
def test_heatmaps_are_scaled_by_their_own_maximum(tmp_path, asked, signed, colour_map):
    comparison_grid(tmp_path / "g.png", RUNS, [row()], GridStyle("heatmap", colour_map, signed), "t")
    (photo, *cells), scale = asked[0]["rows"][0], asked[0]["scales"][0]
    colours = colour_map or ("RdBu_r" if signed else "inferno")
    assert scale.colour_map == colours and scale.limits == (("against", "for") if signed else ("0", "max"))
    assert np.array_equal(photo.image, PHOTO) and photo.caption == "tennis"
    for cell in cells:  # heatmaps of one shape look the same, whatever their size
        expected = overlay(PHOTO, normalise(heat(1.0), signed=signed), colours, grey=signed)
        assert np.abs(cell.image.astype(int) - expected).max() <= 1


def test_heatmaps_of_an_image_share_a_maximum_also_where_runs_have_other_image_sizes(tmp_path, asked):
    small = np.zeros((16, 16, 3), np.uint8)
    pairs = [(HeatCell(PHOTO, heat(1), "a"), HeatCell(PHOTO, heat(2), "b"))]
    pairs += [(HeatCell(small, heat(4, 16), "c"), HeatCell(small, heat(8, 16), "d"))]
    comparison_grid(tmp_path / "g.png", RUNS, [GridRow(PHOTO, "tennis", pairs)], GridStyle("shared"), "t")
    cells = asked[0]["rows"][0][1:]
    for cell, one, share in zip(cells, [one for pair in pairs for one in pair], (1 / 8, 1 / 4, 1 / 2, 1)):
        assert np.array_equal(cell.image, overlay(one.pixels, share * normalise(one.heat)))
    assert asked[0]["scales"][0].label.endswith("the maximum over an image's heatmaps")


def test_frames_tell_right_from_wrong_and_a_map_of_nothing_says_so(tmp_path, asked):
    cells = [
        HeatCell(PHOTO, 0 * heat(1), "a", frame, zero)
        for frame, zero in (("correct", False), ("wrong", True), (None, False), (None, True))
    ]
    comparison_grid(
        tmp_path / "g.png", RUNS, [GridRow(PHOTO, "", [tuple(cells[:2]), tuple(cells[2:])])], GridStyle(), "t"
    )
    found = asked[0]["rows"][0][1:]
    assert [cell.colour for cell in found] == [CORRECT, WRONG, None, None]
    assert [cell.caption for cell in found] == ["a", "a\n(the map is 0)", "a", "a\n(the map is 0)"]


def test_captions():
    assert heat_caption("tennis", 0.925) == "tennis 92.5 %"
    assert heat_caption("tennis", 0.925, "golf") == "tennis 92.5 %\npredicted: golf"
    assert photo_caption("tennis") == "tennis" and photo_caption("tennis", "golf") == "tennis\nunused: golf"
    assert photo_caption("tennis", "golf", "val/7.png") == "val/7.png\ntennis\nunused: golf"


def test_heads_of_columns_say_which_class_the_second_is():
    assert target_heads(False, False) == ("true class", "random class")
    assert target_heads(False, True) == ("true class", "distractor's or random class")
    assert target_heads(True, True) == ("predicted class", "random class")
    assert target_heads(False, True, runner_up=True) == ("true class", "runner-up class")
    assert target_heads(True, False, runner_up=True) == ("predicted class", "runner-up class")


@pytest.mark.parametrize("runner_up", [False, True])
@pytest.mark.parametrize("own, distractors", [([False, False], False), ([False, True], True), ([True, True], False)])
def test_the_note_explains_what_the_picture_has(own, distractors, runner_up):
    note = grid_note(own, distractors, runner_up)
    assert note.startswith("Under each heatmap: the class explained")
    assert ("Frames: blue" in note) == (not all(own)) and ("classes of its own" in note) == any(own)
    assert ("(distractor)" in note) == (distractors and not runner_up)
    assert ("runner-up" in note) == runner_up and ("random" in note) == (not runner_up)


def test_a_row_needs_a_pair_for_each_run(tmp_path):
    with pytest.raises(ValueError, match="same number of columns"):
        comparison_grid(tmp_path / "g.png", RUNS[:1], [row()], GridStyle(), "t")
