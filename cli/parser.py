"""The argument parser of every command, and the types of its options. Imports no torch."""

import argparse
import importlib.metadata
import os
import sys
from pathlib import Path

from common.errors import UsageError
from common.names import nearest


def make_parser(doc: str, example: str) -> argparse.ArgumentParser:
    """Return a parser whose help starts with the command's purpose and an example that runs as it stands.

    doc: the command's module docstring; its first line is the purpose.
    example: a complete command line.
    """
    made = Parser(
        description=f"{doc.strip().splitlines()[0]}\n\nexample:\n  {example}",
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action=_Version, help="print the versions of Python and of the packages, and exit")
    return made


class Parser(argparse.ArgumentParser):
    """Prints purpose and example before the usage line, and reports an error in one line."""

    renamed: dict[str, str] = {}

    def format_help(self) -> str:
        usage = self.format_usage()
        return super().format_help().replace(usage, "", 1).lstrip() + "\n" + usage

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"error: {message}; {self.prog} --help explains every option\n")

    def parse_args(self, args=None, namespace=None):
        """Parse as argparse does; refuse an option of an earlier version in one line that names the new one."""
        given = sys.argv[1:] if args is None else [str(one) for one in args]
        for one in given:
            name = one.split("=")[0]
            if name in self.renamed:
                raise UsageError(f"{name} is called {self.renamed[name]} in this version; use that")
        return super().parse_args(given, namespace)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description and appends defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default, silent = action.default, (None, False, argparse.SUPPRESS)
        if any(default is one for one in silent) or "default" in text or not action.option_strings or default == []:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list) else "%(default)s"
        return f"{text} (default: {shown})"


class _Version(argparse.Action):
    def __init__(self, option_strings, dest, **options) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        packages = ("torch", "torchvision", "timm", "peft", "numpy")
        versions = [f"{name} {_installed(name)}" for name in packages]
        parser.exit(0, f"Python {sys.version.split()[0]}, {', '.join(versions)}\n")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """Read a whole number of at least 0."""
    return _whole(text, 0)


def thread_count(text: str) -> int:
    """Read a number of threads: 1 to 4096."""
    return _whole(text, 1, 4096)


def worker_count(text: str) -> int:
    """Read a number of processes beside this one: 0 to 4096."""
    return _whole(text, 0, 4096)


def _whole(text: str, least: int, most: int = 2**31 - 1) -> int:
    if not text.strip().lstrip("+-").isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    if int(text) > most:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {most}")
    return int(text)


def path(text: str) -> Path:
    """Read a path; an empty one would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no path; give . for the current folder")
    return Path(text)


def positive_number(text: str) -> float:
    """Read a finite number above 0."""
    if 0 < (value := _number(text)) < float("inf"):
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")


def seconds(text: str) -> float:
    """Read a finite number of seconds, 0 or more."""
    if 0 <= (value := _number(text)) < float("inf"):
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")


def fraction_below_one(text: str) -> float:
    """Read a fraction from 0 up to, not including, 1."""
    if 0 <= (value := _number(text)) < 1:
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up to, not including, 1")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def colour_map(name: str) -> str:
    """Read the name of a matplotlib colour map."""
    import matplotlib  # takes a quarter of a second, which only calls with this option spend

    if name not in matplotlib.colormaps:
        near = nearest(name, list(matplotlib.colormaps))
        raise argparse.ArgumentTypeError(f"matplotlib has no colour map {name!r}; {near}")
    return name


def terminal_width() -> int:
    """Return the width of help texts in characters, 80 where there is no terminal."""
    given = os.environ.get("COLUMNS", "")
    return max(60, min(140, int(given) if given.isdecimal() and int(given) else _columns()))


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns
