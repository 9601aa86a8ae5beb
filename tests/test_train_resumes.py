"""train.py is killed, shared and starved: what it leaves is what an undisturbed run leaves."""

import json
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import train
from commands import ROOT, command, files, process
from test_processes import TORCHRUN
from test_train_caches import accuracies, history

SMALL = ["--epochs", 4, "--batch-size", 4, "--save-every", 0]


def killed_until_done(argv: list, moments, tmp_path: Path) -> int:
    """Start a command again and again, kill all its processes at the given seconds after training has begun; return how
    often it was killed before it ended by itself."""
    for kills, moment in enumerate([*moments, None]):
        running = process(*argv, start_new_session=True)
        for line in running.stdout:
            if "trainable parameters" in line:
                break
        if moment is not None:
            time.sleep(moment)
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
        out, error = running.communicate(timeout=300)
        if running.returncode == 0:
            return kills
        assert running.returncode == -signal.SIGKILL, error
    raise AssertionError("it never ended")


def differing(a: Path, b: Path) -> set[str]:
    first, second = files(a), files(b)
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} - {"timings.json"}


@pytest.mark.parametrize("settings, workers, launcher", [
    (["dora"], 0, ()), pytest.param(["full", "--ema", 0.9, "--mixup", 0.4, "--drop-path", 0.2], 0, (), marks=pytest.mark.slow),
    pytest.param(["dora:blocks=4-5"], 2, (), marks=pytest.mark.slow),
    pytest.param(["dora"], 0, TORCHRUN, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_at_any_moment_ends_with_the_same_bits(shop, tmp_path, settings, workers, launcher):
    argv = [*shop.options, "--method", *settings, *SMALL, "--workers", workers, "--out"]
    whole = process(*launcher, "train.py", *argv, tmp_path / "whole")
    out, error = whole.communicate(timeout=300)
    assert whole.returncode == 0, error
    moments = np.random.default_rng(len(settings)).uniform(0.0, 1.5, 3)
    kills = killed_until_done([*launcher, "train.py", *argv, tmp_path / "killed"], moments, tmp_path)
    assert kills, "it was killed at least once"
    assert differing(tmp_path / "whole", tmp_path / "killed") == set()
    assert not [p for p in (tmp_path / "killed").rglob(".*") if p.is_file()], "nothing half-written is left"


@pytest.mark.parametrize("settings", [["dora", "--batch-size", 7], pytest.param(["linear"], marks=pytest.mark.slow),
                                      pytest.param(["full", "--accumulate", 2, "--clip", 1], marks=pytest.mark.slow),
                                      pytest.param(["lora:blocks=5", "--augment-views", 1], marks=pytest.mark.slow)])
def test_two_processes_do_what_one_does(shop, tmp_path, settings):
    """32 images in steps of 7: an odd number in each, so that one process has more; 18 to evaluate, each once."""
    for name, launcher in (("one", ()), ("two", TORCHRUN)):
        more = ["--epochs", 2] if settings[0] != "linear" else []
        running = process(*launcher, "train.py", "--data", shop.colours, *shop.model[:-1], tmp_path / f"cache-{name}", "--method",
                          *settings, *more, "--out", tmp_path / name)
        out, error = running.communicate(timeout=300)
        assert running.returncode == 0, error
    one, two = tmp_path / "one", tmp_path / "two"
    assert files(one).keys() == files(two).keys() and accuracies(one) == accuracies(two)
    for row, other in zip(history(one), history(two), strict=True):
        assert all(float(row[key]) == pytest.approx(float(other[key]), rel=2e-3, abs=1e-5) for key in row)
    weights = [load_file(run / "head.safetensors") for run in (one, two)]
    assert all(np.allclose(weights[0][key], weights[1][key], atol=1e-3) for key in weights[0])
    rows = [[line.split(",")[:2] for line in (run / "predictions.csv").read_text().splitlines()] for run in (one, two)]
    assert rows[0] == rows[1] and len(rows[0]) == 1 + 32 + 4 + 18


def test_a_full_disk_is_one_line_and_leaves_the_last_good_state(shop, tmp_path):
    """The file system refuses every file larger than a resume state may get here."""
    argv = ["train.py", *shop.options, "--method", "full", *SMALL, "--out", tmp_path / "run"]

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))

    running = process(*argv, preexec_fn=limit)
    out, error = running.communicate(timeout=120)
    assert running.returncode == 1 and error.startswith("error: ") and error.count("\n") == 1, error
    assert "free space or give another place" in error and "Traceback" not in error
    assert not (tmp_path / "run" / "summary.json").exists() and not list((tmp_path / "run").glob(".*"))
    again = process(*argv)
    assert again.wait(120) == 0 and (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.parametrize("options, recipe", [
    (["--mixup", 0.4, "--cutmix", 1.0], {"mixup": 0.4, "cutmix": 1.0}), (["--amp", "bfloat16"], {"precision": "bfloat16"}),
    (["--balance", "sampling", "--patience", 1], {"balance": "sampling", "patience": 1}),
    (["--balance", "weights", "--augment", "rand"], {"balance": "weights", "augment": "rand"}),
    (["--drop-path", 0.2, "--layer-decay", 0.7, "--ema", 0.9], {"drop_path": 0.2, "layer_decay": 0.7, "ema": 0.9})])
def test_what_people_ask_of_training_is_recorded_and_trains(shop, tmp_path, options, recipe):
    assert command(train, *shop.options, "--method", "full", "--head-init", "random", "--epochs", 4, *options,
                   "--out", tmp_path) == 0
    found = json.loads((tmp_path / "config.json").read_text())["recipe"]
    assert {key: found[key] for key in recipe} == recipe and found["precision"] == recipe.get("precision", "no")
    losses = [float(row["val_loss"]) for row in history(tmp_path)]
    assert min(losses) < losses[0] or len(losses) < 3


def test_a_slow_loader_is_named(shop, tmp_path, monkeypatch, capsys):
    import training

    monkeypatch.setattr(training, "SLOW", 0.05)
    item = training.Prepared.__getitem__
    monkeypatch.setattr(training.Prepared, "__getitem__", lambda self, index: (time.sleep(0.02), item(self, index))[1])
    assert command(train, *shop.options, "--method", "dora", "--epochs", 1, "--out", tmp_path) == 0
    assert "the loader, not the model, is the limit; give --workers 2" in capsys.readouterr().err
    timings = json.loads((tmp_path / "timings.json").read_text())
    assert 0.6 < timings["waiting_for_images_seconds"] < timings["steps_seconds"]


def test_frozen_blocks_are_not_taken_for_the_loader(shop, tmp_path, monkeypatch, capsys):
    import training

    monkeypatch.setattr(training, "SLOW", 0.05)
    forward = training.Frozen.forward
    monkeypatch.setattr(training.Frozen, "forward", lambda self, images: (time.sleep(0.5), forward(self, images))[1])
    assert command(train, *shop.options, "--method", "dora:blocks=5", "--epochs", 1, "--out", tmp_path) == 0
    assert "is the limit" not in capsys.readouterr().err
    timings = json.loads((tmp_path / "timings.json").read_text())
    assert timings["waiting_for_images_seconds"] < 0.5 < timings["steps_seconds"]


def test_tensorboard_is_written_where_it_is_installed_and_named_where_it_is_not(shop, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(train.importlib.util, "find_spec", lambda name: None)
    assert "pip install tensorboard" in refused(train, "--tensorboard", "--method", "dora", "--out", tmp_path / "run")


def test_the_readme_names_the_torchrun_line():
    assert "torchrun --nproc_per_node" in (ROOT / "README.md").read_text()
