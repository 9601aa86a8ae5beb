"""The commands as people use them: what they write, that they reuse it, and what Ctrl-C leaves."""

import csv
import runpy
import shlex
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from running import command, files, process
from tiny import COLOURS, NAME, SIZE

import compare
import study
import train
import visualize
from common.devices import batch_size_of
from evaluation import comparison, explained
from models.runs import load_run

TAGGED = f"{NAME}.r160_in1k"  # the same model by another name
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


# ---- what commands write


def test_every_help_opens_with_a_purpose_and_an_example_that_parses():
    for script in (train, compare, visualize, study):
        text = script.build_parser().format_help()
        example = text.split("example:\n")[1].splitlines()[0]
        name, *argv = shlex.split(example)[1:]
        assert name == f"{script.__name__}.py" and script.__doc__.splitlines()[0] in " ".join(text.split())
        script.build_parser().parse_args(argv)


def test_what_a_probe_has_no_use_for_is_refused(tmp_path, refused):
    for option, value in (("--epochs", 5), ("--batch-size", 8), ("--learning-rate", 0.1), ("--weight-decay", 0.1)):
        assert f"{option} belongs to methods that train by epochs" in refused(
            train, option, value, "--out", tmp_path / "run"
        )


@pytest.mark.parametrize("name, more", [("linear", set()), ("dora", ADAPTER_FILES)])
def test_a_run_folder_holds_what_was_trained_and_nothing_temporary(shop, name, more):
    assert set(files(shop.root / name)) == RUN_FILES | more
    run = load_run(shop.root / name)
    assert run.label == name and run.class_names == list(COLOURS)
    assert run.summary["accuracy"]["val"]["accuracy"] > 0.9  # colours are no riddle
    assert {k: v["images"] for k, v in run.summary["accuracy"].items()} == {"train": 32, "held_out": 4, "val": 18}


def test_the_reported_accuracy_is_the_reloaded_models(shop):
    run = load_run(shop.dora)
    x = torch.stack([load_pixels(path) for path in sorted((shop.colours / "val").rglob("*.png"))])
    rows = [row for row in csv.DictReader((shop.dora / "predictions.csv").open()) if row["split"] == "val"]
    probability = run.model(x).softmax(1).detach().numpy()
    own = [list(COLOURS).index(row["label"]) for row in rows]
    assert np.allclose([float(row["probability"]) for row in rows], probability[np.arange(18), own], atol=1e-4)


def load_pixels(path: Path) -> torch.Tensor:
    """Return an image of the model's own size, normalised by hand; the model's crop (95 %) is left to timm."""
    config = timm.data.resolve_model_data_config(timm.create_model(NAME)) | {"input_size": (3, SIZE, SIZE)}
    return timm.data.create_transform(**config)(Image.open(path))


def test_the_same_command_reuses_a_finished_run(shop, capsys):
    before = files(shop.linear)
    assert command(train, *shop.options, "--out", shop.linear) == 0
    assert "finished: reused" in capsys.readouterr().out and files(shop.linear) == before


def test_another_configuration_needs_overwrite(shop, tmp_path, refused):
    out = tmp_path / "run"
    shutil.copytree(shop.dora, out)
    message = refused(train, *shop.options, "--seed", 3, "--out", out)
    assert 'method: "dora" -> "linear"' in message and "--overwrite" in message
    assert command(train, *shop.options, "--seed", 3, "--overwrite", "--out", out) == 0
    assert set(files(out)) == RUN_FILES and load_run(out).config["seed"] == 3


def test_the_same_command_writes_the_same_bytes_anywhere(shop, tmp_path):
    assert command(train, *shop.dora_options, "--out", tmp_path) == 0
    first, second = files(shop.dora), files(tmp_path)
    assert {name for name in first if first[name] != second[name]} <= {"timings.json"}


def test_another_training_seed_sees_the_same_images(shop, tmp_path):
    """Seeds stay paired: what is drawn, sampled and held out follows --data-seed alone."""

    def images(run: Path) -> list[tuple[str, str]]:
        return [(row["split"], row["image"]) for row in csv.DictReader((run / "predictions.csv").open())]

    for out, option in (("seed", "--seed"), ("data-seed", "--data-seed")):
        assert command(train, *shop.options, option, 1, "--out", tmp_path / out) == 0
    assert images(tmp_path / "seed") == images(shop.linear) != images(tmp_path / "data-seed")
    heads = [(run / "head.safetensors").read_bytes() for run in (tmp_path / "seed", shop.linear)]
    assert heads[0] == heads[1], "a probe is the one solution of a convex problem"
    assert command(train, *shop.dora_options, "--seed", 1, "--out", tmp_path / "dora") == 0
    assert images(tmp_path / "dora") == images(shop.dora)
    assert (tmp_path / "dora" / "head.safetensors").read_bytes() != (shop.dora / "head.safetensors").read_bytes()


def test_an_export_is_what_plain_timm_loads(shop, tmp_path, capsys):
    file = tmp_path / "merged.safetensors"
    assert command(train, *shop.dora_options, "--out", shop.dora, "--export", file) == 0
    assert "reused" in capsys.readouterr().out
    model = timm.create_model(NAME, num_classes=3, img_size=SIZE, checkpoint_path=file).eval()
    x = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(model(x), load_run(shop.dora).model(x))


def test_broken_files_are_counted_and_training_goes_on(shop, tmp_path, capsys):
    data = shutil.copytree(shop.colours, tmp_path / "data")
    (data / "train" / "red" / "page.jpg").write_text("<html>not found</html>")
    (data / "train" / "red" / "zero.jpg").write_bytes(b"")
    Image.effect_noise((64, 64), 90).save(data / "val" / "blue" / "cut.jpg")
    (data / "val" / "blue" / "cut.jpg").write_bytes((data / "val" / "blue" / "cut.jpg").read_bytes()[:900])
    assert command(train, "--data", data, *shop.model, "--out", tmp_path / "run") == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"warning: 2 unreadable file(s) in {data / 'train'} skipped: red/page.jpg, red/zero.jpg"
    assert "1 unreadable file(s)" in second and "blue/cut.jpg" in second


def test_compare_writes_a_picture_maps_and_numbers_and_reuses_them(shop, tmp_path, capsys):
    argv = [shop.linear, shop.dora, "--rows", 2, "--images", 6, "--out", tmp_path]
    assert command(compare, *argv) == 0
    assert {"grid.png", "maps.npz", "comparison.csv", "comparison.json", "differences.png"} == set(files(tmp_path))
    maps = np.load(tmp_path / "maps.npz")  # would refuse pickles
    assert maps["maps_0"].shape == maps["maps_1"].shape == (6, 2, SIZE // 16, SIZE // 16)
    assert list(maps["runs"]) == ["linear", "dora"] and not (maps["true"] == maps["other"]).any()
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    assert len(rows) == 12 and {row["run"] for row in rows} == {"linear", "dora"}
    before = files(tmp_path)
    capsys.readouterr()
    assert command(compare, *argv) == 0
    assert "finished: reused" in capsys.readouterr().out and files(tmp_path) == before


def test_a_map_that_is_zero_has_no_noise_and_is_counted(shop, tmp_path, monkeypatch, capsys):
    """GradCAM's maps often are: noise relative to nothing is no number."""
    measure = explained.input_noise_change

    def some_zero(model, images, *args, **named):
        moved = measure(model, images, *args, **named)
        moved[0] = torch.nan  # the first image of every batch
        return moved

    monkeypatch.setattr(explained, "input_noise_change", some_zero)
    assert (
        command(compare, shop.linear, shop.dora, "--images", 4, "--rows", 1, "--batch-size", 4, "--out", tmp_path) == 0
    )
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    kept = [float(row["noise_true"]) for row in rows if row["run"] == "linear" and row["noise_true"]]
    assert len(kept) == 3
    line = capsys.readouterr().out.splitlines()[0]
    assert line.endswith(f"moves maps by {100 * np.median(kept):.2f} % (median; 1 of 4 maps are 0 and left out)")


def test_nothing_but_maps_of_zero_has_no_median():
    assert np.isnan(comparison.finite_median([np.nan, np.inf])) and comparison.finite_median([np.nan, 2.0]) == 2


def test_frames_are_explained_where_there_are_some(shop, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(compare, "grid", lambda *args, **named: drawn.append(named))
    models = {
        "own": [NAME, TAGGED, "--weights", shop.weights, "--image-size", SIZE, "--data", shop.colours],
        "one": [shop.linear, NAME, "--weights", shop.weights, "--image-size", SIZE],
        "none": [shop.linear, shop.dora],
    }
    for name, given in models.items():
        assert command(compare, *given, "--images", 2, "--rows", 1, "--out", tmp_path / name) == 0
    notes = [named["footnote"] for named in drawn]
    assert ["Frames" in note for note in notes] == [False, True, True]
    assert ["neither true nor predicted" in note for note in notes] == [False, True, True]
    assert ["classes of its own" in note for note in notes] == [True, True, False]


# ---- Ctrl-C


@pytest.mark.parametrize("script", [compare, visualize])
def test_what_ctrl_c_leaves_is_said_by_each_command(tmp_path, monkeypatch, capsys, script):
    def interrupt(*_):
        raise KeyboardInterrupt

    (tmp_path / "photo.png").write_bytes(b"")
    monkeypatch.setattr(explained, "load_explainable", interrupt)
    monkeypatch.setattr(
        sys, "argv", [f"{script.__name__}.py", "some-run", str(tmp_path / "photo.png"), "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(script.__name__, run_name="__main__")
    assert stop.value.code == 130
    assert capsys.readouterr().err == f"interrupted; {script.INTERRUPTED}\n"
    assert "continues" not in script.INTERRUPTED


def test_an_interrupted_training_continues_to_the_same_bytes(shop, tmp_path, capsys):
    argv = [*shop.options, "--method", "dora", "--epochs", 8, "--batch-size", 2, "--out"]  # slow enough to be caught
    running = process("train.py", *argv, tmp_path / "run")
    for line in running.stdout:
        if line.startswith("epoch   1"):
            running.send_signal(signal.SIGINT)
            break
    out, error = running.communicate(timeout=120)
    assert running.returncode == 130
    assert error == "interrupted; the same command continues after the last finished step\n"
    assert "resume.safetensors" in files(tmp_path / "run") and "summary.json" not in files(tmp_path / "run")
    assert command(train, *argv, tmp_path / "run") == 0
    assert "continuing after epoch" in capsys.readouterr().out
    assert command(train, *argv, tmp_path / "whole") == 0
    continued, whole = files(tmp_path / "run"), files(tmp_path / "whole")
    assert continued.keys() == whole.keys() == RUN_FILES | ADAPTER_FILES
    assert {name for name in whole if whole[name] != continued[name]} <= {"timings.json"}


def test_a_run_interrupted_before_its_first_epoch_starts_again(shop, tmp_path):
    shutil.copy(shop.dora / "config.json", tmp_path)
    assert command(train, *shop.dora_options, "--out", tmp_path) == 0
    assert files(tmp_path)["head.safetensors"] == files(shop.dora)["head.safetensors"]


def test_a_process_ends_with_the_status_and_one_line(shop, tmp_path):
    running = process("train.py", "--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    out, error = running.communicate(timeout=120)
    assert running.returncode == 2 and out == "" and not (tmp_path / "run").exists()
    assert error.startswith(f"error: --data {tmp_path / 'nowhere'} does not exist") and error.count("\n") == 1


def test_an_accelerator_takes_more_images_at_once():
    batches = {
        kind: [batch_size_of(None, torch.device(kind), count) for count in (10, 64, 500, 5000)]
        for kind in ("cpu", "cuda")
    }
    assert (
        batches == {"cpu": [16] * 4, "cuda": [16, 16, 62, 128]}
        and batch_size_of(5, torch.device("cuda"), 500) == 5
    )
