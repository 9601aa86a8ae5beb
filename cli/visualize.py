"""The command line of visualize.py. Imports no torch."""

import argparse
from pathlib import Path

from cli.arguments import (
    EXTERNAL,
    add_device,
    add_external,
    add_relevance,
    external_options,
    relevance_options,
    running_options,
)
from cli.compare import add_picture
from cli.parser import make_parser, path
from commands.options import PictureOptions, VisualizeOptions
from commands.visualize_files import image_files

DOC = "Draw what speaks for one or more classes in your own images, by one or more relevance methods."


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of visualize.py."""
    made = make_parser(
        DOC,
        "python visualize.py results/study/dora-seed0 photo.jpg --targets pred tennis --relevance lrp_magnitude lrp",
    )
    made.add_argument("run", metavar="RUN", help=f"a folder that train.py wrote, or {EXTERNAL}")
    made.add_argument("images", nargs="+", metavar="IMAGE", help="image files, folders, or quoted globs")
    add_relevance(made, several=True)
    group = made.add_argument_group("pictures")
    group.add_argument(
        "--targets",
        nargs="+",
        default=[],
        metavar="T",
        help="'true' (the class named by the image's folder), 'pred' (the predicted class), or class names "
        "(default: the three most probable)",
    )
    add_picture(group, "a method")
    group.add_argument(
        "--layers",
        action="store_true",
        help="also draw the relevance of each head of each block, IMAGE-layers-METHOD-COLUMN-CLASS.png: what it "
        "adds to the map or, for signed methods, what it carries away from each patch, which does not add up to the "
        "map",
    )
    add_external(made)
    group = made.add_argument_group("output")
    group.add_argument(
        "--out",
        type=path,
        default=Path("results/visualize"),
        metavar="DIR",
        help="folder of IMAGE.png, or of IMAGE-contrast-mean-centre-head.png where these options are given "
        "(default: %(default)s)",
    )
    add_device(made)
    return made


def visualize_options(args: argparse.Namespace) -> VisualizeOptions:
    """Return the typed options; raises UsageError for what can be refused before any model is loaded."""
    relevance = tuple(relevance_options(args))
    return VisualizeOptions(
        run=args.run,
        images=tuple(image_files(args.images)),
        targets=tuple(args.targets),
        relevance=relevance,
        picture=PictureOptions(args.normalise, args.colour_map),
        layers=args.layers,
        out=args.out,
        external=external_options(args, [args.run]),
        running=running_options(args),
    )
