"""What train.py is asked for. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from common.devices import RunningOptions
from data.options import DataOptions
from models.methods import MethodSettings
from models.options import BackboneSpec
from models.training.recipe import SAVE_EVERY, Augmentation, ProbeRecipe, Recipe


@dataclass(frozen=True)
class TrainOptions:
    """A run to train.

    out: the run's folder.
    data: the images to train and evaluate on.
    backbone: the pretrained model.
    settings: the method that adapts it.
    recipe: the optimisation; a ProbeRecipe for `linear`, otherwise a Recipe whose precision `amp` replaces.
    augmentation: of training images.
    head_init: where the head starts: "probe", a linear probe, or "random"; a linear probe has no use for it.
    amp: precision of matrix products in training, a name in PRECISIONS; "auto" chooses by the device.
    seed: of initialisation, order and augmentation.
    overwrite: whether a run of another configuration in `out` is replaced.
    save_every: seconds between saved states within an epoch.
    tensorboard: whether to write TensorBoard's files, too.
    export: file for the merged model; None exports nothing.
    running: where and how to compute.
    """

    out: Path
    data: DataOptions = DataOptions()
    backbone: BackboneSpec = BackboneSpec()
    settings: MethodSettings = MethodSettings()
    recipe: Recipe | ProbeRecipe = ProbeRecipe()
    augmentation: Augmentation = Augmentation()
    head_init: str = "probe"
    amp: str = "auto"
    seed: int = 0
    overwrite: bool = False
    save_every: float = SAVE_EVERY
    tensorboard: bool = False
    export: Path | None = None
    running: RunningOptions = RunningOptions()

    def __post_init__(self) -> None:
        if (self.settings.method == "linear") != isinstance(self.recipe, ProbeRecipe):
            raise ValueError(f"{self.settings.method!r} cannot be trained with a {type(self.recipe).__name__}")
