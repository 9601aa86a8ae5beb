"""The commands as people use them: what they write, that they reuse it, and one line for whatever is wrong."""

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
from safetensors.torch import load_file

import commandline
import compare
import comparison
import explained
import study
import train
import training
import visualize
from commands import command, files, process
from explain import METHODS
from models.runs import load_run
from tiny import COLOURS, NAME, SIZE, colour_folder, write_weights

TAGGED = f"{NAME}.r160_in1k"  # the same model by another name
RUN_FILES = {"config.json", "head.safetensors", "metrics.csv", "predictions.csv", "curves.png", "confusion.png", "summary.json",
             "timings.json"}
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
        assert f"{option} belongs to methods that train by epochs" in refused(train, option, value, "--out", tmp_path / "run")


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
    measure = explained.repeatability

    def some_zero(model, images, *args, **named):
        moved = measure(model, images, *args, **named)
        moved[0] = torch.nan  # the first image of every batch
        return moved

    monkeypatch.setattr(explained, "repeatability", some_zero)
    assert command(compare, shop.linear, shop.dora, "--images", 4, "--rows", 1, "--batch-size", 4, "--out", tmp_path) == 0
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
    models = {"own": [NAME, TAGGED, "--weights", shop.weights, "--image-size", SIZE, "--data", shop.colours],
              "one": [shop.linear, NAME, "--weights", shop.weights, "--image-size", SIZE], "none": [shop.linear, shop.dora]}
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
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", "some-run", str(tmp_path / "photo.png"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(script.__name__, run_name="__main__")
    assert stop.value.code == 130
    assert capsys.readouterr().err == f"interrupted; {script.INTERRUPTED}\n"
    assert "continues" not in script.INTERRUPTED


def test_an_interrupted_training_continues_to_the_same_bytes(shop, tmp_path, capsys):
    argv = [*shop.options, "--method", "dora", "--epochs", 20, "--batch-size", 2, "--out"]  # slow enough to be caught
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
@pytest.mark.parametrize("what, words", [
    ("missing", "does not exist; expected 'scenes', 'sports', or a folder"),
    ("a file", "is a file; expected"),
    ("without classes", "has no class folders; expected one subfolder a class"),
    ("unknown class", "1 class(es) that"),
    ("unreadable class", "no readable image for red"),
])
def test_wrong_data(shop, wrong_data, tmp_path, refused, script, what, words):
    data = wrong_data(what)
    assert words in refused(script, "--data", data, *shop.model, "--out", tmp_path / "out").replace("skipped", "")


@pytest.mark.parametrize("options, words", [
    (["--model", "test_vitt"], "unknown model 'test_vitt'; expected 'bundled' or a timm name; did you mean test_vit"),
    (["--weights", "nowhere.safetensors"], "--weights nowhere.safetensors is no file"),
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
    (["--epochs", "0"], "argument --epochs: '0' is no whole number of at least 1"),
    (["--epochs", "three"], "'three' is no whole number"),
    (["--learning-rate", "0"], "--learning-rate 0.0 is not positive"),
    (["--learning-rate", "nan"], "--learning-rate nan is not positive"),
    (["--weight-decay", "-0.1"], "--weight-decay -0.1 is out of range"),
    (["--label-smoothing", "1"], "argument --label-smoothing: '1' is no number from 0 up to, not including, 1"),
    (["--crop-scale", "0"], "--crop-scale 0.0 is no share of the area"),
    (["--augment", "blur"], "invalid choice: 'blur'"),
    (["--ouput", "x"], "unrecognized arguments: --ouput x"),
])
def test_wrong_options_of_train(shop, tmp_path, refused, options, words):
    assert words in refused(train, *shop.options, *options, "--out", tmp_path / "out")


def test_the_output_folder_must_be_named(refused):
    assert "--out" in refused(train)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(shop, tmp_path, refused):
    assert "--device cuda is not available here" in refused(train, *shop.options, "--device", "cuda", "--out", tmp_path / "out")


@pytest.mark.parametrize("script", [train, study])
def test_weights_of_another_model(shop, tmp_path, refused, script):
    write_weights(tmp_path / "resnet.safetensors", "test_resnet")
    message = refused(script, *shop.options, "--weights", tmp_path / "resnet.safetensors", "--out", tmp_path / "out", status=1)
    assert "does not fit VisionTransformer" in message and "give the --model" in message


def test_weights_that_are_no_weights(shop, tmp_path, refused):
    (tmp_path / "w.safetensors").write_text("<html>")
    message = refused(train, *shop.options, "--weights", tmp_path / "w.safetensors", "--out", tmp_path / "out", status=1)
    assert "cannot be read as weights" in message


def test_a_loss_that_explodes_is_explained(shop, tmp_path, capsys):
    argv = [*shop.options, "--method", "full", "--learning-rate", "1e30", "--epochs", 2, "--out", tmp_path / "out"]
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
    inputs = {"train": shop.options, "study": shop.options, "compare": [shop.linear, shop.dora],
              "visualize": [shop.linear, shop.colours / "val" / "red" / "00.png"]}
    out = unwritable(kind, tmp_path)
    message = refused({"train": train, "study": study, "compare": compare, "visualize": visualize}[name], *inputs[name],
                      "--out", out, status=1)
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
    assert command(train, "--data", colours, "--model", "test_resnet", "--weights", weights, "--no-cache",
                   "--out", root / "run") == 0
    return root / "run"


def test_a_model_that_cannot_be_explained_trains_with_a_warning(shop, tmp_path, capsys):
    weights = write_weights(tmp_path / "w.safetensors", "test_resnet")
    assert command(train, "--data", shop.colours, "--model", "test_resnet", "--weights", weights, "--train-images", 10,
                   "--no-cache", "--out", tmp_path / "run") == 0
    error = capsys.readouterr().err
    assert error.startswith("warning: this model trains, but relevance cannot follow it") and error.count("\n") == 1


def test_a_model_without_blocks_takes_no_adapter(shop, tmp_path, refused):
    weights = write_weights(tmp_path / "w.safetensors", "test_resnet")
    message = refused(train, "--data", shop.colours, "--model", "test_resnet", "--weights", weights, "--method", "dora",
                      "--out", tmp_path / "out")
    assert "ResNet has no blocks to adapt" in message


def test_compare_and_visualize_refuse_a_model_that_cannot_be_explained(shop, unexplainable, tmp_path, refused):
    for script, inputs in ((compare, [shop.linear, unexplainable]),
                           (visualize, [unexplainable, shop.colours / "val" / "red" / "00.png"])):
        message = refused(script, *inputs, "--out", tmp_path / "out")
        assert f"{unexplainable} cannot be explained" in message and "ResNet" in message


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18"])
def test_study_refuses_a_model_that_cannot_be_explained_before_any_time_is_spent(shop, tmp_path, refused, name):
    """Without weights and data: neither is asked for."""
    message = refused(study, "--data", tmp_path / "nowhere", "--model", name, "--out", tmp_path / "out")
    assert f"--model {name} cannot be explained" in message


@pytest.mark.slow
def test_compare_refuses_a_trained_swin(shop, tmp_path, refused):
    name, runs = "swin_tiny_patch4_window7_224", tmp_path / "swin"
    weights = write_weights(tmp_path / "w.safetensors", name)
    assert command(train, "--data", shop.colours, "--model", name, "--weights", weights, "--no-cache",
                   "--out", runs) == 0
    assert "SwinTransformer" in refused(compare, shop.linear, runs, "--out", tmp_path / "out")


# ---- wrong inputs: compare.py, study.py; visualize.py's own stand in test_visualize.py


def test_one_run_cannot_be_compared(shop, tmp_path, refused):
    assert "comparing takes two or more" in refused(compare, shop.linear, "--out", tmp_path / "out")


def test_what_is_no_run_cannot_be_compared(shop, tmp_path, refused):
    assert "is no folder; expected a run folder" in refused(compare, shop.linear, tmp_path / "none", "--out", tmp_path / "out")
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
    assert "know different classes (green)" in message


@pytest.mark.parametrize("options, words", [
    (["--split", "val_shuffled"], "--split val_shuffled does not exist"),
    (["--split", "train"], "expected val"),
    (["--relevance", "lrp_dept"], "argument --relevance: unknown relevance method 'lrp_dept'; did you mean lrp_depth"),
    (["--colour-map", "infernal"], "did you mean 'inferno'"),
    (["--images", "0"], "'0' is no whole number of at least 1"),
    (["--data", "nowhere"], "--data nowhere does not exist"),
])
def test_wrong_options_of_compare(shop, tmp_path, refused, options, words):
    assert words in refused(compare, shop.linear, shop.dora, *options, "--out", tmp_path / "out")


def test_the_test_split_is_left_alone(shop, tmp_path, refused):
    data = shutil.copytree(shop.colours, tmp_path / "data")
    shutil.copytree(data / "val", data / "test")
    message = refused(compare, shop.linear, shop.dora, "--data", data, "--split", "test", "--out", tmp_path / "out")
    assert "--split test" in message and "expected val" in message


def test_another_comparison_needs_overwrite(shop, tmp_path, refused):
    argv = [shop.linear, shop.dora, "--rows", 1, "--out", tmp_path]
    assert command(compare, *argv, "--images", 4) == 0
    assert "images: 4 -> 5" in refused(compare, *argv, "--images", 5)
    assert command(compare, *argv, "--images", 5, "--overwrite") == 0


def test_an_interrupted_comparison_is_not_taken_for_a_finished_one(shop, tmp_path, monkeypatch):
    argv = [shop.linear, shop.dora, "--rows", 1, "--out", tmp_path]
    assert command(compare, *argv, "--images", 4) == 0

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "draw_grid", interrupt)
    assert command(compare, *argv, "--images", 5, "--overwrite") == 130
    assert "comparison.json" not in files(tmp_path)


def test_a_run_keeps_its_head_apart_from_the_backbone(shop):
    assert set(load_file(shop.linear / "head.safetensors")) == {"head.weight", "head.bias"}


def test_what_is_explained_can_be_changed_and_another_choice_is_another_comparison(shop, tmp_path, capsys):
    out = tmp_path / "centred"
    options = [shop.linear, shop.dora, "--images", 4, "--rows", 1, "--relevance", "attnlrp_epsilon", "--out", out]
    assert command(compare, *options, "--centre-head") == 0
    centred = np.load(out / "maps.npz")["maps_0"]
    assert centred.min() < 0 < centred.max()  # a signed method
    assert command(compare, *options) == 2 and "centre_head" in capsys.readouterr().err
    assert command(compare, *options, "--overwrite") == 0
    assert not np.allclose(np.load(out / "maps.npz")["maps_0"], centred)


@pytest.mark.parametrize("script", [compare, visualize, study])
def test_a_relevance_method_misspelt(tmp_path, refused, script):
    """Before anything is loaded: the runs are not even there."""
    given = {compare: [tmp_path / "a", tmp_path / "b"], visualize: [tmp_path / "a", tmp_path / "b.png"], study: []}[script]
    message = refused(script, *given, "--relevance", "lrp_dept", "--out", tmp_path / "out")
    assert "unknown relevance method 'lrp_dept'; did you mean lrp_depth" in message


@pytest.mark.parametrize("script", [compare, visualize, study])
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_help_describes_every_relevance_method(monkeypatch, script, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = script.build_parser().format_help().splitlines()
    start = next(i for i, line in enumerate(lines) if line == "explanation:")
    table = lines[start:next(i for i, line in enumerate(lines) if line.startswith("  --relevance"))]
    assert max(map(len, table)) <= max(64, columns - 2)
    said = " ".join(" ".join(table).split())
    for method in METHODS.values():
        assert (f"{method.name} {'signed' if method.signed else 'unsigned'} {method.passes:.1f} "
                f"{method.description}") in said
    assert "forward passes" in said and "K = 2" in said


def test_help_says_where_a_contrast_enters_and_whose_it_is():
    said = " ".join(visualize.build_parser().format_help().split())
    assert "For lrp and lrp_magnitude it enters through the gradient only" in said
    assert "Gu et al., ACCV 2018" in said and "Iwana et al., ICCV workshops 2019" in said


@pytest.mark.parametrize("script", [compare, visualize])
def test_a_method_without_a_class_has_no_contrast(shop, tmp_path, refused, script):
    given = {compare: [shop.linear, shop.dora], visualize: [shop.dora, shop.colours]}[script]
    assert "'contrast'" in refused(script, *given, "--relevance", "rollout", "--contrast", "mean", "--out", tmp_path / "out")


@pytest.mark.parametrize("option, place", [("--export", "file/model.safetensors"), ("--cache", "file/cache")])
def test_a_place_that_cannot_be_written_to_is_refused_before_training(shop, tmp_path, refused, option, place):
    (tmp_path / "file").write_text("in the way")
    assert f"another {option}" in refused(train, *shop.options, option, tmp_path / place, "--out", tmp_path / "run", status=1)
    assert not (tmp_path / "run").exists()


def test_checking_a_folder_leaves_nothing_behind(tmp_path):
    commandline.check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_without_a_cache_a_probe_runs_the_backbone_once_a_split(shop, tmp_path, monkeypatch):
    seen = []
    compute = training.cached_features
    monkeypatch.setattr(training, "cached_features", lambda *args: seen.append(args[6]) or compute(*args))
    assert command(train, *shop.options, "--no-cache", "--out", tmp_path / "run") == 0
    assert sorted(seen) == ["train", "val"]
