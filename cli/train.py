"""The command line of train.py. Imports no torch."""

import argparse
import importlib.util
import math

from cli.arguments import (
    add_data,
    add_model,
    add_running,
    backbone_options,
    data_options,
    running_options,
)
from cli.parser import fraction_below_one, make_parser, natural, path, positive, positive_number, seconds
from commands.train_options import TrainOptions
from common.errors import UsageError
from data.options import AUGMENTATIONS
from models.methods import METHODS, MethodSettings, parse_settings
from models.training.recipe import (
    BALANCES,
    BY_EPOCHS,
    HEAD_INITS,
    PRECISIONS,
    RECIPES,
    SAVE_EVERY,
    Augmentation,
    ProbeRecipe,
    Recipe,
    recipe_of,
)

DESCRIPTION = "Adapt a pretrained vision transformer to a folder of images, or to drawn scenes."
EXAMPLE = "python train.py --data scenes --method dora --epochs 1 --out results/dora"
SEEDS = 2**32


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of train.py."""
    made = make_parser(DESCRIPTION, EXAMPLE)
    add_data(made)
    add_model(made)
    _add_method(made)
    _add_loss(made)
    _add_optimisation(made)
    _add_augmentation(made)
    _add_output(made)
    add_running(made)
    return made


def train_options(args: argparse.Namespace) -> TrainOptions:
    """Return what the command line asks for; raises UsageError for options that are out of range or do not go together.

    Checks that need the model, the data or the device come later, in `commands.train`.
    """
    settings = parse_settings(args.method)
    _check_numbers(args)
    _check_tensorboard(args)
    recipe = _recipe(args, settings)
    return TrainOptions(
        args.out,
        data_options(args),
        backbone_options(args),
        settings,
        recipe,
        Augmentation(args.augment, args.crop_scale, args.augment_views),
        args.head_init,
        args.amp,
        args.seed,
        args.overwrite,
        args.save_every,
        args.tensorboard,
        args.export,
        running_options(args),
    )


def _add_method(to: argparse.ArgumentParser) -> None:
    group = to.add_argument_group("method")
    group.add_argument(
        "--method",
        default="linear",
        metavar="M",
        help="; ".join(f"{name}: {method.description}" for name, method in METHODS.items())
        + "; adapters take settings: dora:blocks=9-11,targets=fc1,rank=4,alpha=8",
    )
    group.add_argument(
        "--head-init",
        choices=HEAD_INITS,
        default="probe",
        help="initialisation of the head: a linear probe (Kumar et al., ICLR 2022), or random",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of initialisation, order and augmentation"
    )


def _add_loss(to: argparse.ArgumentParser) -> None:
    group = to.add_argument_group("loss")
    group.add_argument(
        "--label-smoothing",
        type=fraction_below_one,
        default=0.1,
        metavar="X",
        help="label smoothing; keep it the same for runs whose probabilities are compared",
    )
    group.add_argument(
        "--balance",
        choices=BALANCES,
        default="none",
        help="for imbalanced classes: weight the losses, or sample the images, by inverse class frequency",
    )


def _add_optimisation(to: argparse.ArgumentParser) -> None:
    group = to.add_argument_group("training by epochs (all methods but linear)")
    group.add_argument("--epochs", type=positive, metavar="N", help="passes over the training images (default: 3)")
    group.add_argument("--batch-size", type=positive, metavar="N", help="images per optimiser step (default: 32)")
    group.add_argument(
        "--learning-rate", type=float, metavar="X", help="peak learning rate (default: 1e-3 dora and lora, 3e-4 full)"
    )
    group.add_argument("--weight-decay", type=float, metavar="X", help="weight decay of matrices (default: 0.05)")
    group.add_argument(
        "--layer-decay",
        type=positive_number,
        metavar="X",
        help="factor of the learning rate from each layer to the one before it; 0.75 is common for full fine-tuning "
        "(default: 1)",
    )
    group.add_argument(
        "--clip",
        type=positive_number,
        metavar="X",
        help="clip the gradient norm at this value (default: no clipping)",
    )
    group.add_argument(
        "--accumulate",
        type=positive,
        metavar="N",
        help="gradient accumulation steps: split each batch into N parts to save memory (default: 1)",
    )
    group.add_argument(
        "--ema",
        type=fraction_below_one,
        metavar="X",
        help="decay of an exponential moving average of the weights, for example 0.999; the average is evaluated and "
        "kept (default: no average)",
    )
    group.add_argument(
        "--drop-path",
        type=fraction_below_one,
        metavar="X",
        help="stochastic depth rate of the last block; 0.1 is common for full fine-tuning (default: 0)",
    )
    group.add_argument("--mixup", type=positive_number, metavar="A", help="alpha of mixup (default: no mixup)")
    group.add_argument("--cutmix", type=positive_number, metavar="A", help="alpha of cutmix (default: no cutmix)")
    group.add_argument(
        "--patience",
        type=positive,
        metavar="N",
        help="early stopping: end N epochs after the most accurate one on held-out images, and keep that one "
        "(default: no early stopping)",
    )
    group.add_argument(
        "--amp",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="mixed precision of training; auto: bfloat16 or float16 on a CUDA GPU, otherwise no",
    )


def _add_augmentation(to: argparse.ArgumentParser) -> None:
    group = to.add_argument_group("augmentation")
    group.add_argument(
        "--augment",
        choices=AUGMENTATIONS,
        default="crop",
        help="augmentation of training images: horizontal flips; random crops and flips; or these and RandAugment "
        "(linear trains on unaugmented images unless --augment-views is given)",
    )
    group.add_argument(
        "--augment-views",
        type=natural,
        default=0,
        metavar="N",
        help="train on N fixed augmented views of each image: linear on all of them, other methods on one per epoch in "
        "turn; the output of frozen layers is cached for each view (default: 0, a new view in every epoch, and "
        "unaugmented images for linear)",
    )
    group.add_argument(
        "--crop-scale", type=float, default=0.5, metavar="X", help="smallest area of a random crop, as a fraction"
    )


def _add_output(to: argparse.ArgumentParser) -> None:
    group = to.add_argument_group("output")
    group.add_argument("--out", type=path, required=True, metavar="RUN", help="the run's folder")
    group.add_argument("--overwrite", action="store_true", help="replace a run of another configuration in --out")
    group.add_argument(
        "--save-every",
        type=seconds,
        default=SAVE_EVERY,
        metavar="SECONDS",
        help="save the training state this often within an epoch; an interrupted run continues from it",
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="also write RUN/tensorboard; needs the package tensorboard"
    )
    group.add_argument(
        "--export",
        type=path,
        metavar="FILE",
        help="also write the merged model as one .safetensors file, for plain timm, compare.py and visualize.py",
    )


def _check_numbers(args: argparse.Namespace) -> None:
    if not 0 < args.crop_scale <= 1:
        raise UsageError(f"--crop-scale {args.crop_scale} is out of range; give a fraction above 0, up to 1")
    if args.learning_rate is not None and not 0 < args.learning_rate < math.inf:
        raise UsageError(f"--learning-rate {args.learning_rate} is not positive and finite; give, for example, 1e-3")
    if args.weight_decay is not None and not 0 <= args.weight_decay < math.inf:
        raise UsageError(f"--weight-decay {args.weight_decay} is out of range; give 0 or more")
    if not 0 <= args.seed < SEEDS:
        raise UsageError(f"--seed {args.seed} is out of range; give 0 to {SEEDS - 1}")


def _check_tensorboard(args: argparse.Namespace) -> None:
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs a package that is not installed; pip install tensorboard, or drop it")


def _recipe(args: argparse.Namespace, settings: MethodSettings) -> Recipe | ProbeRecipe:
    """Return the method's recipe with the changes of the command line."""
    common = {"label_smoothing": args.label_smoothing, "balance": args.balance}
    given = {name: getattr(args, name) for name in BY_EPOCHS if getattr(args, name) is not None}
    if isinstance(RECIPES[settings.method], ProbeRecipe):
        _check_probe(args, list(given))
        return recipe_of(settings.method, **common)
    if args.amp == "float16" and args.device == "cpu":
        raise UsageError(
            "--amp float16 needs a GPU, as its small gradients have to be scaled; on the CPU give --amp bfloat16 or no"
        )
    return recipe_of(settings.method, **common, **given)


def _check_probe(args: argparse.Namespace, by_epochs: list[str]) -> None:
    """Raise UsageError for options that a linear probe has no use for.

    by_epochs: the names in BY_EPOCHS that were given.
    """
    if by_epochs:
        raise UsageError(
            f"--{by_epochs[0].replace('_', '-')} belongs to methods that train by epochs; a linear probe is solved, "
            f"its penalty chosen on images held out of training: drop it, or give another --method"
        )
    if args.amp not in ("auto", "no") or args.head_init == "random":
        option = "--head-init random" if args.head_init == "random" else "--amp"
        raise UsageError(
            f"{option} belongs to methods that train by epochs; a linear probe is solved in float32, from zero: drop "
            f"it, or give another --method"
        )
    if args.balance == "sampling":
        raise UsageError(
            "--balance sampling draws images, and a probe is solved for all of them at once; give --balance weights"
        )
