"""Argument groups that several commands share, and the typed options that they become. Imports no torch."""

import argparse
import textwrap
from collections.abc import Sequence

from cli.parser import path, positive, positive_number, terminal_width, thread_count, worker_count
from common.devices import CACHE, CACHE_LIMIT, RunningOptions
from data.datasets import check_options
from data.options import DataOptions
from explain.registry import (
    COMPARISON_METHOD,
    CONTRASTS,
    DEFAULT_METHOD,
    METHODS,
    PUBLISHED_METHOD,
    RelevanceOptions,
    find_method,
)
from models.options import BackboneSpec, ExternalOptions
from models.sources import check_sources, check_weights_file

EXTERNAL = "a model trained elsewhere: a timm name, a merged .safetensors or .pth file, a peft folder"


# ---- data


def add_data(to: argparse.ArgumentParser, default: str | None = "scenes", several: bool = False) -> None:
    """Add --data and what limits it. several: --data takes several data sets."""
    group = to.add_argument_group("data")
    group.add_argument(
        "--data",
        nargs="+" if several else None,
        default=[default] if several else default,
        metavar="D",
        help="'scenes' (drawn, offline), 'sports' (100-sports, downloaded once), or a folder with train/ "
        "and val/ or valid/, one subfolder per class"
        + ("" if default else " (default: the data of the first run that recorded its own)"),
    )
    group.add_argument("--classes", nargs="+", metavar="NAME", help="keep only these classes of a folder")
    group.add_argument(
        "--data-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed for drawing, sampling and holding out images, and for random classes; "
        "independent of the training seed",
    )
    group.add_argument(
        "--train-images",
        type=positive,
        metavar="N",
        help="images in the training split (default: 1500 scenes, or all of a folder)",
    )
    group.add_argument(
        "--val-images",
        type=positive,
        metavar="N",
        help="images in each other split (default: 300 scenes, or all of a folder)",
    )
    group.add_argument(
        "--context-bias",
        type=float,
        metavar="P",
        help="probability that a scene of train and val has its class's usual surface (default: 0.9)",
    )


def data_options(args: argparse.Namespace, spec: str | None = None) -> DataOptions:
    """Return the data options; raises UsageError for what can be refused before an image is read.

    spec: the data set, where --data takes several.
    """
    options = DataOptions(
        args.data if spec is None else spec,
        args.data_seed,
        None if args.classes is None else tuple(args.classes),
        args.train_images,
        args.val_images,
        args.context_bias,
    )
    check_options(options)
    return options


# ---- models


def add_model(to: argparse.ArgumentParser) -> None:
    """Add the backbone to adapt."""
    group = to.add_argument_group("model")
    group.add_argument("--model", default="bundled", metavar="NAME", help="'bundled' or any timm name")
    group.add_argument("--weights", metavar="FILE", help="local weights for --model (default: the model hub's)")
    group.add_argument(
        "--image-size", type=positive, metavar="PIXELS", help="side of the input (default: the model's own)"
    )


def backbone_options(args: argparse.Namespace) -> BackboneSpec:
    """Return the backbone that --model, --weights and --image-size name; raises UsageError for a missing file."""
    check_weights_file(args.weights)
    return BackboneSpec(args.model, args.weights, args.image_size)


def add_external(to: argparse.ArgumentParser) -> None:
    """Add what a model trained elsewhere may need; a run folder needs nothing, unless its backbone was moved."""
    group = to.add_argument_group("models trained elsewhere")
    group.add_argument(
        "--model",
        metavar="NAME",
        help="architecture of a merged file, or base of a peft folder (default: what the file or folder says)",
    )
    group.add_argument(
        "--weights",
        metavar="FILE",
        help="weights of the backbone of a run, a timm name or a peft folder (default: the file used in "
        "training, or the model hub)",
    )
    group.add_argument(
        "--image-size",
        type=positive,
        metavar="PIXELS",
        help="side of the model's input (default: what its file says, or timm's for the model)",
    )
    group.add_argument(
        "--class-names",
        metavar="FILE",
        help="class names in the order of the head's outputs, one per line or a JSON list; for merged files (default: "
        "what the file says), peft folders, and timm names (default: timm's names of their classes)",
    )


def external_options(args: argparse.Namespace, runs: Sequence[str]) -> ExternalOptions:
    """Return what the command line says about models trained elsewhere.

    runs: every RUN given. Raises UsageError for a RUN that does not exist or is not finished, and for options that fit
    none of them.
    """
    options = ExternalOptions(args.model, args.weights, args.image_size, args.class_names)
    check_sources(runs, options)
    return options


# ---- relevance


def add_relevance(
    to: argparse.ArgumentParser, several: bool = False, options: bool = True, comparing: bool = False
) -> None:
    """Add --relevance, and options that change what is explained.

    several: takes several methods. options: also adds --contrast, --centre-head and --precision.
    comparing: the default is the method for comparing maps of several classes; of several, the published one, too.
    """
    default = COMPARISON_METHOD if comparing else DEFAULT_METHOD
    defaults = [default, PUBLISHED_METHOD] if comparing else [default]
    group = to.add_argument_group("explanation", relevance_table())
    group.add_argument(
        "--relevance",
        nargs="+" if several else None,
        default=defaults if several else default,
        type=relevance_method,
        metavar="NAME",
        help=f"{'one or more' if several else 'one'} of the methods above"
        + ("; each judges the claims about maps" if several and comparing else "")
        + f" (default: {' '.join(defaults) if several else default})",
    )
    if not options:
        return
    group.add_argument(
        "--contrast",
        choices=CONTRASTS,
        help="explain a contrast instead of the logit: 'mean' subtracts the mean of the other logits (after Gu et al., "
        "ACCV 2018); 'softmax' their mean weighted by softmax (after Iwana et al., ICCV workshops 2019); 'log_p' "
        "explains log p to first order. For lrp and lrp_magnitude it enters through the gradient only: their "
        "relevance still starts at the logit (default: softmax for lrp_contrast and lrp_blend, else none)",
    )
    group.add_argument(
        "--centre-head",
        action="store_true",
        help="subtract from the head's rows their mean over classes, which leaves softmax unchanged",
    )
    group.add_argument(
        "--precision",
        choices=("float16",),
        help="multiply matrices with float16 inputs, on GPUs with tensor cores; only for methods whose maps change by "
        "less than 2 %% (default: float32)",
    )


def relevance_table() -> str:
    """Return the table of relevance methods for --help, as wide as the terminal."""
    width = terminal_width() - 4  # argparse keeps two, and indents by two
    lines = textwrap.wrap(
        "The methods, with the approximate cost of a map in forward passes (at K = 2 classes). "
        "Signed maps also hold evidence against the class.",
        width,
    )
    for method in METHODS.values():
        start = f"  {method.name:<21}{'signed' if method.signed else 'unsigned':<9}{method.passes:>4.1f}  "
        text = f"{method.description} ({method.source})"
        lines += textwrap.wrap(text, width, initial_indent=start, subsequent_indent=" " * len(start))
    return "\n".join(lines)


def relevance_method(name: str) -> str:
    """Check the name of a relevance method."""
    try:
        return find_method(name).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def relevance_options(args: argparse.Namespace) -> list[RelevanceOptions]:
    """Return the options of each relevance method asked for, without repeats.

    Raises UsageError where a method lacks an option that was given, or cannot show what --layers asks for.
    """
    from cli.relevance import check_relevance  # this module's text is long enough

    names = [args.relevance] if isinstance(args.relevance, str) else list(dict.fromkeys(args.relevance))
    given = vars(args)
    found = [
        RelevanceOptions(name, given.get("contrast"), given.get("centre_head", False), given.get("precision"))
        for name in names
    ]
    check_relevance(found, layers=given.get("layers", False))
    return found


# ---- running


def add_device(to: argparse.ArgumentParser):
    """Add --device and --threads; return the group."""
    group = to.add_argument_group("running")
    group.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")
    group.add_argument(
        "--threads",
        type=thread_count,
        metavar="N",
        help="CPU threads of torch (default: as many as torch takes, one per core)",
    )
    return group


def add_workers(group) -> None:
    """Add --workers to a group."""
    group.add_argument(
        "--workers",
        type=worker_count,
        default=None,
        metavar="N",
        help="processes that load images (default: 0 on the CPU, otherwise up to 8)",
    )


def add_running(to: argparse.ArgumentParser) -> None:
    """Add device, loader processes and caches."""
    group = add_device(to)
    add_workers(group)
    group.add_argument(
        "--cache",
        type=path,
        default=CACHE,
        metavar="DIR",
        help="folder that keeps features and the checks of image files between runs",
    )
    group.add_argument(
        "--cache-limit",
        type=positive_number,
        default=CACHE_LIMIT,
        metavar="GIB",
        help="do not cache the activations that enter the first trained block if they would take more disk "
        "space than this",
    )
    group.add_argument(
        "--no-cache",
        dest="cache",
        action="store_const",
        const=None,
        help="recompute features and recheck image files in every run",
    )


def running_options(args: argparse.Namespace) -> RunningOptions:
    """Return the running options, with the defaults of those that the command lacks."""
    given = vars(args)
    return RunningOptions(
        given.get("device", "auto"),
        given.get("workers"),
        given.get("cache"),
        given.get("cache_limit", CACHE_LIMIT),
        given.get("threads"),
    )
