"""Give the tests of figures every figure that was drawn."""

from drawn_figures import drawn

__all__ = ["drawn"]
