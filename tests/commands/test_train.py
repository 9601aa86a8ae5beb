"""train.py as people use it: what a run folder holds, and that it is reused."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from running import ADAPTER_FILES, RUN_FILES, command, files
from tiny import COLOURS, NAME, SIZE

import train
from models.runs import load_run


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
    assert set(files(out)) == RUN_FILES and load_run(out).config.seed == 3


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


def test_a_run_interrupted_before_its_first_epoch_starts_again(shop, tmp_path):
    shutil.copy(shop.dora / "config.json", tmp_path)
    assert command(train, *shop.dora_options, "--out", tmp_path) == 0
    assert files(tmp_path)["head.safetensors"] == files(shop.dora)["head.safetensors"]
