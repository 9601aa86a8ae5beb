"""Shared by the tests of figures."""

import pytest
from matplotlib.figure import Figure

from report.figures import canvas


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Every figure that was drawn, to ask where its texts ended up."""
    figures: list[Figure] = []

    def recorded(*args, **settings):
        figures.append(Figure(*args, **settings))
        return figures[-1]

    monkeypatch.setattr(canvas, "Figure", recorded)
    return figures
