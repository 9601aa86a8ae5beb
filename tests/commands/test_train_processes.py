"""train.py in several processes does what it does in one."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from running import ROOT, TORCHRUN, command, files, process
from safetensors.numpy import load_file
from test_train_caches import accuracies, history
from tiny import colour_folder

import train


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
