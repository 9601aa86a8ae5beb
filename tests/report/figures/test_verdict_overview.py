"""report.figures.verdict_overview: a panel per claim, a row per name, and no text is clipped or over another."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image
from texts import words_of

from report.figures.canvas import PALETTE, QUIET
from report.figures.verdict_overview import CLAIMED, Panel, Verdict, verdict_overview


def verdict(word: str, side: str | None, difference: float, seeds: int = 1) -> Verdict:
    each = tuple(difference + 0.01 * seed for seed in range(seeds))
    facts = (
        f"{difference:+.3f} [a, b] Spearman, 60 images",
        "smallest detectable: 0.028" if side == "undecided" else "",
    )
    return Verdict(difference, difference - 0.05, difference + 0.05, each, word, side, facts)


@pytest.mark.parametrize("seeds", [1, 5])
def test_a_panel_a_claim_and_a_row_a_name(tmp_path, drawn, seeds):
    panels = [
        Panel(
            "(a) similarity of the maps of the true and of other classes (Spearman) " * 2,
            "Spearman",
            1,
            {
                "drawn scenes, val": verdict("supported across seeds", "claimed", 0.1, seeds),
                "a folder of photographs with a long name, $1": verdict("undecided", "undecided", 0.0, seeds),
                "others": verdict("not judged", None, -0.2, seeds),
            },
        ),
        Panel("(d) accuracy", "points", -1, {"scenes": verdict("contradicted for these images", "reverse", 20, seeds)}),
    ]
    verdict_overview(tmp_path / "v.png", panels, "What was claimed, on several data sets " * 3, "A note.")
    words = words_of(drawn[0])
    for said in ("supported across seeds", "contradicted for these images", "undecided", "not judged", "A note."):
        assert said in words
    assert "smallest detectable" in words and "a folder of" in words and "$1" in words
    assert "first less second method of the row (points)" in words
    first, second = drawn[0].axes
    for axes, panel in zip((first, second), panels):
        rows = list(panel.rows.values())
        dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
        assert np.array(dots) == pytest.approx(np.array([row.seeds for row in rows]))
        bars = [line for line in axes.lines if line.get_linewidth() == 7]
        assert np.array([line.get_xdata() for line in bars]) == pytest.approx(
            np.array([(row.low, row.high) for row in rows])
        )
        colours = {"claimed": PALETTE[2], "reverse": PALETTE[1], "undecided": QUIET, None: QUIET}
        assert [line.get_color() for line in bars] == [colours[row.side] for row in rows]
    sides = [
        next(patch for patch in axes.patches if patch.get_facecolor() == to_rgba(CLAIMED)) for axes in (first, second)
    ]
    assert sides[0].get_x() == 0 < sides[0].get_width() and sides[1].get_x() + sides[1].get_width() <= 0


def test_a_long_verdict_is_wrapped(tmp_path, drawn):
    verdict_overview(tmp_path / "v.png", [Panel("h", "", 1, {"s": verdict("word " * 20, "claimed", 0.1)})], "t")
    assert words_of(drawn[0]).count("word") == 20


def test_no_difference_and_no_interval_are_drawn(tmp_path, drawn):
    nan = float("nan")
    rows = {"a": Verdict(0.0, 0.0, 0.0, (0.0, 0.0), "undecided"), "b": Verdict(nan, nan, nan, (nan,), "undecided")}
    verdict_overview(tmp_path / "v.png", [Panel("h", "", 1, rows)], "t")
    assert words_of(drawn[0]).count("undecided") == 2


def test_the_overview_needs_a_claim(tmp_path):
    with pytest.raises(ValueError, match="at least one claim"):
        verdict_overview(tmp_path / "v.png", [], "t")


def test_the_same_content_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    def draw(path):
        verdict_overview(path, [Panel("h", "", 1, {"s": verdict("supported", "claimed", 0.1)})], "t")
        return path.read_bytes()

    first = draw(tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "boxplot.notch": True, "lines.markersize": 20}):
        assert draw(tmp_path / "b.png") == first
    assert Image.open(tmp_path / "a.png").size[0] == 1100
