"""Draw what speaks for one or more classes in your own images, by one or more relevance methods."""

import argparse
import sys

from cli.command import run
from cli.visualize import build_parser, visualize_options
from common.threads import prepare_threads

INTERRUPTED = "the pictures drawn so far are whole; the same command draws all of them again"


def main(args: argparse.Namespace) -> None:
    """Draw the pictures."""
    options = visualize_options(args)
    prepare_threads(options.running.threads)
    # torch is imported from here on, after every usage error that needs no model
    from commands.visualize import visualize

    visualize(options)


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), several=True, interrupted=INTERRUPTED))
