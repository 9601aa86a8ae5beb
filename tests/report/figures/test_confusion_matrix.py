"""report.figures.confusion_matrix: every image is in its cell, names and numbers are legible, nothing is clipped."""

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from texts import check_texts

from report.figures import canvas
from report.figures import confusion_matrix as module
from report.figures.confusion_matrix import ERRORS, NO_IMAGE, NOTHING, RIGHT, confusion_matrix

LONG = (
    "figure skating women",
    "wheelchair basketball",
    "Donaudampfschifffahrtsgesellschaft polo",
    "horse racing, $5",
    "a class whose name says far more than any name of a class ever should, for whatever reason",
    "golf",
)
TITLE = "dora:blocks=9,targets=fc1,rank=4,alpha=8 on sports, validation: 93.4 % of 500 images"


def predictions(classes: int, each: int = 5, right: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Some predictions, wrong ones mostly among neighbours."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    shift = 1 + generator.geometric(0.4, len(labels)) % max(1, classes - 1)
    return labels, np.where(generator.random(len(labels)) < right, labels, (labels + shift) % classes)


def names(count: int) -> list[str]:
    return [LONG[i] if i < len(LONG) else f"sport number {i}" for i in range(count)]


def corner(figure) -> tuple[float, float]:
    """Left and top of the matrix, pixels of the PNG."""
    box = max((axes.get_window_extent() for axes in figure.axes), key=lambda box: box.height)
    return box.x0, figure.canvas.get_width_height()[1] - box.y1


def cells(figure, count: int) -> tuple[list[list[str]], float]:
    """The texts in each cell, and the side of a cell in pixels."""
    box = max((axes.get_window_extent() for axes in figure.axes), key=lambda box: box.height)
    side, found = (box.height - 1) / count, [["" for _ in range(count)] for _ in range(count)]
    with matplotlib.rc_context(canvas.STYLE):
        for text in figure.texts:
            extent = text.get_window_extent(figure.canvas.get_renderer())
            x, y = (extent.x0 + extent.x1) / 2 - box.x0, box.y1 - (extent.y0 + extent.y1) / 2
            if 0 < x < box.width and 0 < y < box.height:
                assert extent.width <= side - 2, "a number is wider than its cell"
                row, column = int(y / side), int(x / side)
                found[row][column] = f"{found[row][column]} {text.get_text()}".strip()
    return found, side


@pytest.mark.parametrize(
    "count, each, right", [(3, 30, 0.9), (6, 12000, 0.5), (15, 25, 0.85), (30, 4, 0.9), (60, 8, 0.93)]
)
def test_every_name_and_number_is_there_and_nothing_is_clipped_or_overlaps(tmp_path, drawn, count, each, right):
    labels, predicted = predictions(count, each, right)
    confusion_matrix(tmp_path / "c.png", labels, predicted, names(count), TITLE)
    texts = check_texts(drawn[0])
    found, side = cells(drawn[0], count)
    for row in range(count):
        for column in range(count):
            images = int(((labels == row) & (predicted == column)).sum())
            expected = str(images) if images or row == column else ""
            if expected and side >= module.PERCENT_FROM:
                expected += f" {100 * images / each:.1f} %"
            assert found[row][column] == expected
    across, upright = ("".join(t.get_text() for t in texts if t.get_rotation() == angle) for angle in (0, 90))
    for name in names(count):
        squeezed = "".join(name.split())
        for said in (across, upright):
            assert "".join(said.split()).count(squeezed) >= 1 + (count > module.NAMED_ON_BOTH_SIDES)
    assert min(text.get_fontsize() for text in texts) >= 7.5
    assert Image.open(tmp_path / "c.png").size == drawn[0].canvas.get_width_height()


def test_colours_are_shares_of_the_true_class_on_two_stated_scales(tmp_path, drawn):
    """a: 2 of 4 right, one taken for b and one for c; b: 1 of 10 for a; c has no image; d is never recognised."""
    labels = np.array([0] * 4 + [1] * 10 + [3] * 2)
    predicted = np.array([0, 0, 1, 2] + [0] + [1] * 9 + [2] * 2)
    confusion_matrix(tmp_path / "c.png", labels, predicted, list("abcd"), "t")
    words = " ".join(text.get_text() for text in drawn[0].texts)
    assert "16 images, 5 of them" in words and "A grey row: no image of that class" in words
    assert "above 0 % 100.0\N{NO-BREAK SPACE}%" not in words and "100.0 %" in words  # d, always taken for c
    shown = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).astype(float) / 255
    left, top = corner(drawn[0])
    side = cells(drawn[0], 4)[1]
    expected = [
        [RIGHT(0.5), ERRORS(0.25), ERRORS(0.25), NOTHING],
        [ERRORS(0.1), RIGHT(0.9), NOTHING, NOTHING],
        [NO_IMAGE] * 4,
        [NOTHING, NOTHING, ERRORS(1.0), RIGHT(0.0)],
    ]
    for row, colours in enumerate(expected):
        for column, colour in enumerate(colours):
            pixel = shown[round(top + row * side + 6), round(left + column * side + 6)]
            assert pixel == pytest.approx(to_rgb(colour), abs=0.005), (row, column)


def test_the_faintest_error_is_louder_than_the_diagonal():
    def luminance(colour):
        return np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722))

    def colourfulness(colour):
        return max(to_rgb(colour)) - min(to_rgb(colour))

    assert colourfulness(ERRORS(0.0)) > 0.2 > colourfulness(NOTHING)
    assert all(colourfulness(ERRORS(t)) > colourfulness(RIGHT(1.0)) for t in np.linspace(0.05, 1, 20))
    assert luminance(RIGHT(1.0)) > 0.7 and luminance(ERRORS(1.0)) < 0.3


def test_of_too_many_classes_those_confused_most_are_drawn(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(module, "MOST_CLASSES", 3)
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    predicted = np.array([0, 3, 1, 1, 2, 4, 3, 0, 4, 3])  # errors: 0-3 twice, 4-3, 2-4; part: 0: 2, 2: 1, 3: 3, 4: 2
    confusion_matrix(tmp_path / "c.png", labels, predicted, ["zero", "one", "two", "three", "four"], "t")
    words = " ".join(text.get_text() for text in check_texts(drawn[0]))
    assert "Of 5 classes the 3 are drawn that take part in most errors (errors without a cell: 1)" in words
    assert "one" not in words.split() and "two" not in words.split()
    found, _ = cells(drawn[0], 3)
    assert found == [["1 50.0 %", "1 50.0 %", ""], ["1 50.0 %", "1 50.0 %", ""], ["", "1 50.0 %", "1 50.0 %"]]


def test_a_share_counts_images_that_went_to_classes_not_drawn(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(module, "MOST_CLASSES", 2)
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([1, 1, 2, 0, 0, 0, 2])
    confusion_matrix(tmp_path / "c.png", labels, predicted, list("abc"), "t")
    assert cells(drawn[0], 2)[0] == [["1 25.0 %", "2 50.0 %"], ["2 100.0 %", "0 0.0 %"]]


def test_without_errors_there_is_one_scale_and_one_class_is_drawn_too(tmp_path, drawn):
    confusion_matrix(tmp_path / "a.png", np.arange(4), np.arange(4), list("abcd"), "t")
    confusion_matrix(tmp_path / "b.png", np.zeros(3, int), np.zeros(3, int), ["only"], "t")
    for figure in drawn:
        words = " ".join(text.get_text() for text in check_texts(figure))
        assert "share of the true class's images" in words and "taken for another class, share" not in words


def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path):
    for labels, predicted, words in (
        ([], [], "at least one"),
        ([0, 1], [0], r"\(2,\) and \(1,\)"),
        ([0, 2], [0, 1], "0 to 1"),
    ):
        with pytest.raises(ValueError, match=f"confusion_matrix: .*{words}"):
            confusion_matrix(tmp_path / "c.png", np.array(labels, int), np.array(predicted, int), ["a", "b"], "t")
    assert not list(tmp_path.iterdir())


def test_the_same_content_gives_the_same_bytes_whatever_the_users_settings(tmp_path):
    confusion_matrix(tmp_path / "a.png", *predictions(12), names(12), TITLE)
    users = {"font.size": 20, "image.interpolation": "bicubic", "savefig.dpi": 50, "image.cmap": "jet"}
    with matplotlib.rc_context(users):
        confusion_matrix(tmp_path / "b.png", *predictions(12), names(12), TITLE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
