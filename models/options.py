"""Which pretrained model a command starts from. Imports no torch."""

from dataclasses import dataclass

BUNDLED = "bundled"


@dataclass(frozen=True)
class BackboneSpec:
    """A pretrained backbone.

    name: `bundled` or a timm name.
    weights: path of a local weights file; None takes the model hub's.
    image_size: side of the square input in pixels; None takes the model's own.
    """

    name: str = BUNDLED
    weights: str | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class ExternalOptions:
    """What the user says about models that `train.py` did not write and that do not say it themselves.

    model: timm name of a merged file's architecture, or of a peft folder's base.
    weights: path of the backbone's file, for runs, timm names and peft folders.
    image_size: side of the square input in pixels.
    class_names: path of a file with the class names in the order of the head's outputs.
    """

    model: str | None = None
    weights: str | None = None
    image_size: int | None = None
    class_names: str | None = None
