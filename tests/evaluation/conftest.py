"""Give the tests of this folder a small random ViT, images, targets, and every figure that was drawn."""

from drawn_figures import drawn
from vit_fixtures import images, targets, vit

__all__ = ["drawn", "images", "targets", "vit"]
