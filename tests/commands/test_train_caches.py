"""train.py computes what is frozen once: features of a probe, tokens before late adapters, augmented views of both."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from running import command, files
from timm.layers import PatchEmbed
from tiny import SIZE

import train
from commands import train_output
from commands.training_images import RunImages
from data.datasets import load_data
from data.options import DataOptions
from data.sampling import stratified
from models.training.sampling import Batches

pytestmark = pytest.mark.usefixtures("no_pictures")

LATE = ["--method", "dora:blocks=4-5", "--epochs", 2, "--batch-size", 8]


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """The images of every batch that goes into a model's first block, as they go."""
    seen, forward = [], PatchEmbed.forward

    def counted(self, images):
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(PatchEmbed, "forward", counted)
    return seen


def history(run: Path) -> list[dict]:
    return list(csv.DictReader((run / "metrics.csv").open()))


def summary(run: Path) -> dict[str, dict]:
    return json.loads((run / "summary.json").read_text())["accuracy"]


def accuracies(run: Path) -> dict[str, float]:
    return {name: split["accuracy"] for name, split in summary(run).items()}


ONCE, ANEW = (
    "run once",
    "run once for unaugmented images, and in every epoch for augmented ones",
)
MIXED = "mixup and cutmix change the images in every step"


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--augment", "none"], ONCE),
        (["--augment", "crop"], ANEW),
        (["--augment-views", 2], ONCE),
        (["--mixup", 0.4], MIXED),
        (["--cutmix", 1], MIXED),
        (["--layer-decay", 0.1], ANEW),
    ],
)
def test_late_adapters_train_alike_with_and_without_a_cache(shop, tmp_path, capsys, options, expected):
    for name, cache in (("with", []), ("without", ["--no-cache"])):
        assert command(train, *shop.options, *LATE, *options, *cache, "--out", tmp_path / name) == 0
        said = capsys.readouterr()
        (found,) = (
            re.findall("blocks before 4 are frozen and (.*): up to", said.out)
            + re.findall("blocks before 4 are frozen, but run in every step: (.*)", said.err)
        ) or [None]
        assert found == (None if cache else expected)
    assert accuracies(tmp_path / "with") == accuracies(tmp_path / "without")
    for name, split in summary(tmp_path / "with").items():
        assert split["loss"] == pytest.approx(summary(tmp_path / "without")[name]["loss"], rel=0.01), name
    for row, other in zip(history(tmp_path / "with"), history(tmp_path / "without"), strict=True):
        for column in ("train_loss", "held_out_loss", "val_loss"):
            assert float(row[column]) == pytest.approx(float(other[column]), rel=0.01), column


@pytest.mark.parametrize("amp, expected", [("bfloat16", True), ("no", False)])
def test_frozen_blocks_before_fresh_views_are_run_in_trainings_precision(shop, tmp_path, monkeypatch, amp, expected):
    """What is stored is not: runs of other precisions share it."""
    seen, forward = set(), PatchEmbed.forward

    def watched(self, images):
        seen.add(torch.is_autocast_enabled("cpu"))
        return forward(self, images)

    monkeypatch.setattr(PatchEmbed, "forward", watched)
    assert command(train, *shop.options, *LATE, "--amp", amp, "--out", tmp_path / "run") == 0
    assert seen == {False, expected}


def test_frozen_blocks_are_never_run_twice(shop, tmp_path, passes):
    argv = [*shop.options, *LATE, "--cache", tmp_path / "cache", "--augment-views", 2]
    assert command(train, *argv, "--out", tmp_path / "first") == 0
    assert sum(passes) == 36 * 3 + 18 + 18, (
        "training images as they are and in two views, and validation; its predictions"
    )
    assert command(train, *argv, "--seed", 1, "--out", tmp_path / "second") == 0
    assert sum(passes) == 36 * 3 + 18 * 3, "another seed shares all but these predictions"
    assert command(train, *argv, "--data-seed", 1, "--out", tmp_path / "third") == 0
    assert sum(passes) == 36 * 5 + 18 * 4, "another data seed draws other views"


def test_a_probe_scores_alike_with_a_new_cache_an_old_one_and_none(shop, tmp_path, passes):
    seen, kept = [], ["--cache", tmp_path / "cache"]
    for name, cache in (("new", kept), ("old", kept), ("none", ["--no-cache"])):
        assert command(train, *shop.options, *cache, "--out", tmp_path / name) == 0
        seen.append(sum(passes))
        assert accuracies(tmp_path / name) == accuracies(tmp_path / "new"), name
        for row, other in zip(history(tmp_path / name), history(tmp_path / "new"), strict=True):
            assert row["val_accuracy"] == other["val_accuracy"], name
            assert float(row["val_loss"]) == pytest.approx(float(other["val_loss"]), rel=1e-4), name
    assert seen == [54, 54, 108], "the second read all, the third nothing"


@pytest.mark.parametrize("augment", [["--augment", "none"], ["--augment-views", 2], ["--augment", "crop"]])
def test_a_loss_that_is_no_number_names_the_files_of_its_step(shop, tmp_path, capsys, augment):
    argv = [*shop.options, *LATE, "--batch-size", 10, "--learning-rate", 1e30, *augment, "--out", tmp_path / "run"]
    assert command(train, *argv) == 1
    epoch, step, named = re.search(r"in epoch (\d+), step (\d+) \(images: (.*?)\)", capsys.readouterr().err).groups()
    split = load_data(DataOptions(str(shop.colours)), image_size=SIZE).splits["train"]
    kept = np.setdiff1d(np.arange(36), stratified(split.labels, 4, 0))
    images = Batches(len(kept), 10, None, seed=0).steps(int(epoch))[int(step) - 1]
    assert named.split(", ") == [split.name(kept[index]) for index in images]
    assert all((shop.colours / name).is_file() for name in named.split(", "))


def test_weights_that_one_step_destroys_are_one_line(shop, tmp_path, capsys):
    """No loss of training is left to show it."""
    argv = [*shop.options, *LATE, "--epochs", 1, "--batch-size", 64, "--learning-rate", 1e30, "--out", tmp_path / "run"]
    assert command(train, *argv) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"error: held_out_loss became (nan|inf) after epoch 1; try a smaller --learning-rate with another --out\n", said
    )


def test_frozen_blocks_that_act_otherwise_in_training_are_named(shop, tmp_path, capsys):
    assert command(train, *shop.options, *LATE, "--drop-path", 0.1, "--epochs", 1, "--out", tmp_path / "run") == 0
    assert (
        "blocks before 4 are frozen, but run in every step: with --drop-path, or in this model, their output differs"
        in capsys.readouterr().err
    )


def test_what_is_kept_belongs_to_the_model_and_not_to_its_weights_alone(shop, tmp_path, monkeypatch):
    """Two models of timm's may load one file and compute other things of it."""
    argv = [*shop.options, "--cache", tmp_path / "cache"]
    assert command(train, *argv, "--out", tmp_path / "first") == 0
    kept = len(list((tmp_path / "cache").glob("features-*")))
    for place, change in (("model", "another"), ("timm", "0.0")):
        keyed = RunImages.key

        def other(self, split, view=None, place=place, change=change, keyed=keyed):
            key = keyed(self, split, view)
            assert place in key
            return key | {place: change}

        with monkeypatch.context() as patch:
            patch.setattr(RunImages, "key", other)
            assert command(train, *argv, "--seed", 1, "--out", tmp_path / place) == 0
        kept += 2
        assert len(list((tmp_path / "cache").glob("features-*"))) == kept


def test_images_that_are_augmented_anew_go_through_the_frozen_part_each_epoch(shop, tmp_path, passes):
    assert command(train, *shop.options, *LATE, "--cache", tmp_path / "cache", "--out", tmp_path / "run") == 0
    assert sum(passes) == 36 + 18 + 2 * 32 + 18


def test_views_of_a_probe_are_more_images_and_shared(shop, tmp_path, monkeypatch):
    argv = [*shop.options, "--augment-views", 3, "--cache", tmp_path / "cache"]
    assert command(train, *argv, "--out", tmp_path / "run") == 0
    kept = len(list((tmp_path / "cache").glob("features-*")))
    assert kept == 3 + 2, "three views, training images as they are, validation"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"]["augment_views"] == 3 and config["recipe"]["augment"] == "crop"
    assert command(train, *argv, "--seed", 1, "--out", tmp_path / "other") == 0
    assert len(list((tmp_path / "cache").glob("features-*"))) == kept


def test_a_cache_beyond_the_limit_is_not_begun(shop, tmp_path, capsys):
    assert (
        command(
            train, *shop.options, *LATE, "--cache", tmp_path / "cache", "--cache-limit", 1e-6, "--out", tmp_path / "run"
        )
        == 0
    )
    assert "more than --cache-limit 1e-06: the blocks before it are run in every epoch" in capsys.readouterr().err
    assert not list((tmp_path / "cache").glob("tokens-*"))


def test_a_damaged_cache_is_mended_and_changes_nothing(shop, tmp_path, capsys):
    argv = [*shop.options, *LATE, "--augment-views", 1, "--cache", tmp_path / "cache"]
    assert command(train, *argv, "--out", tmp_path / "first") == 0
    for path in (tmp_path / "cache").glob("tokens-*/inputs-*.npy"):
        path.write_bytes(path.read_bytes()[:-4] + b"\x00\x01\x02\x03")
    capsys.readouterr()
    assert command(train, *argv, "--out", tmp_path / "second") == 0
    assert capsys.readouterr().out.count("is damaged") == 3, "a line a cache: images, view, validation"
    first, second = files(tmp_path / "first"), files(tmp_path / "second")
    assert {name for name in first if first[name] != second[name]} <= {"timings.json"}


def test_a_run_begun_with_a_cache_goes_on_without_one(shop, tmp_path, monkeypatch, capsys):
    argv = [*shop.options, *LATE, "--augment", "none", "--out", tmp_path / "run"]

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_output, "write_run", stop)
        assert command(train, *argv) == 130
    assert command(train, *argv, "--no-cache") == 0
    assert (
        "continuing after epoch 2 of 2" in capsys.readouterr().out
        and torch.isfinite(torch.tensor(list(accuracies(tmp_path / "run").values()))).all()
    )
