"""report.figures.layers: shares against the slow formula, pictures that say what they show, and what is refused."""

import matplotlib
import numpy as np
import pytest
from PIL import Image
from texts import check_texts

from evaluation.statistics.paired import single
from report.figures.grid import Cell, Scale
from report.figures.layers import ALL, LayerMeans, head_matrix, layer_means, layer_profiles, layer_rows

TARGETS = ("true class", "unused or random class")
VARIANT = "dora:blocks=9,targets=fc1,rank=4,alpha=8"


def some_shares(layers: int = 3, heads: int = 2, images: int = 6, seed: int = 0) -> np.ndarray:
    """Shares (N, 2, L, h) that sum to 1 over layers and heads."""
    parts = np.random.default_rng(seed).gamma(0.5, 1, (images, 2, layers, heads))
    return parts / parts.sum((-2, -1), keepdims=True)


def names(layers: int) -> list[str]:
    return [str(i) for i in range(layers)]


def means_of(label: str, layers: int = 3, heads: int = 2, seed: int = 0) -> LayerMeans:
    """Some means, with intervals made up: the real ones take a second for a large model."""
    shares = some_shares(layers, heads, seed=seed).mean(0)
    by_block, by_head = (np.stack([mean, 0.8 * mean, 1.3 * mean], axis=-1) for mean in (shares.sum(-1), shares))
    return LayerMeans(label, tuple(names(layers)), by_block, by_head, images=6)


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


# ---- statistics


def test_means_are_the_slow_formulas():
    shares = some_shares()
    found = layer_means("run", names(3), shares)
    assert found.by_block.shape == (2, 3, 3) and found.by_head.shape == (2, 3, 2, 3) and found.images == 6
    for target in range(2):
        for block in range(3):
            values = [sum(shares[i, target, block, head] for head in range(2)) for i in range(6)]
            expected = single(values)
            assert np.allclose(found.by_block[target, block], [expected.mean, expected.low, expected.high])
            for head in range(2):
                expected = single([shares[i, target, block, head] for i in range(6)])
                assert np.allclose(found.by_head[target, block, head], [expected.mean, expected.low, expected.high])
    assert np.allclose(found.by_block[..., 0].sum(1), 1)


def test_an_image_without_relevance_is_left_out_and_one_image_has_no_interval():
    shares = some_shares()
    missing = np.concatenate([shares, np.full((1, 2, 3, 2), np.nan)])
    assert np.allclose(layer_means("r", names(3), missing).by_head, layer_means("r", names(3), shares).by_head)
    alone = layer_means("r", names(3), shares[:1])
    assert np.allclose(alone.by_head[..., 0], shares[0]) and np.isnan(alone.by_head[..., 1:]).all()


def test_rows_are_tidy():
    run = means_of("run")
    rows = layer_rows([run, means_of("other", seed=1)], ("true", "other"))
    assert len(rows) == 2 * 2 * 3 * (2 + 1)
    share, low, high = run.by_block[0, 0]
    assert rows[0] == {
        "run": "run",
        "target": "true",
        "block": "0",
        "head": ALL,
        "images": 6,
        "share": share,
        "low": low,
        "high": high,
    }
    (wanted,) = [row for row in rows if list(row.values())[:4] == ["run", "other", "2", 1]]
    assert [wanted["share"], wanted["low"], wanted["high"]] == run.by_head[1, 2, 1].tolist()


@pytest.mark.parametrize("shares", [some_shares(4), some_shares()[0]])
def test_shares_and_blocks_must_agree(shares):
    with pytest.raises(ValueError, match=r"with 3 names of blocks; expected \(images, targets, 3, heads\)"):
        layer_means("run", names(3), shares)


# ---- the figure of several runs


@pytest.mark.parametrize(
    "layers, heads, labels",
    [(12, 12, ("linear", VARIANT)), (24, 16, ("linear", "full", VARIANT)), (1, 1, ("linear", "dora"))],
)
def test_profiles_clip_nothing_and_overlap_nothing(tmp_path, drawn, layers, heads, labels):
    runs = [means_of(label, layers, heads, seed) for seed, label in enumerate(labels)]
    difference = means_of(f"{labels[-1]} minus {labels[0]}", layers, heads)
    layer_profiles(
        tmp_path / "layers.png",
        runs,
        difference,
        TARGETS,
        "Where in the network relevance arises: " * 3,
        "Heads correspond by number. " * 9,
    )
    words = "".join("".join(text.get_text().split()) for text in check_texts(drawn[0]))  # wherever lines were broken
    for said in (*labels, *TARGETS, "percentage points", "share of all heads' relevance", "95 %"):
        assert "".join(said.split()) in words


def test_matrices_show_the_means_and_dots_what_is_told_apart_from_zero(tmp_path, drawn):
    runs = [means_of("linear"), means_of("dora", seed=1)]
    differences = np.zeros((6, 2, 3, 2))
    differences[:, 0, 2, 1] = 0.02 + 0.001 * np.arange(6)  # each image says so
    differences[:, 1, 0, 0] = (-0.3, 0.2, -0.1, 0.1, -0.2, 0.3)  # nothing to tell
    layer_profiles(tmp_path / "layers.png", runs, layer_means("dora minus linear", names(3), differences), TARGETS, "t")
    heats = [axes for axes in drawn[0].axes if axes.get_ylabel() == "block"]
    assert [axes.images[0].get_array().shape for axes in heats] == [(3, 2)] * 6
    shown = [axes.images[0] for axes in heats]
    assert np.allclose(shown[0].get_array(), 100 * runs[0].by_head[0, ..., 0])
    assert np.allclose(shown[4].get_array(), 100 * runs[1].by_head[1, ..., 0])
    largest = 100 * max(run.by_head[..., 0].max() for run in runs)
    assert all(np.allclose(shown[i].get_clim(), (0, largest)) for i in (0, 1, 3, 4)), "runs and targets share a scale"
    assert all(np.allclose(shown[i].get_clim(), (-2.25, 2.25)) for i in (2, 5)), "symmetric about zero"
    dots = [axes.collections[0].get_offsets().tolist() for axes in (heats[2], heats[5])]
    assert dots == [[[1, 2]], []]


@pytest.mark.parametrize("largest, ends", [(0.0, "1"), (1.0, "100"), (0.0225, "2.2"), (0.0004, "0.04")])
def test_the_scale_of_differences_is_read_in_points(tmp_path, drawn, largest, ends):
    """Also where nothing differs, and where all does."""
    differences = np.zeros((6, 2, 3, 2))
    differences[:, 0, 2, 1] = largest
    run = means_of("linear")
    layer_profiles(tmp_path / "layers.png", [run, run], layer_means("x minus x", names(3), differences), TARGETS, "t")
    words = [text.get_text() for text in check_texts(drawn[0])]
    assert f"\N{MINUS SIGN}{ends}" in words and f"+{ends}" in words


def test_runs_of_other_depths_share_an_axis_and_have_no_difference(tmp_path, drawn):
    deep = layer_means("deep", names(6), some_shares(6))
    pooled = layer_means("pooled", [*names(2), "pool"], some_shares(3))
    layer_profiles(tmp_path / "layers.png", [deep, pooled], None, TARGETS, "t")
    check_texts(drawn[0])
    profile = next(axes for axes in drawn[0].axes if axes.get_xlabel() == "block")
    assert [label.get_text() for label in profile.get_xticklabels()] == [*names(6), "pool"]
    line = profile.lines[1].get_ydata()
    shares = 100 * pooled.by_block[0, :, 0]
    assert np.allclose(line, [*shares[:2], *[np.nan] * 4, shares[2]], equal_nan=True)


def test_nothing_but_nan_is_drawn_as_nothing(tmp_path, drawn):
    nothing = layer_means("linear", names(3), np.full((2, 2, 3, 2), np.nan))
    layer_profiles(tmp_path / "layers.png", [nothing, nothing], nothing, TARGETS, "t")
    check_texts(drawn[0])


def test_the_same_shares_give_the_same_bytes(tmp_path):
    for name in "ab":
        layer_profiles(tmp_path / name, [means_of("x"), means_of("y", seed=1)], means_of("y minus x"), TARGETS, "t")
        matrix(tmp_path / f"m{name}")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "ma").read_bytes() == (tmp_path / "mb").read_bytes()


# ---- the matrix of one image


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
