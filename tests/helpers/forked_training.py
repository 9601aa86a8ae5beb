"""train.py's command in processes that a test can stop, kill and starve."""

import gc
import multiprocessing.forkserver
import os
import signal
import sys
from fnmatch import fnmatch
from itertools import count
from pathlib import Path

# What a training imports, which takes seconds: the server of the processes below has it before it forks them.
import accelerate  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import peft  # noqa: F401
import pytest
from running import ROOT, files, free_ports

import commands.train  # noqa: F401
import train
from cli.command import run

gc.collect()
gc.freeze()  # a collection in a forked process would copy every page that holds one of these objects
FORKS = multiprocessing.get_context("forkserver")
SMALL = ["--epochs", 3, "--batch-size", 4, "--save-every", 0]  # three epochs of eight steps, each of them saved


def run_command(argv: list[str], said: Path, environment: dict, stop: tuple[str, int] | None, stopped, goes_on) -> None:
    """train.py's command in this process, which becomes the first of a group of its own; see Running."""
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # a loader's workers are this process's, not the server's
    os.environ |= environment
    for stream, suffix in ((sys.stdout, ".out"), (sys.stderr, ".error")):
        os.dup2(os.open(said.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    replace, seen = os.replace, count(1)

    def stand_still(name: str) -> None:
        if stop and fnmatch(name, stop[0]) and next(seen) == stop[1]:
            stopped.set()
            goes_on.wait()

    def replace_and_stop(temporary, path) -> None:
        stand_still(Path(temporary).name)
        replace(temporary, path)
        with said.with_suffix(".written").open("a") as file:
            file.write(f"{path}\n")
        stand_still(Path(path).name)

    os.replace = replace_and_stop
    sys.exit(run(train.main, train.build_parser(), argv, several=True))


class Running:
    """train.py's command in as many processes as there are `ranks`, with the environment that torchrun gives to
    several.

    stop: a pattern of file names and a number n; the first process stands still when the n-th such file is in its
    place, or just before that, where the pattern is one of temporary names.
    """

    def __init__(self, argv: list, said: Path, ranks: int = 1, stop: tuple[str, int] | None = None) -> None:
        self.said, self.stopped, self.goes_on = said, FORKS.Event(), FORKS.Event()
        shared = {
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_ports(1)[0],
            "TORCHELASTIC_RUN_ID": "a test",
        }
        self.processes = []
        for rank in range(ranks):
            environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            self.processes.append(
                FORKS.Process(
                    target=run_command,
                    args=(
                        list(map(str, argv)),
                        said.with_name(f"{said.name}-{rank}"),
                        environment,
                        stop if rank == 0 else None,
                        self.stopped,
                        self.goes_on,
                    ),
                )
            )
            self.processes[-1].start()

    @property
    def out(self) -> str:
        return self.said.with_name(f"{self.said.name}-0.out").read_text()

    def written(self, rank: int) -> list[Path]:
        """The files that a process has put into their places."""
        told = self.said.with_name(f"{self.said.name}-{rank}.written")
        return [Path(line) for line in told.read_text().splitlines()] if told.exists() else []

    @property
    def error(self) -> str:
        return self.said.with_name(f"{self.said.name}-0.error").read_text()

    def stands_still(self) -> None:
        """Wait until it does."""
        while not self.stopped.wait(0.05):
            assert self.processes[0].is_alive(), self.error

    def ends(self) -> list[int]:
        """Return the exit statuses of all processes, once they have ended by themselves or were killed."""
        for one in self.processes:
            one.join(300)
        return [one.exitcode for one in self.processes]

    def dies(self) -> None:
        """Kill all processes and those they have started, while all of them live."""
        assert all(one.is_alive() for one in self.processes), self.error
        for one in self.processes:
            os.killpg(one.pid, signal.SIGKILL)
        assert self.ends() == [-signal.SIGKILL] * len(self.processes)


@pytest.fixture(scope="module")
def server():
    """A process that has imported what commands need, which takes seconds: commands are forked from it, so that each
    begins as a fresh one does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}")
        patch.setenv("OMP_NUM_THREADS", "1")
        FORKS.set_forkserver_preload([__name__])
        multiprocessing.forkserver.ensure_running()


@pytest.fixture
def start(server, tmp_path):
    """Start train.py's command as Running does; what still runs when the test ends is killed."""
    begun = []

    def started(argv: list, ranks: int = 1, stop: tuple[str, int] | None = None) -> Running:
        begun.append(Running(argv, tmp_path / f"said-{len(begun)}", ranks, stop))
        return begun[-1]

    yield started
    for one in (child for running in begun for child in running.processes):
        one.kill()
        one.join()


def differing(a: Path, b: Path) -> set[str]:
    first, second = files(a), files(b)
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} - {"timings.json"}
