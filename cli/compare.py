"""The command line of compare.py. Imports no torch."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cli.arguments import (
    EXTERNAL,
    add_data,
    add_device,
    add_external,
    add_relevance,
    add_workers,
    data_options,
    external_options,
    relevance_options,
    running_options,
)
from cli.parser import colour_map, make_parser, path, positive
from commands.options import CompareOptions, PictureOptions
from common.errors import UsageError
from data.datasets import check_data_seed
from evaluation.options import SECOND, MeasurementOptions

DOC = "Show, for two or more runs side by side, what speaks for an image's true class and for another one."


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of compare.py."""
    example = "python compare.py results/study/linear-seed0 results/study/dora-seed0 --out results/compare"
    made = make_parser(DOC, example)
    made.add_argument("runs", nargs="+", metavar="RUN", help=f"two or more: folders that train.py wrote, or {EXTERNAL}")
    add_data(made, default=None)
    add_relevance(made, comparing=True)
    group = made.add_argument_group("comparison")
    group.add_argument("--split", default="val", help="the split: val, or val_shuffled of drawn scenes")
    group.add_argument("--rows", type=positive, default=8, metavar="N", help="images in the picture")
    group.add_argument("--images", type=positive, default=64, metavar="N", help="images behind the numbers")
    group.add_argument(
        "--random-classes", type=positive, default=3, metavar="N", help="random classes per image, beside the true one"
    )
    group.add_argument(
        "--second",
        choices=SECOND,
        default="auto",
        help="class of the second heatmap: the first random class, the runner-up (the run's most probable class but "
        "the true one), or auto: the distractor's class where a scene shows unused equipment, else a random class",
    )
    group.add_argument(
        "--pick",
        nargs="+",
        metavar="IMAGE",
        help="compare these images instead of a sample, by their names in comparison.csv, and draw all of them",
    )
    add_picture(group, "an image")
    group.add_argument(
        "--layers",
        action="store_true",
        help="also write each block's and head's share of the relevance of all heads: layers.png, layers.csv",
    )
    group.add_argument(
        "--batch-size", type=positive, metavar="N", help="images at once (default: 16, on a GPU up to 128)"
    )
    group.add_argument("--out", type=path, required=True, metavar="DIR", help="the output folder")
    group.add_argument("--overwrite", action="store_true", help="replace a comparison of other settings in --out")
    add_external(made)
    add_workers(add_device(made))
    return made


def add_picture(group, several: str) -> None:
    """Add how heatmaps are drawn; several: what `shared` scales by one maximum."""
    group.add_argument(
        "--normalise",
        choices=("heatmap", "shared"),
        default="heatmap",
        help=f"scale every heatmap by its own maximum, or all of {several} by one",
    )
    group.add_argument(
        "--colour-map",
        type=colour_map,
        metavar="NAME",
        help="a matplotlib colour map (default: inferno, or RdBu_r for signed maps)",
    )


def compare_options(args: argparse.Namespace) -> CompareOptions:
    """Return the typed options; raises UsageError for what can be refused before any model is loaded."""
    _check_runs(args.runs)
    _check_data(args)
    (method,) = relevance_options(args)
    measurement = MeasurementOptions(
        relevance=(method,),
        images=args.images,
        random_classes=args.random_classes,
        data_seed=args.data_seed,
        batch_size=args.batch_size,
    )
    return CompareOptions(
        runs=tuple(args.runs),
        out=args.out,
        data=None if args.data is None else data_options(args),
        split=args.split,
        measurement=measurement,
        rows=args.rows,
        pick=tuple(args.pick or ()),
        second=args.second,
        picture=PictureOptions(args.normalise, args.colour_map),
        layers=args.layers,
        overwrite=args.overwrite,
        external=external_options(args, args.runs),
        running=replace(running_options(args), cache=None),
    )


def _check_data(args: argparse.Namespace) -> None:
    """Raise UsageError for a data seed out of range, and for what limits a data set where none is named."""
    check_data_seed(args.data_seed)
    limits = ("classes", "train_images", "val_images", "context_bias")
    given = [name for name in limits if getattr(args, name) is not None]
    if args.data is None and given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} belongs to --data, which was not given; without it, the data of the "
            f"first run that recorded its own are taken: give --data too, or take some by --images or --pick"
        )


def _check_runs(given: Sequence[str]) -> None:
    """Raise UsageError for fewer than two runs, or for one given twice."""
    if len(given) < 2:
        raise UsageError(f"one run was given ({given[0]}); comparing takes two or more")
    places = [Path(one).resolve() for one in given]
    if twice := [one for i, one in enumerate(given) if places[i] in places[:i]]:
        raise UsageError(f"{twice[0]} was given twice; comparing takes different runs")
