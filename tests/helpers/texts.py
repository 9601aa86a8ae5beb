"""Checks of the texts in a figure."""

from itertools import combinations

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

from report.figures import canvas


def check_texts(figure: Figure) -> list[Text]:
    """Check that all texts lie inside the figure and none touches another; return them."""
    with matplotlib.rc_context(canvas.STYLE):
        renderer = figure.canvas.get_renderer()
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        texts = [text for text in texts if text not in out_of_view(figure)]
        boxes = [text.get_window_extent(renderer) for text in texts]
    width, height = figure.canvas.get_width_height()
    for text, box in zip(texts, boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
    for (one, box), (other, second) in combinations(zip(texts, boxes), 2):
        across = min(box.x1, second.x1) - max(box.x0, second.x0)
        down = min(box.y1, second.y1) - max(box.y0, second.y0)
        # Boxes hold the letters' full height, so lines of one paragraph may share a pixel.
        assert across <= 0 or down <= 2, (one, other)
    return texts


def words_of(figure) -> str:
    """Return all texts of a figure, each whole, wherever its lines were broken."""
    return " ".join(text.get_text() for text in check_texts(figure)).replace("\n", " ").replace("\\$", "$")


def out_of_view(figure: Figure) -> list[Text]:
    """Return labels of ticks beyond the ends of an axis: matplotlib keeps them and does not draw them."""
    labels = []
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        labels += [tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
    return labels
