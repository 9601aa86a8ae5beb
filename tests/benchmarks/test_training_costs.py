"""benchmarks/train.py, probe.py and dora.py run from end to end, and tell how training compares with a plain loop."""

import re

import dora
import pytest
from benchmark_modules import benchmark
from running import command
from tiny import NAME


@pytest.fixture(scope="module")
def training():
    return benchmark("train")


@pytest.mark.slow
def test_train_times_whole_processes(training, weights, colours, tmp_path):
    out = tmp_path / "training.md"
    assert (
        command(
            training,
            "--data",
            colours,
            "--model",
            NAME,
            "--weights",
            weights,
            "--epochs",
            2,
            "--dora-epochs",
            2,
            "--blocks",
            "4-5",
            "--out",
            out,
        )
        == 0
    )
    text = out.read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows if row[0][:4] in ("plai", "trai")] == [
        "plain loop, 2 epochs",
        "train.py",
        "train.py, with cached features",
        "plain loop, 2 epochs",
        "train.py, 2 epochs",
        "train.py, default of 3 epochs",
        "train.py, 2 epochs, with cached tokens",
    ]
    assert all(float(row[1]) > 0 and float(row[4]) > 0.1 for row in rows if row[0][:4] in ("plai", "trai"))
    assert text.count("\nM") == 2 and text.count("- linear probe: 100.0 %, 100.0 %\n") == 1


def test_probe_solves_a_path_of_penalties(capsys):
    assert command(benchmark("probe"), "--features", 200, "--classes", 5, "--widths", 16, 32) == 0
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| 200")
    ]
    assert [row[:2] for row in rows] == [["200 x 16", "5"], ["200 x 32", "5"]]
    for _, _, seconds, penalties, iterations, accuracy in rows:
        assert float(seconds.strip("< ")) >= 0 and int(iterations) > int(penalties) > 3
        assert 20.0 < float(accuracy.removesuffix(" %")) <= 100.0, "better than chance"


def test_train_passes_on_what_a_process_ends_with(training, tmp_path, capsys):
    assert command(training, "--data", tmp_path / "nowhere", "--model", NAME) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "plain_loop.py" in error and "ended with status 1, expected 0: FileNotFoundError" in error


def test_training_is_counted_in_the_plain_loop(training):
    def run(seconds: float, accuracy: float, *epochs: tuple[float, float], empty_cache: bool = True):
        rows = [{"epoch": i + 1, "accuracy": a, "seconds": s} for i, (a, s) in enumerate(epochs)]
        return training.Trained(seconds, 2**30, accuracy, rows, empty_cache)

    runs = [
        ("plain", run(100, 0.8, (0.5, 40), (0.8, 70), (0.7, 100))),
        ("own", run(40, 0.81)),
        ("short", run(20, 0.8)),
        ("cached", run(10, 0.9, empty_cache=False)),
    ]
    assert "| own | 40 | 2.5 | 81.0 % | 1.00 |" in training.table(runs)
    assert training.goal(runs, 2.5).startswith("Met: ") and training.goal(runs, 2.6).startswith("Missed: ")
    said = "in epoch 2, after 70 s; `short` reaches it and ends after 20 s: 3.50 times the speed "
    assert training.to_same_accuracy(runs, 3.4).endswith(f"{said}(goal met: more than 3.4 times).")
    assert training.to_same_accuracy(runs).endswith(f"{said[:-1]}.")
    assert training.to_same_accuracy(runs, 3.5).endswith(f"{said}(goal missed: more than 3.5 times).")
    worse = [runs[0], ("own", run(40, 0.79))]
    assert training.goal(worse, 2.5).startswith("Missed: ") and training.to_same_accuracy(worse, 1.5).endswith(
        "train.py does not reach it."
    )


def test_dora_says_where_the_time_goes(tmp_path):
    """What is saved for backward does not depend on time: peft's DoRA saves more than models/dora.py."""
    assert command(dora, "--model", NAME, "--batch", 2, "--rounds", 1, "--out", tmp_path / "dora.md") == 0
    text = (tmp_path / "dora.md").read_text()
    times, parts = (
        re.findall(rf"^\| {name}\b.*", text, re.M)
        for name in ("(?:LoRA|DoRA)", "(?:matrix|attention|elementwise|other)")
    )
    saved = [float(row.split(" | ")[-1].rstrip(" |")) for row in times]
    assert len(times) == 3 and len(parts) == 4 and saved[1] > saved[2] >= saved[0] > 0
