"""train.py is killed or interrupted: what it leaves, continued, is what an undisturbed run leaves."""

import os
import signal
import time

import numpy as np
import pytest
from forked_training import SMALL, differing
from running import ADAPTER_FILES, RUN_FILES, command, files
from tiny import colour_folder

import train
from commands.train_output import METRICS
from models.runs import RESUME, SUMMARY


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
