"""Adapt a pretrained vision transformer to a folder of images, or to drawn scenes.

    python train.py --data scenes --method dora --epochs 1 --out results/dora

On several GPUs: torchrun --nproc_per_node 8 train.py ..., with the same options.
"""

import argparse
import sys

from cli.command import run
from cli.train import build_parser, train_options
from common.threads import prepare_threads


def main(args: argparse.Namespace) -> None:
    """Check the options, load the data, train."""
    options = train_options(args)  # refuses wrong options before torch is imported
    prepare_threads(options.running.threads)
    from commands.train import load, train

    train(options, load(options))


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), several=True))
