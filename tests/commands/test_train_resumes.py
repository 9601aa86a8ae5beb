"""train.py is killed, shared and starved: what it leaves is what an undisturbed run leaves."""

import json
import multiprocessing.forkserver
import os
import re
import resource
import signal
import sys
import time
from fnmatch import fnmatch
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from running import ROOT, TORCHRUN, command, files, free_ports, process
from safetensors.numpy import load_file
from test_train_caches import accuracies, history
from tiny import colour_folder

import train
from cli.command import run
from data.transforms import Prepared
from models.runs import RESUME, SUMMARY, load_run
from models.training import loading
from models.training.model_halves import FrozenPart

SMALL = ["--epochs", 4, "--batch-size", 4, "--save-every", 0]
TELLS_WHO_WRITES = """
import os

replace = os.replace

def told(temporary, path):
    replace(temporary, path)
    with open(os.environ["WHO_WRITES"], "a") as file:
        file.write(f"{os.environ.get('RANK', '0')} {path}\\n")

os.replace = told
"""
FORKS = multiprocessing.get_context("forkserver")


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
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'commands'}")
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


@pytest.mark.parametrize(
    "settings, workers, ranks",
    [
        (["dora"], 0, 1),
        pytest.param(["full", "--ema", 0.9, "--mixup", 0.4, "--drop-path", 0.2], 0, 1, marks=pytest.mark.slow),
        pytest.param(["dora:blocks=4-5"], 2, 1, marks=pytest.mark.slow),
        (["dora"], 0, 2),
        pytest.param(["dora:blocks=4-5"], 2, 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_at_any_moment_ends_with_the_same_bits(shop, tmp_path, start, settings, workers, ranks):
    """While it saves its first state or its third, at some moment after a step or an epoch, between what it saves of an
    epoch, and while it writes what it has found."""
    argv, killed = [*shop.options, "--method", *settings, *SMALL, "--workers", workers, "--out"], tmp_path / "killed"
    whole = start([*argv, tmp_path / "whole"], ranks)
    assert whole.ends() == [0] * ranks, whole.error
    seconds = iter(np.random.default_rng(len(settings)).uniform(0.0, 0.2, 2))
    for *stop, late in (
        (".resume.*", 1, False),
        (".resume.*", 3, False),
        (RESUME, 2, True),
        ("metrics.csv", 1, False),
        ("metrics.csv", 1, True),
        ("predictions.csv", 1, False),
    ):
        running = start([*argv, killed], ranks, tuple(stop))
        running.stands_still()
        if late:
            running.goes_on.set()
            time.sleep(next(seconds))
        running.dies()
        assert not (killed / SUMMARY).exists(), "it was not finished"
    running = start([*argv, killed], ranks)
    assert running.ends() == [0] * ranks, running.error
    assert "continuing after epoch 4 of 4" in running.out
    assert differing(tmp_path / "whole", killed) == set()
    assert not [p for p in killed.rglob(".*") if p.is_file()], "nothing half-written is left"


def test_a_run_that_is_killed_while_frozen_parts_are_computed_ends_with_the_same_bits(tmp_path, shop, start):
    """Before the first tokens are kept, between tokens and labels, between two chunks, and between the second's tokens
    and features: a chunk that was there stays as it is."""
    data, killed = colour_folder(tmp_path / "data", train=90), tmp_path / "killed"
    argv = ["--data", data, *shop.model[:-1]]
    more = ["--method", "dora:blocks=4-5", "--augment", "none", "--epochs", 2, "--batch-size", 32, "--out"]
    whole = start([*argv, tmp_path / "cache-whole", *more, tmp_path / "whole"])
    assert whole.ends() == [0], whole.error
    cache, kept = tmp_path / "cache-killed", {}
    for stop in ((".inputs-*", 1), ("inputs-*", 1), ("labels-*", 2), ("inputs-*", 2)):
        running = start([*argv, cache, *more, killed], stop=stop)
        running.stands_still()
        assert "trainable parameters" not in running.out
        running.dies()
        assert not (killed / SUMMARY).exists() and not (killed / RESUME).exists()
        now = {path: path.stat().st_mtime_ns for path in cache.glob("*/[il]*.npy")}
        assert now.items() >= kept.items()
        kept = now if stop[0] == "labels-*" else kept
    assert len(kept) == 4 and len(now) == 7, (
        "tokens, features and labels of a chunk; of the second all but features' labels"
    )
    running = start([*argv, cache, *more, killed])
    assert running.ends() == [0], running.error
    assert differing(tmp_path / "whole", killed) == set()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_run_that_is_killed_before_it_has_cleaned_up_is_cleaned_up_when_it_is_reused(shop, tmp_path, start):
    argv = [*shop.dora_options, "--out", tmp_path / "run"]
    running = start(argv, stop=(SUMMARY, 1))
    running.stands_still()
    running.dies()
    assert differing(shop.dora, tmp_path / "run") == {RESUME}
    again = start(argv)
    assert again.ends() == [0] and "finished: reused" in again.out, again.error
    assert differing(shop.dora, tmp_path / "run") == set()


@pytest.mark.parametrize(
    "settings",
    [
        ["dora", "--batch-size", 7],
        pytest.param(["linear"], marks=pytest.mark.slow),
        pytest.param(["full", "--accumulate", 2, "--clip", 1], marks=pytest.mark.slow),
        pytest.param(["lora:blocks=5", "--augment-views", 1], marks=pytest.mark.slow),
    ],
)
def test_two_processes_do_what_one_does(shop, tmp_path, monkeypatch, settings):
    """32 images in steps of 7: an odd number in each, so that one process has more; 150 to evaluate in three batches,
    each once; and the first process alone puts files into the run's folder."""
    data = colour_folder(tmp_path / "data", val=50)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(TELLS_WHO_WRITES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("WHO_WRITES", str(tmp_path / "written"))
    for name, launcher in (("one", ()), ("two", TORCHRUN)):
        more = ["--epochs", 2] if settings[0] != "linear" else []
        running = process(
            *launcher,
            "train.py",
            "--data",
            data,
            *shop.model[:-1],
            tmp_path / f"cache-{name}",
            "--method",
            *settings,
            *more,
            "--out",
            tmp_path / name,
        )
        out, error = running.communicate(timeout=300)
        assert running.returncode == 0, error
    one, two = tmp_path / "one", tmp_path / "two"
    assert files(one).keys() == files(two).keys() and accuracies(one) == accuracies(two)
    for row, other in zip(history(one), history(two), strict=True):
        assert all(float(row[key]) == pytest.approx(float(other[key]), rel=2e-3, abs=1e-5) for key in row)
    weights = [load_file(run / "head.safetensors") for run in (one, two)]
    assert all(np.allclose(weights[0][key], weights[1][key], atol=1e-3) for key in weights[0])
    rows = [[line.split(",")[:2] for line in (run / "predictions.csv").read_text().splitlines()] for run in (one, two)]
    assert rows[0] == rows[1] and len(rows[0]) == 1 + 32 + 4 + 150
    written = [line.split(" ", 1) for line in (tmp_path / "written").read_text().splitlines()]
    assert {rank for rank, path in written if Path(path).is_relative_to(two)} == {"0"}
    assert {Path(path).name for _, path in written} >= {
        "config.json",
        "head.safetensors",
        "predictions.csv",
        "summary.json",
    }


def test_a_full_disk_is_one_line_and_leaves_the_last_good_state(shop, tmp_path, start):
    """In the second epoch, the file system begins to refuse every file as large as a state."""
    argv, run = [*shop.options, "--method", "full", *SMALL, "--out"], tmp_path / "run"
    whole = start([*argv, tmp_path / "whole"])
    running = start([*argv, run], stop=(RESUME, 12))
    running.stands_still()
    good, pid = (run / RESUME).read_bytes(), running.processes[0].pid
    assert len(good) > 1_000_000
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1_000_000, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))
    running.goes_on.set()
    assert running.ends() == [1] and running.error.startswith("error: ") and running.error.count("\n") == 1, (
        running.error
    )
    assert "free space or give another place" in running.error and "Traceback" not in running.error
    assert (run / RESUME).read_bytes() == good, "the last good state is as it was"
    assert not (run / SUMMARY).exists() and not list(run.glob(".*"))
    again = start([*argv, run])
    assert again.ends() == [0] and "continuing after step 4 of 8 in epoch 2" in again.out, again.error
    assert whole.ends() == [0] and differing(tmp_path / "whole", run) == set()


@pytest.mark.parametrize(
    "method, more, stop, limit, name",
    [
        ("full", [], RESUME, 1_000_000, "backbone.safetensors"),
        ("dora", [], RESUME, 10_000, "adapter"),
        ("linear", ["--export", "merged.safetensors"], SUMMARY, 1_000_000, "merged.safetensors"),
    ],
)
def test_a_disk_that_is_full_when_results_are_written_is_one_line(
    shop, tmp_path, start, method, more, stop, limit, name
):
    """Then the same command writes them, of the state that was kept."""
    run = tmp_path / "run"
    more = [tmp_path / option if option == name else option for option in more]
    argv = [*shop.options, "--method", method, *(["--epochs", 1] if method != "linear" else []), *more, "--out", run]
    running = start(argv, stop=(stop, 1))
    running.stands_still()
    pid = running.processes[0].pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))
    running.goes_on.set()
    assert running.ends() == [1] and re.fullmatch(r"error: .*free space or give another place\n", running.error), (
        running.error
    )
    place = (tmp_path if more else run) / name
    assert name in running.error and not place.exists() and not list(place.parent.glob(".*"))
    again = start(argv)
    assert again.ends() == [0] and place.exists(), again.error
    assert load_run(run).summary


@pytest.mark.parametrize(
    "options, recipe",
    [
        (["--mixup", 0.4, "--cutmix", 1.0], {"mixup": 0.4, "cutmix": 1.0}),
        (["--amp", "bfloat16"], {"precision": "bfloat16"}),
        (["--balance", "sampling", "--patience", 1], {"balance": "sampling", "patience": 1}),
        (["--balance", "weights", "--augment", "rand"], {"balance": "weights", "augment": "rand"}),
        (["--drop-path", 0.2, "--layer-decay", 0.7, "--ema", 0.9], {"drop_path": 0.2, "layer_decay": 0.7, "ema": 0.9}),
    ],
)
def test_what_people_ask_of_training_is_recorded_and_trains(shop, tmp_path, options, recipe):
    assert (
        command(
            train,
            *shop.options,
            "--method",
            "full",
            "--head-init",
            "random",
            "--epochs",
            4,
            *options,
            "--out",
            tmp_path,
        )
        == 0
    )
    found = json.loads((tmp_path / "config.json").read_text())["recipe"]
    assert {key: found[key] for key in recipe} == recipe and found["precision"] == recipe.get("precision", "no")
    losses = [float(row["val_loss"]) for row in history(tmp_path)]
    assert min(losses) < losses[0] or len(losses) < 3


def test_a_slow_loader_is_named(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "SLOW", 0.05)
    item = Prepared.__getitem__
    monkeypatch.setattr(Prepared, "__getitem__", lambda self, index: (time.sleep(0.02), item(self, index))[1])
    assert command(train, *shop.options, "--method", "dora", "--epochs", 1, "--out", tmp_path) == 0
    assert "the loader, not the model, is the limit; give --workers 2" in capsys.readouterr().err
    timings = json.loads((tmp_path / "timings.json").read_text())
    assert 0.6 < timings["waiting_for_images_seconds"] < timings["steps_seconds"]


def test_frozen_blocks_are_not_taken_for_the_loader(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "SLOW", 0.05)
    forward = FrozenPart.forward
    monkeypatch.setattr(FrozenPart, "forward", lambda self, images: (time.sleep(0.5), forward(self, images))[1])
    assert command(train, *shop.options, "--method", "dora:blocks=5", "--epochs", 1, "--out", tmp_path) == 0
    assert "is the limit" not in capsys.readouterr().err
    timings = json.loads((tmp_path / "timings.json").read_text())
    assert timings["waiting_for_images_seconds"] < 0.5 < timings["steps_seconds"]


def test_tensorboard_is_written_where_it_is_installed_and_named_where_it_is_not(shop, tmp_path, refused, monkeypatch):
    monkeypatch.setattr("cli.train.importlib.util.find_spec", lambda name: None)
    assert "pip install tensorboard" in refused(train, "--tensorboard", "--method", "dora", "--out", tmp_path / "run")


def test_the_documentation_names_the_torchrun_lines():
    text = (ROOT / "docs" / "training.md").read_text()
    assert "torchrun --nproc_per_node 8 train.py" in text
    assert "torchrun --nnodes 2 --nproc_per_node 8 --rdzv-backend" in text
