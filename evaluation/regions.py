"""Where the positive relevance of images with masks lies: on the evidence, and on the other regions that are known."""

from typing import Any

import numpy as np

from data.datasets import Split
from data.transforms import prepared_masks

REGIONS = ("evidence", "players", "people and the ball", "surface", "distractor")


def regions_of(split: Split, index: int, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the regions of an image as a model sees them.

    split, index: the image.
    config: the model's data config.
    Returns name (of REGIONS) -> mask (H, W) bool, for the regions that are known and not empty.
    """
    masks = prepared_masks(split.masks(index) or {}, config)
    if "players" in masks:
        masks["people and the ball"] = masks["players"] | masks["evidence"]
    return {region: masks[region] for region in REGIONS if region in masks and masks[region].any()}
