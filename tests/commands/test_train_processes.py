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

TELLS_WHO_WRITES = """
import atexit
import glob
import os

replace = os.replace

def told(temporary, path):
    replace(temporary, path)
    with open(os.environ["WHO_WRITES"], "a") as file:
        file.write(f"{os.environ.get('RANK', '0')} {path}\\n")

os.replace = told

@atexit.register
def tell_threads():
    with open(os.environ["WHO_RUNS"], "a") as file:
        file.writelines(open(thread).read() for thread in glob.glob("/proc/self/task/*/comm"))
"""


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
    each once; the first process alone puts files into the run's folder; and all end without threads that are left."""
    data = colour_folder(tmp_path / "data", val=50)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(TELLS_WHO_WRITES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("WHO_WRITES", str(tmp_path / "written"))
    monkeypatch.setenv("WHO_RUNS", str(tmp_path / "threads"))
    argv = ["--data", data, *shop.model[:-1], tmp_path / "cache", "--method", *settings]
    argv += ["--epochs", 2] if settings[0] != "linear" else []
    assert command(train, *argv, "--out", tmp_path / "one") == 0
    shutil.rmtree(tmp_path / "cache")
    running = process(*TORCHRUN, "train.py", *argv, "--out", tmp_path / "two")
    assert (said := running.communicate(timeout=300)) and running.returncode == 0, said[1]
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
    assert "gloo" not in (tmp_path / "threads").read_text(), "no thread of a group outlives the interpreter"


def test_the_documentation_names_the_torchrun_lines():
    text = (ROOT / "docs" / "training.md").read_text()
    assert "torchrun --nproc_per_node 8 train.py" in text
    assert "torchrun --nnodes 2 --nproc_per_node 8 --rdzv-backend" in text
