"""Run the whole experiment: train every method and seed, measure, compare, report what is supported."""

import argparse
import sys

from cli.command import run
from cli.study import build_parser, study_options
from common.threads import prepare_threads


def main(args: argparse.Namespace) -> None:
    """Run the study."""
    options = study_options(args)
    prepare_threads(options.running.threads)
    from commands.study import study  # torch is imported from here on, after every usage error that needs no model

    study(options)


if __name__ == "__main__":
    sys.exit(run(main, build_parser(), several=True))
