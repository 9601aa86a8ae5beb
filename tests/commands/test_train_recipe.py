"""What is asked of train.py's recipe is recorded and trains, and a loader that is the limit is named."""

import json
import time

import pytest
from running import command
from test_train_caches import history

import train
from data.transforms import Prepared
from models.training import loading
from models.training.model_halves import FrozenPart

pytestmark = pytest.mark.usefixtures("no_pictures")


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
