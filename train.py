"""Adapt a pretrained vision transformer to a folder of images, or to drawn scenes."""

import argparse
import importlib.util
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cli import commandline
from commands.training import TENSORBOARD, Training
from common import processes
from common.errors import ExplainedError, UsageError
from common.files import remove_leftovers
from common.tables import write_json
from data.datasets import ImageData
from data.transforms import AUGMENTATIONS
from explain import UnsupportedModel, check_explainable
from models.adapters import METHODS, Settings, check_settings, parse_settings
from models.backbone import content_hash, create_backbone, model_data_config
from models.runs import ADAPTER, BACKBONE, CONFIG, HEAD, RESUME, SUMMARY, export, load_run, make_config, state_of
from models.training.loop import PRECISIONS, SAVE_EVERY, Fit, Recipe
from models.training.probe import ProbeRecipe
from models.training.process_group import Share

SEEDS = 2**32
# Options of a Recipe that only methods which train by epochs have; None stands for the recipe's own.
BY_EPOCHS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "layer_decay",
    "clip",
    "accumulate",
    "ema",
    "mixup",
    "cutmix",
    "drop_path",
    "patience",
)
RECIPES: dict[str, Recipe | ProbeRecipe] = {
    "linear": ProbeRecipe(),
    "dora": Recipe(epochs=3, learning_rate=1e-3),
    "lora": Recipe(epochs=3, learning_rate=1e-3),
    "full": Recipe(epochs=3, learning_rate=3e-4),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of train.py."""
    parser = commandline.parser(__doc__, "python train.py --data scenes --method dora --epochs 1 --out results/dora")
    commandline.add_data(parser)
    commandline.add_model(parser)
    group = parser.add_argument_group("training")
    group.add_argument(
        "--method",
        default="linear",
        metavar="M",
        help="; ".join(f"{name}: {method.description}" for name, method in METHODS.items())
        + "; adapters take settings: dora:blocks=9-11,targets=fc1,rank=4,alpha=8",
    )
    group.add_argument(
        "--epochs", type=commandline.positive, metavar="N", help="of all methods but linear (default: 3)"
    )
    group.add_argument(
        "--batch-size", type=commandline.positive, metavar="N", help="of all methods but linear (default: 32)"
    )
    group.add_argument("--learning-rate", type=float, metavar="X", help="default: 1e-3 dora and lora, 3e-4 full")
    group.add_argument("--weight-decay", type=float, metavar="X", help="of matrices (default: 0.05)")
    group.add_argument(
        "--layer-decay",
        type=commandline.positive_number,
        metavar="X",
        help="the learning rate's factor from each layer to the one before it, for full fine-tuning say "
        "0.75 (default: 1)",
    )
    group.add_argument(
        "--clip",
        type=commandline.positive_number,
        metavar="X",
        help="largest norm of all gradients together (default: any)",
    )
    group.add_argument(
        "--accumulate",
        type=commandline.positive,
        metavar="N",
        help="parts of a batch that go through the model one after another, where it does not fit (default: 1)",
    )
    group.add_argument(
        "--ema",
        type=commandline.share_below_one,
        metavar="X",
        help="decay of a running mean of the weights, which is then what is kept, say 0.999 (default: none)",
    )
    group.add_argument(
        "--mixup", type=commandline.positive_number, metavar="A", help="timm's mixup, alpha (default: none)"
    )
    group.add_argument(
        "--cutmix", type=commandline.positive_number, metavar="A", help="timm's cutmix, alpha (default: none)"
    )
    group.add_argument(
        "--drop-path",
        type=commandline.share_below_one,
        metavar="X",
        help="rate of stochastic depth in the last block, for full fine-tuning say 0.1 (default: 0)",
    )
    group.add_argument(
        "--patience",
        type=commandline.positive,
        metavar="N",
        help="end N epochs after the most accurate one on held-out images, which is then kept (default: never)",
    )
    group.add_argument(
        "--balance",
        choices=("none", "weights", "sampling"),
        default="none",
        help="for classes of very different sizes: weigh losses, or draw images, by the inverse of the class's",
    )
    group.add_argument(
        "--amp",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="precision of matrix products in training; auto: bfloat16 or float16 on a GPU, none on the CPU",
    )
    group.add_argument(
        "--label-smoothing",
        type=commandline.share_below_one,
        default=0.1,
        metavar="X",
        help="keep it the same for runs whose probabilities are compared",
    )
    group.add_argument(
        "--augment",
        choices=AUGMENTATIONS,
        default="crop",
        help="training images; linear sees them as they are, unless --augment-views says otherwise",
    )
    group.add_argument(
        "--augment-views",
        type=commandline.natural,
        default=0,
        metavar="N",
        help="train on N augmented views of every image, each the same whenever it is seen: linear on all of "
        "them, other methods on one an epoch in turn; what is frozen is computed once for each "
        "(default: 0, linear sees images as they are, all others a new view every epoch)",
    )
    group.add_argument(
        "--crop-scale", type=float, default=0.5, metavar="X", help="smallest area share of a random crop"
    )
    group.add_argument(
        "--head-init",
        choices=("probe", "random"),
        default="probe",
        help="where the head starts: at a linear probe (Kumar et al., ICLR 2022) or at random",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="initialisation, order and augmentation")
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    group.add_argument("--overwrite", action="store_true", help="replace a run of another configuration in --out")
    group.add_argument(
        "--save-every",
        type=commandline.seconds,
        default=SAVE_EVERY,
        metavar="SECONDS",
        help="how often a state to continue from is kept within an epoch",
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="also write RUN/tensorboard, if tensorboard is installed"
    )
    group.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="also write the merged model, for plain timm, compare.py and visualize.py",
    )
    commandline.add_running(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Check what was asked for, then the data, then train."""
    parse_settings(args.method)
    _check_options(args)
    processes.first_says(lambda: commandline.check_writable(args.cache, "--cache"))
    processes.first_says(lambda: commandline.check_writable(args.export and args.export.parent, "--export"))
    with processes.first_goes_ahead():  # the others find what it has downloaded, and its check of the files
        data = commandline.data_of(args)
    train(args, data)


def train(args: argparse.Namespace, data: ImageData) -> None:
    """Model, weights, loop, save: the run's story. Reuses a finished run, continues an interrupted one."""
    started = time.perf_counter()
    device = commandline.device_of(args.device)
    settings, recipe = parse_settings(args.method), recipe_of(args, device)
    torch.manual_seed(args.seed)  # the fresh head, the adapter's first matrix
    with processes.first_goes_ahead():
        model = create_backbone(commandline.backbone_of(args), len(data.class_names), getattr(recipe, "drop_path", 0.0))
    check_settings(model, settings)
    warn_if_unexplainable(model)
    config = config_of(args, settings, recipe, model, data)
    if processes.first_says(lambda: prepare_folder(args.out, config, args.overwrite)) == "finished":
        print(f"{args.out} holds this very run, finished: reused")
    else:
        share = Share(processes.rank(), processes.count(), processes.exchange)
        training = Training(args, settings, recipe, data, config, device, share)
        trained, found = training.train(model)
        training.write(trained, found)
        processes.first_says(lambda: finish(args.out, found, device, started))
    processes.first_says(lambda: _export(args))


def finish(out: Path, found: Fit, device: torch.device, started: float) -> None:
    """Remove what a finished run no longer needs. Clock times stand in a file of their own, so that all others are the
    same bytes for the same command."""
    (out / RESUME).unlink(missing_ok=True)
    write_json(
        out / "timings.json",
        {
            "seconds": round(time.perf_counter() - started, 2),
            "steps_seconds": round(found.seconds, 2),
            "waiting_for_images_seconds": round(found.waiting, 2),
            "loader_images_per_second": round(found.images_per_second, 1),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "processes": processes.count(),
        },
    )


def recipe_of(args: argparse.Namespace, device: torch.device) -> Recipe | ProbeRecipe:
    """Return the method's default recipe with what the command line changes."""
    recipe = replace(
        RECIPES[parse_settings(args.method).method], label_smoothing=args.label_smoothing, balance=args.balance
    )
    if isinstance(recipe, ProbeRecipe):
        return recipe
    given = {key: getattr(args, key) for key in BY_EPOCHS if getattr(args, key) is not None}
    return replace(recipe, precision=precision_of(args.amp, device), **given)


def precision_of(amp: str, device: torch.device) -> str:
    """Return the precision that --amp names; `auto` takes what the device is made for. Raises UsageError."""
    if amp == "float16" and device.type == "cpu":
        raise UsageError(
            "--amp float16 needs a GPU, as its small gradients have to be scaled; on the CPU give --amp bfloat16 or no"
        )
    if amp != "auto":
        return amp
    if device.type != "cuda":
        return "no"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def config_of(args: argparse.Namespace, settings: Settings, recipe: Recipe, model: nn.Module, data: ImageData) -> dict:
    """Return the run's configuration: all that its result depends on."""
    training = asdict(recipe)
    if settings.method != "linear":
        training |= {"head_init": args.head_init}
    if settings.method != "linear" or args.augment_views:
        training |= {"augment": args.augment, "crop_scale": args.crop_scale, "augment_views": args.augment_views}
    source = {"spec": args.data, "fingerprint": data.fingerprint, **commandline.data_options(args)}
    return make_config(
        settings,
        commandline.backbone_of(args),
        content_hash(model),
        model_data_config(model),
        data.class_names,
        source,
        training,
        args.seed,
    )


def prepare_folder(out: Path, config: dict, overwrite: bool) -> str:
    """Make the run's folder ready and return its state: "new", "finished" or "interrupted", which alone keeps what it
    goes on from."""
    try:
        state = state_of(out, config)
    except ExplainedError:
        if not overwrite:
            raise
        state = "replaced"
    commandline.check_writable(out)
    remove_leftovers(out)
    if state == "replaced":
        for name in (
            SUMMARY,
            RESUME,
            HEAD,
            BACKBONE,
        ):  # the mark of a finished run goes first; its config stays until the end
            (out / name).unlink(missing_ok=True)
        for name in (ADAPTER, TENSORBOARD):
            shutil.rmtree(out / name, ignore_errors=True)
        state = "new"
    if state != "interrupted":  # a finished run has one where it was killed before it could clean up
        (out / RESUME).unlink(missing_ok=True)
    if state == "new":
        write_json(out / CONFIG, config)
    return state


def warn_if_unexplainable(model: nn.Module) -> None:
    """Say at the start that a model trains but cannot be explained."""
    try:
        check_explainable(model)
    except UnsupportedModel as error:
        commandline.warn(f"this model trains, but relevance cannot follow it: {error}")


def _check_options(args: argparse.Namespace) -> None:
    if not 0 < args.crop_scale <= 1:
        raise UsageError(f"--crop-scale {args.crop_scale} is no share of the area; give more than 0, up to 1")
    if args.learning_rate is not None and not 0 < args.learning_rate < np.inf:
        raise UsageError(f"--learning-rate {args.learning_rate} is not positive and finite; give, say, 1e-3")
    if args.weight_decay is not None and not 0 <= args.weight_decay < np.inf:
        raise UsageError(f"--weight-decay {args.weight_decay} is out of range; give 0 or more")
    if not 0 <= args.seed < SEEDS:
        raise UsageError(f"--seed {args.seed} is out of range; give 0 to {SEEDS - 1}")
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs a package that is not installed; pip install tensorboard, or drop it")
    given = [key for key in BY_EPOCHS if getattr(args, key) is not None]
    if given and parse_settings(args.method).method == "linear":
        raise UsageError(
            f"--{given[0].replace('_', '-')} belongs to methods that train by epochs; a linear probe is solved, its "
            f"penalty chosen on images held out of training: drop it, or give another --method"
        )
    if parse_settings(args.method).method != "linear":
        precision_of(args.amp, commandline.device_of(args.device))
    elif args.amp not in ("auto", "no") or args.head_init == "random":
        raise UsageError(
            f"{'--head-init random' if args.head_init == 'random' else '--amp'} belongs to methods that train by epochs; a "
            f"linear probe is solved in float32, from zero: drop it, or give another --method"
        )
    if args.balance == "sampling" and parse_settings(args.method).method == "linear":
        raise UsageError(
            "--balance sampling draws images, and a probe is solved for all of them at once; give --balance weights"
        )


def _export(args: argparse.Namespace) -> None:
    if args.export is not None:
        export(load_run(args.out, args.weights), args.export)
        print(f"{args.export}: the merged model, for timm.create_model(..., num_classes=..., checkpoint_path=...)")


if __name__ == "__main__":
    sys.exit(commandline.run(main, build_parser(), several=True))
