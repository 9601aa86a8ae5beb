"""How tests run the commands: in this process or in one of their own, on two runs made once."""

import os
import subprocess
import sys
from pathlib import Path

import torch

import commandline
import train
from tiny import NAME, SIZE

ROOT = Path(__file__).parents[1]


def command(script, *argv) -> int:
    """Run a script's command line in this process; return the exit status."""
    try:
        return commandline.run(script.main, script.build_parser(), [str(a) for a in argv])
    except SystemExit as stop:  # argparse
        return stop.code


def process(*argv, **options) -> subprocess.Popen:
    """Start a command in a process of its own, with as many threads as this one."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([sys.executable, *map(str, argv)], cwd=ROOT, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Shop:
    """A folder with data, weights and two finished runs, and the options that they were made with."""

    def __init__(self, root: Path, colours: Path, weights: Path) -> None:
        self.root, self.colours, self.weights, self.cache = root, colours, weights, root / "cache"
        self.model = ["--model", NAME, "--weights", weights, "--image-size", SIZE, "--cache", self.cache]
        self.options = ["--data", colours, *self.model]
        self.linear, self.dora = root / "linear", root / "dora"
        self.dora_options = [*self.options, "--method", "dora", "--epochs", 2]
        assert command(train, *self.options, "--out", self.linear) == 0
        assert command(train, *self.dora_options, "--out", self.dora) == 0
