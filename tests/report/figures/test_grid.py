"""report.figures.grid: pictures of the promised size, the same bytes twice, and no text clipped or over another."""

import matplotlib
import numpy as np
import pytest
from PIL import Image
from texts import check_texts

from report.figures import canvas
from report.figures.canvas import CORRECT, PALETTE, font, text_width, wrap
from report.figures.grid import Cell, Scale, grid

LONG = ("figure skating women", "wheelchair basketball", "snowmobile racing", "Donaudampfschifffahrtsgesellschaft polo")
VARIANT = "dora:blocks=9,targets=fc1,rank=4,alpha=8"


def picture(value: int = 90, height: int = 96, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def comparison(runs: int, count: int) -> dict:
    captions = [f"{name}: {p}" for name, p in zip(LONG, ("97.3 %", "0.02 %", "100.0 %", "< 0.01 %"))]
    rows = []
    for i in range(count):
        maps = [Cell(picture(), "", captions[(i + j) % 4], CORRECT) for j in range(2 * runs)]
        rows.append([Cell(picture(), "", LONG[i % 4]), *maps])
    heads = ("linear · accuracy 87.2 %", f"{VARIANT} · accuracy 92.4 %", "full · accuracy 93.0 %")
    return dict(
        rows=rows,
        headers=[("photo", 1)] + [(head, 2) for head in heads[:runs]],
        subheaders=["true class"] + ["true class", "random other class"] * runs,
        title="What does fine-tuning do to what a vision transformer looks at?",
        footnote="A blue frame: the true class is predicted. " * 6,
    )


@pytest.mark.parametrize("runs, count, cell", [(2, 8, 224), (3, 3, 224), (1, 1, 120)])
def test_grid_clips_nothing_and_overlaps_nothing(tmp_path, drawn, runs, count, cell):
    grid(tmp_path / "grid.png", **comparison(runs, count), cell_pixels=cell)
    texts = check_texts(drawn[0])
    images = [axes.get_window_extent() for axes in drawn[0].axes]
    with matplotlib.rc_context(canvas.STYLE):
        for text in texts:
            box = text.get_window_extent(drawn[0].canvas.get_renderer())
            # 4.5: half an em of slack for the box; letters themselves start 6 pixels from an image.
            assert not any(
                min(box.x1, i.x1) > max(box.x0, i.x0) and min(box.y1, i.y1) - max(box.y0, i.y0) > 4.5 for i in images
            ), text
    words = " ".join(text.get_text() for text in texts)
    assert "relevance, per heatmap: 0 to its maximum" in words.replace("\n", " ")
    assert all(name.split()[0] in words for name in LONG[: min(count, 3)])


@pytest.mark.parametrize("columns", [2, 5])
def test_grid_has_a_bar_for_each_scale(tmp_path, drawn, columns):
    """Beside its own words, or above them where the picture is narrow."""
    scales = [
        Scale("inferno", "lrp: relevance, each heatmap from 0 to its own maximum", ("0", "max")),
        Scale(
            "RdBu_r",
            "cp_lrp, lrp_depth: relevance against and for the class, each scaled by its own maximum",
            ("against", "for"),
        ),
    ]
    grid(tmp_path / "g.png", [[Cell(picture())] * columns], [("", columns)], [""] * columns, "t", scales)
    words = "".join("".join(text.get_text().split()) for text in check_texts(drawn[0]))
    assert all("".join(scale.label.split()) in words for scale in scales) and {"0", "max", "against", "for"} <= {
        text.get_text() for text in drawn[0].texts
    }
    bars = [axes for axes in drawn[0].axes if axes.images[0].get_array().shape[0] == 1]
    assert [bar.images[0].get_array()[0, -1].tolist() for bar in bars] == [
        list(matplotlib.colormaps[scale.colour_map](1.0, bytes=True)[:3]) for scale in scales
    ]
    first, second = [bar.get_window_extent() for bar in bars]
    assert first.y0 > second.y1 and first.x0 == second.x0 and first.width == second.width


def test_grid_has_the_size_of_its_cells_and_shows_a_fitting_image_pixel_for_pixel(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    grid(tmp_path / "g.png", [[Cell(noise), Cell(picture())]], [("", 1), ("run", 1)], ["", ""], "t", cell_pixels=64)
    shown = np.asarray(Image.open(tmp_path / "g.png").convert("RGB"))
    assert shown.shape[1] == 24 + 64 + 34 + 64 + 24
    tops = [y for y in range(shown.shape[0] - 64) if np.array_equal(shown[y : y + 64, 24 : 24 + 64], noise)]
    assert len(tops) == 1


def test_grid_keeps_the_shape_of_an_image_and_leaves_empty_places(tmp_path):
    rows = [[Cell(picture(0, 20, 40)), None], [Cell(picture(0, 300, 200)), Cell(picture(0))]]
    grid(tmp_path / "g.png", rows, [("", 2)], ["", ""], "t", cell_pixels=100)
    dark = (np.asarray(Image.open(tmp_path / "g.png").convert("L"))[110:] == 0).sum()
    assert dark == pytest.approx(100 * 50 + 100 * 67 + 100 * 100, abs=500)


def test_grid_frame_surrounds_the_image_and_hides_none_of_it(tmp_path):
    grid(tmp_path / "g.png", [[Cell(picture(90), colour="#ff0000")]], [("", 1)], [""], "t", cell_pixels=96)
    shown = np.asarray(Image.open(tmp_path / "g.png").convert("RGB")).astype(int)
    assert ((shown == 90).all(axis=2)).sum() >= 96 * 96
    red = (shown[..., 0] > 200) & (shown[..., 1] < 60) & (shown[..., 2] < 60)
    assert red[:, 22].sum() > 90 and red[:, 24 + 96 + 1].sum() > 90


def test_grid_refuses_what_does_not_fit(tmp_path):
    good = dict(rows=[[Cell(picture())]], headers=[("a", 1)], subheaders=["b"], title="t")
    for wrong, message in (
        (dict(headers=[("a", 2)]), "same number of columns"),
        (dict(rows=[[Cell(picture()), None]]), "same number of columns"),
        (dict(rows=[]), "at least one row"),
        (dict(rows=[[Cell(picture().astype(float))]]), "uint8"),
        (dict(cell_pixels=70_000), "fewer rows"),
    ):
        with pytest.raises(ValueError, match=message):
            grid(tmp_path / "g.png", **{**good, **wrong})
    assert not list(tmp_path.iterdir())


def test_the_same_content_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    def draw(folder):
        grid(folder / "grid.png", **comparison(2, 2))
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    first = draw(tmp_path / "a")
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "savefig.dpi": 50, "figure.dpi": 300}):
        assert draw(tmp_path / "b") == first
    assert len(first) == 1 and dict(matplotlib.rcParams) == before
    assert b"matplotlib" not in first["grid.png"].lower()


def test_wrap_keeps_every_letter_and_never_exceeds_the_width():
    properties = font(10.5)
    for width in (30, 90, 224):
        for text in (*LONG, "wheelchair basketball: 97.3 %", "two\nlines", ""):
            lines = wrap(text, width, properties)
            assert all(text_width(line, properties) <= width for line in lines)
            assert "".join("".join(lines).split()) == "".join(text.split())
    assert wrap("wheelchair basketball: 97.3 %", 224, properties)[-1] == "97.3\N{NO-BREAK SPACE}%"
    assert wrap(VARIANT, 180, properties) == ["dora:blocks=9,", "targets=fc1,rank=4,", "alpha=8"]
    assert len(set(PALETTE)) == 7
