"""Whatever is wrong with what a command is given is one line, an exit status of 1 or 2, and nothing written."""

import shutil
from pathlib import Path

import pytest
import torch
from running import command
from safetensors.torch import load_file
from tiny import colour_folder, write_weights

import compare
import study
import train
import visualize
from common.files import check_writable
from models.training import frozen_inputs

# ---- wrong inputs: train.py


@pytest.fixture
def wrong_data(tmp_path):
    """Folders in which one thing is wrong."""

    def make(what: str) -> Path:
        root = tmp_path / "data"
        if what == "missing":
            return root
        if what == "a file":
            root.write_text("no folder")
        elif what == "without classes":
            for split in ("train", "val"):
                (root / split).mkdir(parents=True)
        else:
            colour_folder(root, train=2, val=2)
            if what == "unknown class":
                (root / "val" / "red").rename(root / "val" / "violet")
            else:
                for path in (root / "train" / "red").iterdir():
                    path.write_text("text")
        return root

    return make


@pytest.mark.parametrize("script", [train, study])
@pytest.mark.parametrize(
    "what, words",
    [
        ("missing", "does not exist; expected 'scenes', 'sports', or a folder"),
        ("a file", "is a file; expected"),
        ("without classes", "has no class folders; expected one subfolder per class"),
        ("unknown class", "1 class(es) that"),
        ("unreadable class", "no readable image for red"),
    ],
)
def test_wrong_data(shop, wrong_data, tmp_path, refused, script, what, words):
    data = wrong_data(what)
    assert words in refused(script, "--data", data, *shop.model, "--out", tmp_path / "out").replace("skipped", "")


@pytest.mark.parametrize(
    "options, words",
    [
        (
            ["--model", "test_vitt"],
            "unknown model 'test_vitt'; expected 'bundled' or a timm name; did you mean test_vit",
        ),
        (["--weights", "nowhere.safetensors"], "--weights nowhere.safetensors is not a file"),
        (["--image-size", "33"], "give a multiple of 16"),
        (["--method", "dorra"], "unknown method 'dorra'; expected one of linear, dora, lora, full"),
        (["--method", "dora:blocks=4-9"], "blocks 6+7+8+9 do not exist; VisionTransformer has 6 blocks"),
        (["--method", "linear:rank=2"], "'linear' takes no settings"),
        (["--classes", "blue", "rad"], "no class 'rad' in"),
        (["--classes", "blue", "rad"], "did you mean 'red'"),
        (["--train-images", "2"], "leaves classes without an image"),
        (["--context-bias", "0.5"], "--context-bias belongs to --data scenes"),
        (["--data-seed", "-1"], "--data-seed -1 is out of range"),
        (["--seed", "-1"], "--seed -1 is out of range"),
        (["--epochs", "0"], "argument --epochs: '0' is"),
        (["--epochs", "three"], "'three' is no whole number"),
        (["--learning-rate", "0"], "--learning-rate 0.0 is not positive"),
        (["--learning-rate", "nan"], "--learning-rate nan is not positive"),
        (["--weight-decay", "-0.1"], "--weight-decay -0.1 is out of range"),
        (["--label-smoothing", "1"], "argument --label-smoothing: '1' is no number from 0 up to, not including, 1"),
        (["--crop-scale", "0"], "--crop-scale 0.0 is out of range"),
        (["--augment", "blur"], "invalid choice: 'blur'"),
        (["--ouput", "x"], "unrecognized arguments: --ouput x"),
    ],
)
def test_wrong_options_of_train(shop, tmp_path, refused, options, words):
    assert words in refused(train, *shop.options, *options, "--out", tmp_path / "out")


def test_the_output_folder_must_be_named(refused):
    assert "--out" in refused(train)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(shop, tmp_path, refused):
    assert "--device cuda is not available here" in refused(
        train, *shop.options, "--device", "cuda", "--out", tmp_path / "out"
    )


@pytest.mark.parametrize("script", [train, study])
def test_weights_of_another_model(shop, tmp_path, refused, script):
    write_weights(tmp_path / "resnet.safetensors", "test_resnet")
    message = refused(
        script, *shop.options, "--weights", tmp_path / "resnet.safetensors", "--out", tmp_path / "out", status=1
    )
    assert "does not fit VisionTransformer" in message and "give the --model" in message


def test_weights_that_are_no_weights(shop, tmp_path, refused):
    (tmp_path / "w.safetensors").write_text("<html>")
    message = refused(
        train, *shop.options, "--weights", tmp_path / "w.safetensors", "--out", tmp_path / "out", status=1
    )
    assert "cannot be read as weights" in message


def test_a_loss_that_explodes_is_explained(shop, tmp_path, capsys):
    argv = [*shop.options, "--method", "full", "--learning-rate", "1e30", "--epochs", 2, "--batch-size", 8]
    argv += ["--out", tmp_path / "out"]
    assert command(train, *argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the loss became") and "--learning-rate" in error and error.count("\n") == 1


def unwritable(kind: str, tmp_path: Path) -> Path:
    if kind == "under a file":
        (tmp_path / "file").write_text("")
        return tmp_path / "file" / "out"
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    return Path("/proc/nowhere/out")


@pytest.mark.parametrize("kind", ["under a file", "in /proc"])
@pytest.mark.parametrize("name", ["train", "study", "compare", "visualize"])
def test_an_output_folder_that_cannot_be_written_to(shop, tmp_path, refused, name, kind):
    inputs = {
        "train": shop.options,
        "study": shop.options,
        "compare": [shop.linear, shop.dora],
        "visualize": [shop.linear, shop.colours / "val" / "red" / "00.png"],
    }
    out = unwritable(kind, tmp_path)
    message = refused(
        {"train": train, "study": study, "compare": compare, "visualize": visualize}[name],
        *inputs[name],
        "--out",
        out,
        status=1,
    )
    assert f"cannot write to {out}" in message and "give another --out" in message


def test_a_file_as_output_folder(shop, tmp_path, refused):
    (tmp_path / "out").write_text("mine")
    assert "is a file; expected a folder" in refused(train, *shop.options, "--out", tmp_path / "out")


# ---- models that cannot be explained


@pytest.fixture(scope="module")
def unexplainable(tmp_path_factory, colours) -> Path:
    """A finished linear probe on a residual network."""
    root = tmp_path_factory.mktemp("resnet")
    weights = write_weights(root / "w.safetensors", "test_resnet")
    argv = ["--data", colours, "--model", "test_resnet", "--weights", weights, "--no-cache", "--out", root / "run"]
    assert command(train, *argv) == 0
    return root / "run"


def test_a_model_that_cannot_be_explained_trains_with_a_warning(shop, tmp_path, capsys):
    weights = write_weights(tmp_path / "w.safetensors", "test_resnet")
    argv = ["--data", shop.colours, "--model", "test_resnet", "--weights", weights, "--train-images", 10]
    argv += ["--no-cache", "--out", tmp_path / "run"]
    assert command(train, *argv) == 0
    error = capsys.readouterr().err
    assert error.startswith("warning: this model can be trained but not explained") and error.count("\n") == 1


def test_a_model_without_blocks_takes_no_adapter(shop, tmp_path, refused):
    weights = write_weights(tmp_path / "w.safetensors", "test_resnet")
    message = refused(
        train,
        "--data",
        shop.colours,
        "--model",
        "test_resnet",
        "--weights",
        weights,
        "--method",
        "dora",
        "--out",
        tmp_path / "out",
    )
    assert "ResNet has no blocks to adapt" in message


def test_compare_and_visualize_refuse_a_model_that_cannot_be_explained(shop, unexplainable, tmp_path, refused):
    for script, inputs in (
        (compare, [shop.linear, unexplainable]),
        (visualize, [unexplainable, shop.colours / "val" / "red" / "00.png"]),
    ):
        message = refused(script, *inputs, "--out", tmp_path / "out")
        assert f"{unexplainable} cannot be explained" in message and "ResNet" in message


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18"])
def test_study_refuses_a_model_that_cannot_be_explained_before_any_time_is_spent(
    shop, tmp_path, refused, monkeypatch, name
):
    """Without weights, and before images are read."""
    monkeypatch.setattr("commands.study.load_for", lambda *_: pytest.fail("images are read"))
    message = refused(study, "--data", shop.colours, "--model", name, "--out", tmp_path / "out")
    assert f"--model {name} cannot be explained" in message


@pytest.mark.slow
def test_compare_refuses_a_trained_swin(shop, tmp_path, refused):
    name, runs = "swin_tiny_patch4_window7_224", tmp_path / "swin"
    weights = write_weights(tmp_path / "w.safetensors", name)
    assert (
        command(train, "--data", shop.colours, "--model", name, "--weights", weights, "--no-cache", "--out", runs) == 0
    )
    assert "SwinTransformer" in refused(compare, shop.linear, runs, "--out", tmp_path / "out")


# ---- wrong inputs: compare.py, study.py; further ones stand in tests/cli and tests/commands


def test_one_run_cannot_be_compared(shop, tmp_path, refused):
    assert "comparing takes two or more" in refused(compare, shop.linear, "--out", tmp_path / "out")


def test_what_is_no_run_cannot_be_compared(shop, tmp_path, refused):
    assert "is not a folder; expected a run folder" in refused(
        compare, shop.linear, tmp_path / "none", "--out", tmp_path / "out"
    )
    assert "holds no config.json" in refused(compare, shop.linear, shop.colours, "--out", tmp_path / "out")


def test_an_interrupted_run_cannot_be_compared(shop, tmp_path, refused):
    run = shutil.copytree(shop.dora, tmp_path / "run")
    (run / "summary.json").unlink()
    assert "was interrupted; finish it" in refused(compare, shop.linear, run, "--out", tmp_path / "out")


def test_a_damaged_run_cannot_be_compared(shop, tmp_path, refused):
    run = shutil.copytree(shop.dora, tmp_path / "run")
    (run / "head.safetensors").write_bytes(b"half")
    assert "is damaged" in refused(compare, shop.linear, run, "--out", tmp_path / "out", status=1)


@pytest.mark.parametrize("script", [compare, visualize])
def test_a_run_of_another_backbone(shop, tmp_path, refused, script):
    other = write_weights(tmp_path / "other.safetensors", seed=1)
    inputs = [shop.linear, shop.dora if script is compare else shop.colours / "val" / "red" / "00.png"]
    message = refused(script, *inputs, "--weights", other, "--out", tmp_path / "out", status=1)
    assert "was trained on another backbone" in message and "--weights" in message


def test_runs_of_different_classes(shop, tmp_path, refused):
    assert command(train, *shop.options, "--classes", "red", "blue", "--out", tmp_path / "two") == 0
    message = refused(compare, shop.linear, tmp_path / "two", "--out", tmp_path / "out")
    assert "have different classes (green)" in message


@pytest.mark.parametrize(
    "options, words",
    [
        (["--split", "val_shuffled"], "--split val_shuffled does not exist"),
        (["--split", "train"], "expected val"),
        (
            ["--relevance", "lrp_dept"],
            "argument --relevance: unknown relevance method 'lrp_dept'; did you mean lrp_depth",
        ),
        (["--colour-map", "infernal"], "did you mean 'inferno'"),
        (["--images", "0"], "'0' is no whole number of at least 1"),
        (["--data", "nowhere"], "--data nowhere does not exist"),
        (["--data", ""], "--data '' names nothing"),
        (["--out", ""], "'' is no path"),
        (["--data-seed", "-5"], "--data-seed -5 is out of range"),
        (["--images", str(10**30)], "is more than 2147483647"),
        (["--threads", "10000000"], "is more than 4096"),
    ],
)
def test_wrong_options_of_compare(shop, tmp_path, refused, options, words):
    assert words in refused(compare, shop.linear, shop.dora, *options, "--out", tmp_path / "out")


def test_the_test_split_is_left_alone(shop, tmp_path, refused):
    data = shutil.copytree(shop.colours, tmp_path / "data")
    shutil.copytree(data / "val", data / "test")
    message = refused(compare, shop.linear, shop.dora, "--data", data, "--split", "test", "--out", tmp_path / "out")
    assert "--split test" in message and "expected val" in message


def test_a_run_keeps_its_head_apart_from_the_backbone(shop):
    assert set(load_file(shop.linear / "head.safetensors")) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("option, place", [("--export", "file/model.safetensors"), ("--cache", "file/cache")])
def test_a_place_that_cannot_be_written_to_is_refused_before_training(shop, tmp_path, refused, option, place):
    (tmp_path / "file").write_text("in the way")
    assert f"another {option}" in refused(
        train, *shop.options, option, tmp_path / place, "--out", tmp_path / "run", status=1
    )
    assert not (tmp_path / "run").exists()


def test_checking_a_folder_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_without_a_cache_a_probe_runs_the_backbone_once_a_split(shop, tmp_path, monkeypatch):
    seen = []
    compute = frozen_inputs.cached_features
    monkeypatch.setattr(frozen_inputs, "cached_features", lambda *args: seen.append(args[2].name) or compute(*args))
    assert command(train, *shop.options, "--no-cache", "--out", tmp_path / "run") == 0
    assert sorted(seen) == ["train", "val"]
