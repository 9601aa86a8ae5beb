"""Measure the time to fit a linear probe along its path of penalties: CPU time of one thread, features in memory.

    python benchmarks/probe.py --out docs/results/probe.md    # 13,500 features of 100 classes, of width 192 and 768
    python benchmarks/probe.py --features 1000 --classes 10 --widths 64

Features are drawn around one centre per class, with overlap between classes, on which the number of L-BFGS iterations
depends.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the packages lie in the parent folder

import torch
from timing import seconds
from torch import Tensor, nn

from cli.command import run
from cli.parser import make_parser, positive
from common.tables import markdown_table, number, percent, write_text
from models.training.probe import WORSE, ProbeRecipe, fit_probe
from models.training.sampling import feature_batches

SPREAD = 0.28  # standard deviation of a class's features, relative to its centre's distance from the origin
HELD_OUT = 0.1


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(__doc__, "python benchmarks/probe.py --features 1000 --classes 10 --widths 64")
    parser.add_argument("--features", type=positive, default=13500, metavar="N", help="number of features")
    parser.add_argument("--classes", type=positive, default=100, metavar="C", help="number of classes")
    parser.add_argument(
        "--widths",
        type=positive,
        nargs="+",
        default=[192, 768],
        metavar="D",
        help="widths of features: 192 is DeiT-Tiny's, 768 ViT-B's (default: 192 768)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the features")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table as Markdown")
    return parser


def draw(count: int, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Draw features (count, D) around the centres (C, D); return them and their classes (count,)."""
    labels = torch.arange(count) % len(centres)
    return centres[labels] + SPREAD * centres.shape[1] ** 0.5 * torch.randn(count, centres.shape[1]), labels


def row(args: argparse.Namespace, width: int) -> dict[str, str]:
    """Fit one probe; return its row of the table."""
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
        "held-out accuracy": percent(chosen["held_out_accuracy"]),
    }


def main(args: argparse.Namespace) -> None:
    """Fit a probe of each width; print and write the table."""
    torch.set_num_threads(1)
    text = f"""# The time to fit a linear probe

    python benchmarks/probe.py --features {args.features} --classes {args.classes} --widths {" ".join(map(str, args.widths))} --out FILE

Seconds of one CPU thread for the whole path of penalties, features in memory: full-batch L-BFGS with warm starts, until
{WORSE} penalties in a row do not improve on held-out features, a tenth of their number (`models/training/probe.py`).
torch {torch.__version__}.

{markdown_table([row(args, width) for width in args.widths], align="lrrrrr")}"""
    print(text)
    if args.out:
        write_text(args.out, text)


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), interrupted="nothing was saved; the same command starts again"))
