"""report.figures.class_heatmaps: which cells are drawn of which methods and classes, in which colours and words."""

import numpy as np
import pytest
from texts import words_of

from report.figures import class_heatmaps as module
from report.figures.class_heatmaps import (
    HeadHeats,
    MethodFacts,
    MethodRow,
    Photo,
    class_heatmaps,
    head_heatmaps,
    most_probable_caption,
    probability_caption,
)
from report.figures.overlay import normalise, overlay

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
TARGETS = ("red", "blue")
PHOTO = Photo("red/00.png", PIXELS, "top 2:\nred 70.0 %\nblue 30.0 %", TARGETS, ("red 70.0 %", "blue 30.0 %"))
LRP = MethodFacts("lrp", "lrp, contrast mean", signed=False, uses_target=True)
CP_LRP = MethodFacts("cp_lrp", "cp_lrp", signed=True, uses_target=True)
ROLLOUT = MethodFacts("rollout", "rollout", signed=False, uses_target=False)


def heats(count: int) -> np.ndarray:
    """Return (count, H, W), each with twice the range of the one before."""
    return np.random.default_rng(1).normal(size=(1, 32, 32)) * 2.0 ** np.arange(count)[:, None, None]


def rows(*methods: MethodFacts) -> list[MethodRow]:
    return [MethodRow(m, heats(2 if m.uses_target else 1), [False] * (2 if m.uses_target else 1)) for m in methods]


@pytest.fixture
def asked(monkeypatch) -> list[dict]:
    """What is asked of `grid` or `head_matrix`, a dictionary per picture; nothing is drawn."""
    found: list[dict] = []
    monkeypatch.setattr(module, "grid", lambda path, rows, **named: found.append({"rows": rows, **named}))
    names = ("preview", "cells", "shares", "blocks", "title", "scale")
    monkeypatch.setattr(
        module, "head_matrix", lambda path, *given, **named: found.append(dict(zip(names, given)) | named)
    )
    return found


def test_a_row_a_method_and_a_column_a_class(tmp_path, drawn):
    class_heatmaps(tmp_path / "p.png", PHOTO, rows(LRP, ROLLOUT, CP_LRP), "dora")
    words = words_of(drawn[0])
    for said in ("red/00.png", "lrp, contrast mean", "rollout", "cp_lrp", "what speaks for a class, dora"):
        assert said in words
    assert words.count("top 2:") == 1, "below the first photo alone"
    assert words.count("knows no class") == 1 and "every class" not in words


def test_a_method_that_knows_no_class_is_drawn_once(tmp_path, asked):
    class_heatmaps(tmp_path / "p.png", PHOTO, rows(LRP, ROLLOUT), "dora")
    class_heatmaps(tmp_path / "p.png", PHOTO, rows(ROLLOUT), "dora")
    both, alone = asked
    assert [[cell is not None for cell in row] for row in both["rows"]] == [[True] * 3, [True, True, False]]
    assert [cell.caption for cell in both["rows"][0][1:]] == ["red 70.0 %", "blue 30.0 %"]
    for row in (both["rows"][1], alone["rows"][0]):
        assert row[1].caption.startswith("knows no class") and "%" not in row[1].caption
    assert both["subheaders"] == ["image", "red", "blue"] and alone["subheaders"] == ["image", "every class"]
    assert alone["headers"] == [("", 1), ("dora", 1)] and both["headers"][1] == ("what speaks for a class, dora", 2)


@pytest.mark.parametrize("shared", [False, True])
def test_heatmaps_are_scaled_alone_or_by_one_maximum_a_method(tmp_path, asked, shared):
    class_heatmaps(tmp_path / "p.png", PHOTO, rows(LRP, CP_LRP), "dora", "shared" if shared else "heatmap", "viridis")
    for row, method in zip(asked[0]["rows"], (LRP, CP_LRP)):
        expected = normalise(heats(2), shared=shared, signed=method.signed)
        for cell, heat in zip(row[1:], expected):
            assert np.array_equal(cell.image, overlay(PIXELS, heat, "viridis", grey=method.signed))
    end = "the maximum over a method's heatmaps" if shared else "its own maximum"
    assert all(end in scale.label for scale in asked[0]["scales"])


def test_every_row_has_a_scale(tmp_path, asked):
    for methods in ((LRP, ROLLOUT, CP_LRP), (CP_LRP,), (LRP, ROLLOUT)):
        class_heatmaps(tmp_path / "p.png", PHOTO, rows(*methods), "dora")
    both, signed, unsigned = [one["scales"] for one in asked]
    assert [(one.colour_map, one.limits) for one in both] == [("inferno", ("0", "max")), ("RdBu_r", ("against", "for"))]
    assert both[0].label == "lrp, rollout: relevance, each heatmap from 0 to its own maximum"
    assert both[1].label.startswith("cp_lrp: relevance against and for the class")
    assert [one.label for one in signed + unsigned] == [
        both[1].label.removeprefix("cp_lrp: "),
        "relevance, each heatmap from 0 to its own maximum",
    ]


def test_a_map_of_nothing_says_so(tmp_path, asked):
    class_heatmaps(tmp_path / "p.png", PHOTO, [MethodRow(LRP, 0 * heats(2), [True, False])], "dora")
    assert [cell.caption for cell in asked[0]["rows"][0][1:]] == ["red 70.0 %\n(the map is 0)", "blue 30.0 %"]


def test_captions_of_probabilities():
    names, probability = ["a", "b", "c"], np.array([0.2, 0.5, 0.3])
    assert probability_caption("a", 0.2) == "a 20.0 %"
    assert most_probable_caption(names, probability) == "top 3:\nb 50.0 %\nc 30.0 %\na 20.0 %"
    assert most_probable_caption(names, probability, most=2) == "top 2:\nb 50.0 %\nc 30.0 %"


# ---- by block and head


def head_heats() -> HeadHeats:
    heads = np.random.default_rng(2).normal(size=(3, 2, 32, 32)) * 10.0 ** np.arange(3)[:, None, None, None]
    return HeadHeats(heats(1)[0], heads, heads.sum(1), np.array([0.1, 0.2, 0.7]), ["0", "1", "pool"])


@pytest.mark.parametrize("method", [LRP, CP_LRP])
def test_heads_of_a_block_share_a_scale_and_all_heads_have_their_own(tmp_path, asked, method):
    given = head_heats()
    head_heatmaps(tmp_path / "h.png", PHOTO, 1, method, given, "dora", not method.signed, "A note.")
    (found,) = asked
    colours = "RdBu_r" if method.signed else "inferno"

    def over_grey(heat):
        return overlay(PIXELS, heat, colours, 0.75, grey=True)

    assert found["cells"].shape == (3, 3, 32, 32, 3) and found["blocks"] == ["0", "1", "pool"]
    for block in range(3):
        scaled = normalise(given.heads[block], shared=0, signed=method.signed)
        assert np.array_equal(found["cells"][block, :2], [over_grey(heat) for heat in scaled])
        alone = normalise(given.all_heads[block], signed=method.signed)
        assert np.array_equal(found["cells"][block, 2], over_grey(alone))
    image, whole = found["preview"]
    assert np.array_equal(image.image, PIXELS) and whole.caption == "the whole map\nblue 30.0 %"
    assert np.array_equal(whole.image, over_grey(normalise(given.whole, signed=method.signed)))
    verb = "carries away" if method.signed else "adds to the map"
    assert verb in found["title"] and found["title"].endswith(f"for blue: {method.label}, dora, red/00.png")
    assert found["scale"].label.startswith("relevance against" if method.signed else "relevance, each block's heads")
    assert found["footnote"].startswith("A note. Colours show where within a block")


def test_heads_of_a_method_that_knows_no_class(tmp_path, drawn):
    head_heatmaps(tmp_path / "h.png", PHOTO, 0, ROLLOUT, head_heats(), "dora", True, "A note.")
    words = words_of(drawn[0])
    assert "What each head adds to the map for every class: rollout, dora, red/00.png" in words
    assert "the whole map every class" in words and "red 70.0" not in words
