"""The command line of study.py. Imports no torch."""

import argparse
from pathlib import Path

from cli.arguments import (
    add_data,
    add_model,
    add_relevance,
    add_running,
    backbone_options,
    data_options,
    relevance_options,
    running_options,
)
from cli.parser import fraction_below_one, make_parser, path, positive
from commands.options import StudyOptions
from common.errors import UsageError
from evaluation.options import COSTLY, IMPUTATIONS, MEASUREMENTS, MeasurementOptions, measurement_names
from models.methods import MethodSettings, parse_settings

DOC = "Run the whole experiment: train every method and seed, measure, compare, report what is supported."


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of study.py."""
    made = make_parser(DOC, "python study.py")
    add_data(made, several=True)
    add_model(made)
    add_relevance(made, several=True, options=False, comparing=True)
    _add_experiment(made)
    _add_measurements(made)
    _add_output(made)
    add_running(made)
    made.renamed = {  # type: ignore[attr-defined]
        "--others": "--random-classes",
        "--removal": "--imputation",
        "--images-at-once": "--batch-size",
    }
    return made


def _add_experiment(to: argparse.ArgumentParser) -> None:
    group = to.add_argument_group("experiment")
    group.add_argument(
        "--methods",
        nargs="+",
        default=["linear", "dora"],
        metavar="M",
        help="two or more ways to adapt the model; adapters take settings, as in train.py (default: linear dora)",
    )
    group.add_argument("--seeds", type=positive, default=1, metavar="N", help="training seeds 0 to N - 1")
    group.add_argument(
        "--epochs", type=positive, metavar="N", help="epochs of every method but linear (default: train.py's)"
    )
    group.add_argument(
        "--label-smoothing", type=fraction_below_one, default=0.1, metavar="X", help="label smoothing of every method"
    )
    group.add_argument(
        "--training-views",
        choices=("same", "own"),
        default="same",
        help="augmented views of the training images: the same for every method, as many as the longest training has "
        "epochs (linear trains on all of them, other methods on one per epoch), or each method's own, as train.py's "
        "defaults (linear on unaugmented images, other methods on new views in every epoch)",
    )
    group.add_argument(
        "--split",
        default="val",
        metavar="NAME",
        help="the images that claims are judged on: val, test where the data have it, or another split; reports on "
        "another split than val are written to DIR/on-NAME (default: val)",
    )


def _add_measurements(to: argparse.ArgumentParser) -> None:
    group = to.add_argument_group("measurements")
    group.add_argument(
        "--metrics",
        nargs="+",
        default=["all"],
        choices=["all", "quick", *MEASUREMENTS],
        metavar="NAME",
        help=f"groups of metrics: all, quick (of few passes), or some of {', '.join(MEASUREMENTS)} (default: all)",
    )
    group.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help="images per split for similarity, complexity and localisation (default: all)",
    )
    group.add_argument(
        "--metric-images",
        type=positive,
        default=100,
        metavar="N",
        help="images of --split for metrics that take more passes: robustness, faithfulness, grid pointing game, "
        "randomisation, depth",
    )
    group.add_argument(
        "--costly-metrics-of",
        choices=("first", "all"),
        default="first",
        help=f"the --relevance methods of which the costly groups of metrics ({', '.join(COSTLY)}) are measured: the "
        "first, or all",
    )
    group.add_argument(
        "--random-classes", type=positive, default=3, metavar="N", help="random classes per image, beside the true one"
    )
    group.add_argument(
        "--imputation",
        nargs="+",
        default=["mean"],
        choices=IMPUTATIONS,
        metavar="R",
        help=f"what replaces removed patches in faithfulness: {', '.join(IMPUTATIONS)} (default: mean); linear is "
        "ROAD's noisy linear imputation",
    )
    group.add_argument("--rows", type=positive, default=8, metavar="N", help="images in the picture")
    group.add_argument(
        "--batch-size", type=positive, metavar="N", help="images explained at once (default: 16, on a GPU up to 128)"
    )


def _add_output(to: argparse.ArgumentParser) -> None:
    group = to.add_argument_group("output")
    group.add_argument(
        "--out",
        type=path,
        default=Path("results/study"),
        metavar="DIR",
        help="the output folder (default: %(default)s)",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace runs and comparisons of other settings in --out"
    )


def study_options(args: argparse.Namespace) -> StudyOptions:
    """Return the typed options; raises UsageError for what can be refused before any model is loaded."""
    _check_names(args.data)
    data = tuple(data_options(args, spec) for spec in dict.fromkeys(args.data))
    measurement = MeasurementOptions(
        relevance=tuple(relevance_options(args)),
        measurements=measurement_names(args.metrics),
        images=args.images,
        metric_images=args.metric_images,
        costly_for=args.costly_metrics_of,
        random_classes=args.random_classes,
        imputations=tuple(dict.fromkeys(args.imputation)),
        data_seed=args.data_seed,
        batch_size=args.batch_size,
    )
    return StudyOptions(
        data=data,
        backbone=backbone_options(args),
        methods=methods_of(args.methods),
        seeds=args.seeds,
        epochs=args.epochs,
        label_smoothing=args.label_smoothing,
        training_views=args.training_views,
        split=args.split,
        measurement=measurement,
        rows=args.rows,
        out=args.out,
        overwrite=args.overwrite,
        running=running_options(args),
    )


def methods_of(texts: list[str]) -> tuple[MethodSettings, ...]:
    """Return the methods asked for; raises UsageError for fewer than two, or for one named twice."""
    methods = tuple(parse_settings(text) for text in texts)
    if len(methods) < 2 or len(set(methods)) < len(methods):
        raise UsageError(f"--methods {' '.join(texts)}: give two or more different methods to compare")
    return methods


def _check_names(specs: list[str]) -> None:
    """Raise UsageError for two data sets of one name, whose results could not be told apart."""
    names = [Path(spec).name for spec in dict.fromkeys(specs)]
    if len(set(names)) < len(names):
        raise UsageError(f"--data {' '.join(specs)}: two data sets have the same name; rename a folder")
