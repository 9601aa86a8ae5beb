"""What it costs to solve a linear probe along its whole path of penalties: CPU time of one thread, features in memory.

    python benchmarks/probe.py --out docs/results/probe.md              13,500 features of 100 classes, 192 and 768 wide
    python benchmarks/probe.py --features 1000 --classes 10 --widths 64

Features are drawn around a centre for each class, so close that a probe confuses some: how long L-BFGS takes depends on
that.
"""

import argparse
import sys
from pathlib import Path

import torch
from timing import seconds  # beside this file; it finds the project's folders
from torch import Tensor, nn

from cli.command import run
from cli.parser import make_parser, positive
from common.tables import markdown_table, number, percent, write_text
from models.training.probe import WORSE, ProbeRecipe, fit_probe
from models.training.sampling import feature_batches

SPREAD = 0.28  # of a class's features, in distances of its centre from the origin
HELD_OUT = 0.1


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, "python benchmarks/probe.py --features 1000 --classes 10 --widths 64")
    parser.add_argument(
        "--features", type=positive, default=13500, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument("--classes", type=positive, default=100, metavar="C", help="(default: %(default)s)")
    parser.add_argument(
        "--widths",
        type=positive,
        nargs="+",
        default=[192, 768],
        metavar="D",
        help="of a feature: 192 is DeiT-Tiny's, 768 ViT-B's (default: 192 768)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write this as Markdown")
    return parser


def draw(count: int, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return features (count, D) around the centres (C, D), and their classes (count,)."""
    labels = torch.arange(count) % len(centres)
    return centres[labels] + SPREAD * centres.shape[1] ** 0.5 * torch.randn(count, centres.shape[1]), labels


def row(args: argparse.Namespace, width: int) -> dict[str, str]:
    """Solve one probe; return its row of the table."""
    torch.manual_seed(args.seed)
    centres, fits = torch.randn(args.classes, width), []
    inputs, labels = draw(args.features, centres)
    held_out = {"held_out": feature_batches(*draw(max(1, round(HELD_OUT * args.features)), centres), 1024)}

    spent = seconds(
        lambda: fits.append(
            fit_probe(nn.Linear(width, args.classes), inputs, labels, held_out, ProbeRecipe(), torch.device("cpu"))
        )
    )
    (found,) = fits
    chosen = found.history[found.chosen - 1]
    return {
        "features": f"{args.features:,} x {width}",
        "classes": f"{args.classes}",
        "seconds": number(spent, 1),
        "penalties": f"{len(found.history)}",
        "iterations": f"{sum(one['iterations'] for one in found.history)}",
        "held-out accuracy of the chosen": percent(chosen["held_out_accuracy"]),
    }


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    text = f"""# What a linear probe costs to solve

    python benchmarks/probe.py --features {args.features} --classes {args.classes} --widths {" ".join(map(str, args.widths))} --out FILE

Seconds of one CPU thread for the whole path of penalties, features in memory: full-batch L-BFGS, each penalty from where the one
before ended, until {WORSE} in a row do no better on as many held-out features as make a tenth (`models/training/probe.py`). torch {torch.__version__}.

{markdown_table([row(args, width) for width in args.widths], align="lrrrrr")}"""
    print(text)
    if args.out:
        write_text(args.out, text)


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="nothing was kept; the same command starts again"))
