"""report.figures.head_matrix: cells, shares and names stand where they belong, and nothing is clipped."""

import matplotlib
import numpy as np
import pytest
from PIL import Image
from texts import check_texts

from report.figures.grid import Cell, Scale
from report.figures.head_matrix import head_matrix


def names(layers: int) -> list[str]:
    return [str(i) for i in range(layers)]


def matrix(
    path, layers: int = 3, heads: int = 2, shape=(32, 32), shares=None, blocks=None, cells=None, title: str = "t"
) -> None:
    photo = np.full((*shape, 3), 90, np.uint8)
    cells = np.full((layers, heads + 1, *shape, 3), 120, np.uint8) if cells is None else cells
    shares = np.full(layers, 1 / layers) if shares is None else shares
    preview = [Cell(photo, caption="image"), Cell(photo, caption="the whole map\narchery 75.9 %")]
    head_matrix(
        path,
        preview,
        cells,
        shares,
        names(layers) if blocks is None else blocks,
        title,
        Scale("inferno", "relevance, each block's heads scaled by their maximum", (0, "max")),
        footnote="words " * 40,
    )


@pytest.mark.parametrize(
    "layers, heads, shape", [(12, 12, (32, 32)), (24, 16, (32, 32)), (1, 1, (32, 32)), (4, 3, (32, 64))]
)
def test_a_matrix_clips_nothing_and_overlaps_nothing(tmp_path, drawn, layers, heads, shape):
    blocks = [*names(layers - 1), "pool"]
    title = "What each head adds for wheelchair basketball"
    matrix(tmp_path / "m.png", layers, heads, shape, blocks=blocks, title=title)
    words = [text.get_text() for text in check_texts(drawn[0])]
    assert set(blocks) | {"head", "all", "block", "max"} <= set(words)
    assert words.count(f"{100 / layers:.1f} %") == layers


def test_a_cell_stands_in_its_blocks_row_and_its_heads_column(tmp_path):
    colours = np.array(
        [[(200, 10, 10), (10, 200, 10), (10, 10, 200)], [(200, 200, 10), (10, 200, 200), (200, 10, 200)]], np.uint8
    )
    cells = np.broadcast_to(colours[:, :, None, None], (2, 3, 64, 64, 3))
    matrix(tmp_path / "m.png", cells=cells, layers=2)
    shown = np.asarray(Image.open(tmp_path / "m.png").convert("RGB"))
    boxes = {}
    for place in np.ndindex(2, 3):
        y, x = np.nonzero((shown == colours[place]).all(-1))
        boxes[place] = y.min(), y.max(), x.min(), x.max()
        assert (np.ptp(y) + 1, np.ptp(x) + 1, len(y)) == (112, 112, 112 * 112), "a whole square of one size"
    for head in range(3):
        assert boxes[1, head][0] - boxes[0, head][1] == 5 and boxes[0, head][2:] == boxes[1, head][2:]
    assert boxes[0, 1][2] - boxes[0, 0][3] == 5 and boxes[0, 2][2] - boxes[0, 1][3] > 20, "all heads stand apart"


def test_bars_are_as_long_as_shares(tmp_path):
    matrix(tmp_path / "m.png", layers=3, shares=np.array([0.8, 0.2, np.nan]))
    shown = np.asarray(Image.open(tmp_path / "m.png").convert("RGB"))
    blue = (shown == tuple(round(255 * part) for part in matplotlib.colors.to_rgb("#0072B2"))).all(-1).sum(1)
    assert blue.max() == pytest.approx(84, abs=1)
    assert sorted(set(blue[blue > 0]))[0] == pytest.approx(21, abs=1)


def test_a_small_share_is_not_called_zero(tmp_path, drawn):
    matrix(tmp_path / "m.png", layers=3, shares=np.array([0.9999, 0.0001, 0.0]))
    words = [text.get_text() for text in drawn[0].texts]
    assert {"100.0 %", "< 0.1 %", "0.0 %"} <= set(words)


@pytest.mark.parametrize("wrong", [{"shares": np.ones(2)}, {"blocks": ["0"]}])
def test_a_matrix_needs_a_share_and_a_name_for_each_block(tmp_path, wrong):
    with pytest.raises(ValueError, match="3 rows of cells"):
        matrix(tmp_path / "m.png", **wrong)
    assert not list(tmp_path.iterdir())


def test_the_same_shares_give_the_same_bytes(tmp_path):
    matrix(tmp_path / "a.png"), matrix(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
