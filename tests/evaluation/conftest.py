"""Give the tests of this folder a small random ViT, images and targets."""

from vit_fixtures import images, targets, vit

__all__ = ["images", "targets", "vit"]
