"""What compare.py, visualize.py and study.py are asked for. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.devices import RunningOptions
from data.options import DataOptions
from evaluation.options import MeasurementOptions
from explain.registry import COMPARISON_METHOD, PUBLISHED_METHOD, RelevanceOptions
from models.methods import MethodSettings
from models.options import BackboneSpec, ExternalOptions


@dataclass(frozen=True)
class PictureOptions:
    """How heatmaps are drawn.

    normalise: `heatmap` scales every heatmap by its own maximum, `shared` all of an image (compare.py) or
        of a method (visualize.py) by one.
    colour_map: name of a matplotlib colour map; None takes one for signed maps and another for unsigned ones.
    """

    normalise: Literal["heatmap", "shared"] = "heatmap"
    colour_map: str | None = None


@dataclass(frozen=True)
class CompareOptions:
    """A comparison of several runs on the same images.

    runs: run folders, or models trained elsewhere.
    out: the output folder.
    data: the images; None takes those of the first run that recorded its own.
    split: the split.
    measurement: relevance method, number of images, random classes, data seed and batch size.
    rows: images in the picture.
    pick: names of the images to use instead of a sample.
    second: what the second heatmap shows, a name in `evaluation.options.SECOND`.
    picture: how heatmaps are drawn.
    layers: whether relevance by block and head is written, too.
    overwrite: whether a comparison of other settings is replaced.
    external: what the user says about models trained elsewhere.
    running: where and how to compute.
    """

    runs: tuple[str, ...]
    out: Path
    data: DataOptions | None = None
    split: str = "val"
    measurement: MeasurementOptions = MeasurementOptions(images=64)
    rows: int = 8
    pick: tuple[str, ...] = ()
    second: str = "auto"
    picture: PictureOptions = PictureOptions()
    layers: bool = False
    overwrite: bool = False
    external: ExternalOptions = ExternalOptions()
    running: RunningOptions = RunningOptions()


@dataclass(frozen=True)
class VisualizeOptions:
    """Heatmaps of the user's own images by one run.

    run: a run folder, or a model trained elsewhere.
    images: files, each once.
    targets: `true`, `pred` and class names; empty takes the three most probable classes.
    relevance: the relevance methods, one row of heatmaps each.
    picture: how heatmaps are drawn.
    layers: whether pictures of each block and head are written, too.
    out: the output folder.
    external: what the user says about a model trained elsewhere.
    running: where and how to compute.
    """

    run: str
    images: tuple[Path, ...]
    targets: tuple[str, ...] = ()
    relevance: tuple[RelevanceOptions, ...] = (RelevanceOptions(),)
    picture: PictureOptions = PictureOptions()
    layers: bool = False
    out: Path = Path("results/visualize")
    external: ExternalOptions = ExternalOptions()
    running: RunningOptions = RunningOptions()


@dataclass(frozen=True)
class StudyOptions:
    """An experiment: train every method and seed, measure, compare.

    data: the data sets.
    backbone: the pretrained model.
    methods: two or more ways to adapt it.
    seeds: number of training seeds, from 0.
    epochs: of every method but linear; None takes train.py's default.
    label_smoothing: of every method.
    training_views: `same`: every method trains on the same augmented views of each image, as many as the longest
        training has epochs; `own`: each as train.py does by default.
    split: the split that claims are judged on.
    measurement: what is measured.
    rows: images in the picture.
    out: the output folder.
    overwrite: whether runs and comparisons of other settings are replaced.
    running: where and how to compute.
    """

    data: tuple[DataOptions, ...] = (DataOptions(),)
    backbone: BackboneSpec = BackboneSpec()
    methods: tuple[MethodSettings, ...] = (MethodSettings("linear"), MethodSettings("dora"))
    seeds: int = 1
    epochs: int | None = None
    label_smoothing: float = 0.1
    training_views: Literal["same", "own"] = "same"
    split: str = "val"
    measurement: MeasurementOptions = MeasurementOptions(
        relevance=(RelevanceOptions(COMPARISON_METHOD), RelevanceOptions(PUBLISHED_METHOD))
    )
    rows: int = 8
    out: Path = Path("results/study")
    overwrite: bool = False
    running: RunningOptions = RunningOptions()
