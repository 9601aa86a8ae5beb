"""A fixture for the tests of figures."""

import pytest
from matplotlib.figure import Figure

from report.figures import canvas


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Return a list that every figure drawn in the test is added to."""
    figures: list[Figure] = []

    def recorded(*args, **settings):
        figures.append(Figure(*args, **settings))
        return figures[-1]

    monkeypatch.setattr(canvas, "Figure", recorded)
    return figures
