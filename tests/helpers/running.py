"""How tests run the commands: in this process or in one of their own, on two runs made once."""

import os
import random
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch
from tiny import NAME, SIZE

import train
from cli.command import run

ROOT = Path(__file__).parents[2]
RUN_FILES = {
    "config.json",
    "head.safetensors",
    "metrics.csv",
    "predictions.csv",
    "curves.png",
    "confusion.png",
    "summary.json",
    "timings.json",
}
ADAPTER_FILES = {f"adapter/{name}" for name in ("adapter_config.json", "adapter_model.safetensors", "README.md")}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")  # after python, before a script


def command(script, *argv) -> int:
    """Run a script's command line in this process; return the exit status."""
    try:
        return run(script.main, script.build_parser(), [str(a) for a in argv])
    except SystemExit as stop:  # argparse
        return stop.code


def process(*argv, **options) -> subprocess.Popen:
    """Start a command in a process of its own, with as many threads as this one."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONUNBUFFERED": "1"}
    environment["PYTHONFAULTHANDLER"] = "1"  # where Python was, should a process abort
    return subprocess.Popen(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def free_ports(count: int) -> list[str]:
    """Ports that are free, and that no system gives to a connection by itself (Linux begins at 32768)."""
    ports: list[str] = []
    while len(ports) < count:
        port = random.randrange(20000, 32000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            ports += [str(port)] if str(port) not in ports else []
    return ports


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def written(folder: Path) -> dict[str, bytes]:
    """Return the files of a comparison without its stored measurements."""
    return {name: content for name, content in files(folder).items() if not name.startswith("measurements/")}


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
