"""What train.py does: prepare the run's folder, train, and write the run."""

import shutil
import time
from dataclasses import asdict, replace

import torch

from commands import train_output
from commands.loading import load_for
from commands.train_options import TrainOptions
from commands.train_output import METRICS, TENSORBOARD
from commands.training_images import RunImages
from common import processes
from common.console import warn
from common.devices import device_of
from common.errors import ExplainedError, UsageError
from common.files import check_writable, remove_leftovers
from common.tables import write_json
from data.datasets import ImageData
from explain import UnsupportedModel, check_explainable
from models.adapters import check_settings
from models.backbone import content_hash, create_backbone, model_data_config
from models.run_config import RunConfig, make_config
from models.runs import ADAPTER, BACKBONE, CONFIG, HEAD, RESUME, SUMMARY, export, load_run, state_of
from models.training.fit_result import Callbacks, FitResult
from models.training.process_group import ProcessGroup
from models.training.recipe import Checkpointing, ProbeRecipe, Recipe
from models.training.run import Training
from models.types import TimmModel


def load(options: TrainOptions) -> ImageData:
    """Check the device and the folders, then load the data; see `train` for what is raised."""
    recipe_on(options, device_of(options.running.device))
    processes.on_main_process(lambda: check_writable(options.running.cache, "--cache"))
    processes.on_main_process(lambda: check_writable(options.export and options.export.parent, "--export"))
    with processes.main_process_first():  # the others find what it has downloaded, and its check of the files
        return load_for(options.data, options.backbone, options.running.cache)


def train(options: TrainOptions, data: ImageData) -> None:
    """Train a run and write it to `options.out`; a finished run is reused, an interrupted one continued.

    options: what to train.
    data: the images that `options.data` names.
    Raises UsageError where the options do not fit the model or the folder holds another run, ExplainedError where
    something is damaged or training diverges, and OSError.
    """
    started = time.perf_counter()
    device = device_of(options.running.device)
    options = replace(options, recipe=recipe_on(options, device))
    torch.manual_seed(options.seed)  # the new head, the adapter's first matrix
    with processes.main_process_first():
        drop_path = getattr(options.recipe, "drop_path", 0.0)
        model = create_backbone(options.backbone, len(data.class_names), drop_path)
    check_settings(model, options.settings)
    _warn_if_unexplainable(model)
    config = config_of(options, model, data)
    if processes.on_main_process(lambda: prepare_folder(options, config)) == "finished":
        print(f"{options.out} holds this very run, finished: reused")
    else:
        fitted = _train_and_write(options, RunImages(data, config, options.augmentation, options.data.data_seed), model)
        processes.on_main_process(lambda: finish(options, fitted, device, started))
    processes.on_main_process(lambda: _export(options))


def recipe_on(options: TrainOptions, device: torch.device) -> Recipe | ProbeRecipe:
    """Return the recipe with the precision for a device. Raises UsageError where the device lacks it."""
    if isinstance(options.recipe, ProbeRecipe):
        return options.recipe
    return replace(options.recipe, precision=precision_of(options.amp, device))


def precision_of(amp: str, device: torch.device) -> str:
    """Return the precision that --amp names; "auto" takes the one that suits the device. Raises UsageError."""
    if amp == "float16" and device.type == "cpu":
        raise UsageError(
            "--amp float16 needs a GPU, as its small gradients have to be scaled; on the CPU give --amp bfloat16 or no"
        )
    if amp != "auto":
        return amp
    if device.type != "cuda":
        return "no"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def config_of(options: TrainOptions, model: TimmModel, data: ImageData) -> RunConfig:
    """Return the run's configuration: all that its result depends on.

    model: the pretrained model, before it is adapted.
    """
    linear = options.settings.method == "linear"
    recipe = asdict(options.recipe) | ({} if linear else {"head_init": options.head_init})
    if not linear or options.augmentation.views:
        recipe |= options.augmentation.record()
    record = options.data.record()
    return make_config(
        options.settings,
        options.backbone,
        content_hash(model),
        model_data_config(model),
        data.class_names,
        {"spec": record.pop("spec"), "fingerprint": data.fingerprint, **record},
        recipe,
        options.seed,
    )


def prepare_folder(options: TrainOptions, config: RunConfig) -> str:
    """Prepare the run's folder and return its state: "new", "finished" or "interrupted"; only the last keeps a state
    to continue from."""
    out = options.out
    try:
        state = state_of(out, config)
    except ExplainedError:
        if not options.overwrite:
            raise
        state = "replaced"
    check_writable(out)
    remove_leftovers(out)
    if state == "replaced":  # the mark of a finished run goes first; its config stays until the end
        for name in (SUMMARY, RESUME, HEAD, BACKBONE):
            (out / name).unlink(missing_ok=True)
        for name in (ADAPTER, TENSORBOARD):
            shutil.rmtree(out / name, ignore_errors=True)
        state = "new"
    if state != "interrupted":  # a finished run has one where it was killed before it could clean up
        (out / RESUME).unlink(missing_ok=True)
    if state == "new":
        write_json(out / CONFIG, config.to_json())
    return state


def _train_and_write(options: TrainOptions, images: RunImages, model: TimmModel) -> FitResult:
    training = training_of(options, images)
    if training.group.first and not (options.out / RESUME).is_file():
        (options.out / METRICS).unlink(missing_ok=True)  # of a run that this one replaces
    trained, fitted = training.train(model)
    predictions = training.predict(trained)
    if training.group.first:
        train_output.write_run(options, images, trained, fitted, predictions)
    return fitted


def training_of(options: TrainOptions, images: RunImages) -> Training:
    """Return the training of a run, which reports its epochs and keeps its metrics and its state in the run's folder.

    options: with the recipe of `recipe_on`.
    """
    group = ProcessGroup(processes.rank(), processes.count(), processes.all_gather)
    board = options.out / TENSORBOARD if options.tensorboard and group.first else None
    return Training(
        images,
        options.settings,
        options.recipe,
        device_of(options.running.device),
        options.running,
        options.seed,
        options.head_init,
        Checkpointing(options.out / RESUME, options.save_every),
        Callbacks(
            train_output.reporter(board),
            lambda history: train_output.write_csv(options.out / METRICS, history),
            progress=True,
        ),
        group,
    )


def finish(options: TrainOptions, fitted: FitResult, device: torch.device, started: float) -> None:
    """Remove what a finished run no longer needs, and write the clock times to a file of their own: all other files are
    the same bytes for the same command."""
    (options.out / RESUME).unlink(missing_ok=True)
    write_json(
        options.out / "timings.json",
        {
            "seconds": round(time.perf_counter() - started, 2),
            "steps_seconds": round(fitted.seconds, 2),
            "waiting_for_images_seconds": round(fitted.waiting, 2),
            "loader_images_per_second": round(fitted.images_per_second, 1),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "processes": processes.count(),
        },
    )


def _warn_if_unexplainable(model: TimmModel) -> None:
    try:
        check_explainable(model)
    except UnsupportedModel as error:
        warn(f"this model can be trained but not explained: {error}")


def _export(options: TrainOptions) -> None:
    if options.export is not None:
        export(load_run(options.out, options.backbone.weights), options.export)
        print(f"{options.export}: the merged model, for timm.create_model(..., num_classes=..., checkpoint_path=...)")
