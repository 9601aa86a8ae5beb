"""train.py in processes of its own: what a killed, interrupted or starved one leaves, continued, is what an undisturbed
one leaves; several do what one does.

All of it in one module, as its processes are forked from one server, which takes seconds to start.
"""

import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from forked_training import SMALL, differing
from running import ADAPTER_FILES, ROOT, RUN_FILES, TORCHRUN, command, files, process
from safetensors.numpy import load_file
from test_train_caches import accuracies, history
from tiny import colour_folder

import train
from commands.train_output import METRICS
from models.runs import RESUME, SUMMARY, load_run

# ---- killed and interrupted


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
    )[ranks - 1 :: ranks]:  # every second one for two processes, which take twice as long
        running = start([*argv, killed], ranks, tuple(stop))
        running.stands_still()
        if late:
            running.goes_on.set()
            time.sleep(next(seconds))
        running.dies()
        assert not (killed / SUMMARY).exists(), "it was not finished"
    running = start([*argv, killed], ranks)
    assert running.ends() == [0] * ranks, running.error
    assert "continuing after epoch 3 of 3" in running.out
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


def test_an_interrupted_training_continues_to_the_same_bytes(shop, tmp_path, start, capsys):
    argv = [*shop.options, "--method", "dora", "--epochs", 4, "--batch-size", 2, "--out"]
    running = start([*argv, tmp_path / "run"], stop=(METRICS, 2))
    running.stands_still()
    os.kill(running.processes[0].pid, signal.SIGINT)
    assert running.ends() == [130]
    assert running.error == "interrupted; run the same command to resume from the last saved state\n"
    assert "resume.safetensors" in files(tmp_path / "run") and "summary.json" not in files(tmp_path / "run")
    assert command(train, *argv, tmp_path / "run") == 0
    assert "continuing after epoch" in capsys.readouterr().out
    assert command(train, *argv, tmp_path / "whole") == 0
    continued, whole = files(tmp_path / "run"), files(tmp_path / "whole")
    assert continued.keys() == whole.keys() == RUN_FILES | ADAPTER_FILES
    assert {name for name in whole if whole[name] != continued[name]} <= {"timings.json"}


# ---- a full disk


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


# ---- several processes


@pytest.fixture
def both(shop, tmp_path):
    """Train in one process; return the options with which to train in two, and a folder for them."""

    def trained(*settings) -> list:
        data = colour_folder(tmp_path / "data", val=50)
        argv = ["--data", data, *shop.model[:-1], tmp_path / "cache", "--method", *settings]
        argv += ["--epochs", 2] if settings[0] != "linear" else []
        assert command(train, *argv, "--out", tmp_path / "one") == 0
        shutil.rmtree(tmp_path / "cache")
        return [*argv, "--out", tmp_path / "two"]

    return trained


def check_alike(one: Path, two: Path) -> None:
    """32 images in steps of 7: an odd number in each, so that one process has more; 150 to evaluate in three batches,
    each once."""
    assert files(one).keys() == files(two).keys() and accuracies(one) == accuracies(two)
    for row, other in zip(history(one), history(two), strict=True):
        assert all(float(row[key]) == pytest.approx(float(other[key]), rel=2e-3, abs=1e-5) for key in row)
    weights = [load_file(run / "head.safetensors") for run in (one, two)]
    assert all(np.allclose(weights[0][key], weights[1][key], atol=1e-3) for key in weights[0])
    rows = [[line.split(",")[:2] for line in (run / "predictions.csv").read_text().splitlines()] for run in (one, two)]
    assert rows[0] == rows[1] and len(rows[0]) == 1 + 32 + 4 + 150


def test_two_processes_do_what_one_does(both, tmp_path, start):
    """And the first process alone puts files into the run's folder."""
    running = start(both("dora", "--batch-size", 7), ranks=2)
    assert running.ends() == [0, 0], running.error
    check_alike(tmp_path / "one", tmp_path / "two")
    assert {path.name for path in running.written(0)} >= {"config.json", "head.safetensors", "summary.json"}
    assert not [path for path in running.written(1) if path.is_relative_to(tmp_path / "two")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["dora", "--batch-size", 7],
        ["linear"],
        ["full", "--accumulate", 2, "--clip", 1],
        ["lora:blocks=5", "--augment-views", 1],
    ],
)
def test_torchrun_does_what_one_process_does(both, tmp_path, settings):
    running = process(*TORCHRUN, "train.py", *both(*settings))
    _, error = running.communicate(timeout=300)
    assert running.returncode == 0, error
    check_alike(tmp_path / "one", tmp_path / "two")


def test_the_documentation_names_the_torchrun_lines():
    text = (ROOT / "docs" / "training.md").read_text()
    assert "torchrun --nproc_per_node 8 train.py" in text
    assert "torchrun --nnodes 2 --nproc_per_node 8 --rdzv-backend" in text
