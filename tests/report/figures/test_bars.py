"""report.figures.bars: every mean with its interval is drawn, and no text is clipped or over another."""

import matplotlib
import pytest
from texts import check_texts

from report.figures.bars import bars

VARIANT = "dora:blocks=9,targets=fc1,rank=4,alpha=8"


def regions(count: int) -> dict:
    names = [f"{where}, {split}" for split in ("val", "val_shuffled") for where in ("evidence", "players", "surface")]
    return {
        name: {run: (1.2 + i / 9, 1.0, 1.5 + i / 9) for i, run in enumerate(("linear", VARIANT, "full $5 $6"))}
        for name in names[:count]
    }


@pytest.mark.parametrize("count, reference", [(6, 1.0), (2, None), (1, 1.0)])
def test_bars_draw_every_series_with_its_interval(tmp_path, drawn, count, reference):
    bars(tmp_path / "bars.png", "Relevance by region against its share of the area", regions(count), "ratio", reference)
    texts = {text.get_text() for text in check_texts(drawn[0])}
    assert {"linear", VARIANT, "ratio"} <= texts and ("area share" in texts) == (reference is not None)
    assert len(drawn[0].axes[0].containers) >= 3


def test_bars_leave_out_what_is_missing(tmp_path):
    groups = {"a": {"x": (1.0, 0.5, 1.5)}, "b": {"y": (2.0, float("nan"), float("nan"))}, "c": {}}
    bars(tmp_path / "bars.png", "t", groups, "share", 1.0)
    with pytest.raises(ValueError, match="at least one group"):
        bars(tmp_path / "none.png", "t", {}, "share", 1.0)


def test_the_same_content_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    bars(tmp_path / "a.png", "t", regions(3), "ratio", 1.0)
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "savefig.dpi": 50, "lines.markersize": 20}):
        bars(tmp_path / "b.png", "t", regions(3), "ratio", 1.0)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
