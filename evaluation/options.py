"""What is measured of runs, and how. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from explain.registry import COMPARISON_METHOD, RelevanceOptions

# Targets: the classes whose relevance is asked for.
TRUE, PREDICTED, RANDOM, RUNNER_UP, DISTRACTOR = "true", "predicted", "random", "runner-up", "distractor"
# What the second heatmap of a picture can show; AUTO is the distractor's class where an image has one, else RANDOM.
AUTO = "auto"
SECOND = (AUTO, RANDOM, RUNNER_UP)
IMPUTATIONS = ("mean", "blur", "linear")
# Groups of metrics, those of few passes first; `evaluation.measurements` holds their functions.
CHEAP = ("maps", "centred", "robustness")
MEASUREMENTS = (*CHEAP, "faithfulness", "grid_pointing", "randomisation", "interventions")
COSTLY = ("centred", "faithfulness", "grid_pointing", "randomisation")  # those of most passes
ORACLE = "oracle"  # in the place of a relevance method: a map that is made of the effects of interventions


@dataclass(frozen=True)
class MeasurementOptions:
    """What is measured of each run on a split.

    relevance: relevance methods; claims and pictures use the first.
    measurements: names of MEASUREMENTS, in their order; maps are always among them.
    images: images per split whose maps are measured; None takes all.
    metric_images: images for metrics that take more passes: robustness, faithfulness, grid pointing game, randomisation
        tests, depth.
    costly_for: the relevance methods that COSTLY groups of metrics are measured of: the first, or all.
    random_classes: random classes per image, beside the true one.
    imputations: what replaces removed patches, names of IMPUTATIONS; claims and pictures use the first.
    data_seed: chooses images and random classes, the same for every run.
    batch_size: images explained at once; None chooses by the device.
    """

    relevance: tuple[RelevanceOptions, ...] = (RelevanceOptions(COMPARISON_METHOD),)
    measurements: tuple[str, ...] = MEASUREMENTS
    images: int | None = None
    metric_images: int = 100
    costly_for: Literal["first", "all"] = "first"
    random_classes: int = 3
    imputations: tuple[str, ...] = ("mean",)
    data_seed: int = 0
    batch_size: int | None = None


def measurement_names(asked: Sequence[str]) -> tuple[str, ...]:
    """Return the measurements that `all`, `quick` or names ask for, in their order; maps are always among them."""
    groups = {"all": MEASUREMENTS, "quick": CHEAP}
    wanted = {"maps", *(name for one in asked for name in groups.get(one, (one,)))}
    return tuple(name for name in MEASUREMENTS if name in wanted)
