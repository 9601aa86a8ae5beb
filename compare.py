"""Show, for two or more runs side by side, what speaks for an image's true class and for another one."""

import argparse
import sys

from cli.command import run
from cli.compare import build_parser, compare_options
from common.threads import prepare_threads

INTERRUPTED = "the comparison is not finished; the same command starts it again"


def main(args: argparse.Namespace) -> None:
    """Compare the runs."""
    options = compare_options(args)
    prepare_threads(options.running.threads)
    from commands.compare import compare  # torch is imported from here on, after every usage error that needs no model

    compare(options)


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), several=True, interrupted=INTERRUPTED))
