"""Load the data that a command asks for, and print what is odd about it."""

from pathlib import Path

from common.console import warn
from data.datasets import ImageData, load_data
from data.options import DataOptions
from data.transforms import drawing_size
from models.backbone import data_config
from models.options import BackboneSpec


def load_for(options: DataOptions, backbone: BackboneSpec, cache: Path | None) -> ImageData:
    """Load and check a data set at the size that a backbone's data config asks for; print its warnings.

    cache: folder that keeps the checks of image files; None checks every file.
    """
    data = load_data(options, image_size=drawing_size(data_config(backbone)), progress=True, cache=cache)
    for warning in data.warnings:
        warn(warning)
    return data
