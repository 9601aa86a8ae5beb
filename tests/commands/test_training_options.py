"""Options of train.py do what they say: seen in what reaches the model, and in what is told while training goes on."""

import csv
import importlib.machinery
import json
import re
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from running import command, files
from test_train_caches import LATE, history
from tiny import COLOURS, SIZE, colour_image, write_weights

import train
from cli.command import run
from cli.parser import make_parser
from cli.train import build_parser, train_options
from commands import train as train_command
from commands import train_output
from data.datasets import load_data
from data.options import DataOptions
from data.sampling import stratified
from data.transforms import Prepared, evaluation_transform, training_transform
from models.run_config import RunConfig
from models.runs import load_run, state_of
from models.training import loading
from models.training import run as training
from models.training.steps import TrainingSteps

pytestmark = pytest.mark.usefixtures("no_pictures")

SIZES = {"blue": 20, "green": 5, "red": 5}
FULL = ["--method", "full", "--head-init", "random", "--augment", "none", "--epochs", 1, "--batch-size", 8]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Path:
    """A folder whose first class is four times as large as each other."""
    root, seed = tmp_path_factory.mktemp("uneven"), 1000
    for split in ("train", "val"):
        for name, count in SIZES.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                colour_image(COLOURS[name], seed).save(root / split / name / f"{number:02d}.png")
    return root


def spied(monkeypatch, name: str) -> list[tuple[tuple, dict]]:
    """What models.training.run calls a function with."""
    calls, function = [], getattr(training, name)

    def spy(*args, **options):
        calls.append((args, options))
        return function(*args, **options)

    monkeypatch.setattr(training, name, spy)
    return calls


def sizes(run: Path) -> np.ndarray:
    """How many images of each class a run was trained on, without those held out."""
    rows = csv.DictReader((run / "predictions.csv").open())
    labels = [row["label"] for row in rows if row["split"] == "train"]
    return np.array([labels.count(name) for name in COLOURS])


# ---- classes of unequal sizes


def inverse(count: np.ndarray) -> np.ndarray:
    """Weights by the inverse of a class's size, 1 on average over images."""
    return count.sum() / count / len(count)


@pytest.mark.parametrize("method", ["linear", "full"])
def test_balance_weights_weighs_losses_by_the_inverse_of_a_classs_size(shop, uneven, tmp_path, monkeypatch, method):
    probes, fits = spied(monkeypatch, "fit_probe"), spied(monkeypatch, "fit")
    options = FULL if method == "full" else []
    found = {}
    for balance in ("none", "weights"):
        out = tmp_path / balance
        assert command(train, "--data", uneven, *shop.model, *options, "--balance", balance, "--out", out) == 0
        found[balance] = fits[-1][1]["class_weights"] if method == "full" else probes[-1][0][6]
    count = sizes(tmp_path / "weights")
    assert found["none"] is None and count[0] > 3 * count[1]
    assert np.allclose(found["weights"], inverse(count)) and (inverse(count) * count).sum() == pytest.approx(
        count.sum()
    )
    heads = [(tmp_path / name / "head.safetensors").read_bytes() for name in found]
    assert heads[0] != heads[1]


def test_balance_sampling_draws_every_class_as_often(shop, uneven, tmp_path, monkeypatch):
    fits = spied(monkeypatch, "fit")
    shares = {}
    for balance in ("none", "sampling"):
        out = tmp_path / balance
        assert command(train, "--data", uneven, *shop.model, *FULL, "--balance", balance, "--out", out) == 0
        (_, batches, *_), options = fits[-1]
        assert options["class_weights"] is None, "losses are not weighed on top of it"
        labels = np.repeat(np.arange(3), sizes(out))
        drawn = np.concatenate([sum(batches.steps(epoch), []) for epoch in range(1, 101)])
        shares[balance] = np.bincount(labels[drawn], minlength=3) / len(drawn)
    assert np.allclose(shares["none"], sizes(out) / len(labels)) and shares["none"][0] > 0.6
    assert np.allclose(shares["sampling"], 1 / 3, atol=0.03)


# ---- stochastic depth, mixed images


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_drop_path_reaches_the_blocks_while_they_train(shop, tmp_path, monkeypatch, rate):
    fits = spied(monkeypatch, "fit")
    assert command(train, *shop.options, *FULL, "--drop-path", rate, "--out", tmp_path) == 0
    model = fits[0][0][0]
    chances = [
        [getattr(path, "drop_prob", 0.0) for path in (block.drop_path1, block.drop_path2)] for block in model.blocks
    ]
    assert np.allclose(chances, np.linspace(0, rate, 6)[:, None])
    model.train()
    torch.manual_seed(0)
    images = torch.randn(8, 3, SIZE, SIZE)
    assert torch.equal(model(images), model(images)) == (rate == 0)


@pytest.fixture
def parts(monkeypatch) -> list[dict]:
    """Of every part of a step: the images that were loaded, those that the model got, labels and targets."""
    seen, part, losses = [], TrainingSteps._part, TrainingSteps._losses

    def entered(self, inputs, labels, *rest):
        hook = self.model.register_forward_pre_hook(lambda _, given: seen[-1].update(given=given[0].clone()))
        seen.append({"loaded": inputs.clone(), "labels": labels})
        try:
            return part(self, inputs, labels, *rest)
        finally:
            hook.remove()

    def weighed(self, logits, labels, targets):
        seen[-1]["targets"] = targets
        return losses(self, logits, labels, targets)

    monkeypatch.setattr(TrainingSteps, "_part", entered)
    monkeypatch.setattr(TrainingSteps, "_losses", weighed)
    return seen


def smoothed(labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, 3) * 0.9 + 0.1 / 3


@pytest.mark.parametrize("option", ["--mixup", "--cutmix"])
def test_images_and_targets_are_mixed_in_the_same_proportion(shop, tmp_path, parts, option):
    """By hand: every image with the one at its place from the end, as the share that its target tells."""
    assert command(train, *shop.options, *FULL, option, 1.0, "--out", tmp_path) == 0
    shares = []
    for part in parts:
        loaded, given, own, other = (
            part["loaded"],
            part["given"],
            smoothed(part["labels"]),
            smoothed(part["labels"].flip(0)),
        )
        differs = (own - other).abs() > 0.1
        share = float(((part["targets"] - other)[differs] / (own - other)[differs]).mean())
        assert torch.allclose(part["targets"], share * own + (1 - share) * other, atol=1e-5)
        if option == "--mixup":
            assert torch.allclose(given, share * loaded + (1 - share) * loaded.flip(0), atol=1e-4)
        else:
            kept = (given == loaded).all(1)
            assert (kept | (given == loaded.flip(0)).all(1)).all(), "every pixel is of one or the other"
            assert kept.float().mean((1, 2)).numpy() == pytest.approx(share, abs=0.01)
        shares.append(share)
    assert len(parts) == 4 and len(set(shares)) == 4, "each part draws its own"
    assert any(0.05 < share < 0.95 for share in shares)


def test_without_them_nothing_is_mixed(shop, tmp_path, parts):
    assert command(train, *shop.options, *FULL, "--out", tmp_path) == 0
    assert (
        all(torch.equal(part["given"], part["loaded"]) and part["targets"] is None for part in parts)
        and len(parts) == 4
    )


# ---- precision


@pytest.mark.parametrize("real, expected", [(True, "bfloat16"), (False, "float16")])
def test_automatic_precision_is_what_the_card_is_made_for(monkeypatch, real, expected):
    """Older cards emulate bfloat16, slowly."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or real)
    assert train_command.precision_of("auto", torch.device("cuda")) == expected
    assert (
        train_command.precision_of("auto", torch.device("cpu")) == "no"
        and train_command.precision_of("float16", torch.device("cuda")) == "float16"
    )


def test_what_training_would_pass_over_is_refused(shop, tmp_path, refused):
    out = ["--out", tmp_path / "run"]
    assert "on the CPU give --amp bfloat16" in refused(
        train, *shop.options, "--method", "dora", "--amp", "float16", *out
    )
    assert "--amp belongs to methods that train by epochs" in refused(train, *shop.options, "--amp", "bfloat16", *out)
    assert "--head-init random belongs to" in refused(train, *shop.options, "--head-init", "random", *out)


# ---- views, two heads


def test_views_are_the_same_images_whatever_trains(shop, tmp_path, parts):
    """Epochs take them in turn, with everything trained too, where nothing can be kept."""
    argv = [
        *shop.options,
        "--method",
        "full",
        "--head-init",
        "random",
        "--augment-views",
        2,
        "--epochs",
        4,
        "--batch-size",
        64,
        "--data-seed",
        5,
    ]
    assert command(train, *argv, "--out", tmp_path / "run") == 0
    seen = [part["loaded"].flatten(1)[part["loaded"].sum((1, 2, 3)).argsort()] for part in parts]
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3]) and not torch.allclose(seen[0], seen[1])
    split = load_data(DataOptions(str(shop.colours)), image_size=SIZE).splits["train"]
    kept = np.setdiff1d(np.arange(36), stratified(split.labels, 4, 5))
    for view in (0, 1):  # those that a cache would hold: by the data's seed and the image's place among all
        config = json.loads((tmp_path / "run" / "config.json").read_text())["data_config"]
        found = torch.stack([Prepared(split, training_transform(config, "crop"), 5, view)[int(i)][0] for i in kept])
        assert torch.equal(found.flatten(1)[found.sum((1, 2, 3)).argsort()], seen[view])


@pytest.mark.parametrize("method", [["linear"], ["dora:blocks=10-11", "--epochs", 1], ["full", "--epochs", 1]])
def test_a_distilled_model_trains_both_of_its_heads(shop, tmp_path, method):
    name = "deit_tiny_distilled_patch16_224"
    model = [
        "--model",
        name,
        "--weights",
        write_weights(tmp_path / "distilled.safetensors", name),
        "--image-size",
        SIZE,
    ]
    assert (
        command(
            train,
            "--data",
            shop.colours,
            *model,
            "--cache",
            tmp_path / "cache",
            "--method",
            *method,
            "--out",
            tmp_path / "run",
        )
        == 0
    )
    run = load_run(tmp_path / "run")
    one, other = run.model.head, run.model.head_dist
    assert torch.equal(one.weight, other.weight) == (method == ["linear"]) and one.weight.any() and other.weight.any()
    rows = [row for row in csv.DictReader((tmp_path / "run" / "predictions.csv").open()) if row["split"] == "val"]
    data = load_data(DataOptions(str(shop.colours)), image_size=SIZE)
    images = Prepared(data.splits["val"], evaluation_transform(run.config.data_config))
    with torch.no_grad():
        logits = run.model(torch.stack([image for image, _ in images]))
    found = logits.softmax(1)[range(18), data.splits["val"].labels]
    assert np.allclose(found, [float(row["probability"]) for row in rows], atol=1e-4)


# ---- what is told


@pytest.fixture
def board(monkeypatch) -> dict[str, list]:
    """A TensorBoard that is not installed: what is written into which folder."""
    written = {}

    class SummaryWriter:
        def __init__(self, folder):
            self.rows = written.setdefault(str(folder), [])

        def add_scalar(self, name, value, step):
            self.rows.append((name, value, step))

        def flush(self):
            self.rows.append("flushed")

    package, module = types.ModuleType("tensorboard"), types.ModuleType("torch.utils.tensorboard")
    package.__spec__, module.SummaryWriter = importlib.machinery.ModuleSpec("tensorboard", None), SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboard", package)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return written


@pytest.mark.parametrize("method", [["linear"], ["dora", "--epochs", 3]])
def test_tensorboard_gets_every_row(shop, tmp_path, board, method):
    assert command(train, *shop.options, "--tensorboard", "--method", *method, "--out", tmp_path) == 0
    ((folder, rows),) = board.items()
    assert Path(folder) == tmp_path / "tensorboard" and rows[-1] == "flushed"
    expected = history(tmp_path)
    assert rows.count("flushed") == len(expected) > 2
    scalars = [row for row in rows if row != "flushed"]
    for name, column in (
        ("train/loss", "train_loss"),
        ("val/accuracy", "val_accuracy"),
        ("held_out_loss", "held_out_loss"),
        ("penalty", "penalty") if method == ["linear"] else ("learning_rate", "learning_rate"),
    ):
        found = [(step, value) for key, value, step in scalars if key == name]
        assert [step for step, _ in found] == list(range(1, len(expected) + 1))
        assert [value for _, value in found] == pytest.approx([float(row[column]) for row in expected], rel=1e-5)


def test_without_the_option_nothing_is_written(shop, tmp_path, board):
    assert command(train, *shop.options, "--out", tmp_path) == 0
    assert not board


def test_an_interrupted_run_has_the_figures_of_its_epochs(shop, tmp_path, monkeypatch, capsys):
    argv = [*shop.options, "--method", "dora:blocks=4-5", "--epochs", 4, "--batch-size", 8, "--out"]
    out, shown = tmp_path / "run", train_output.print_row
    assert command(train, *argv, tmp_path / "whole") == 0
    whole = files(tmp_path / "whole")

    def stopping(row: dict) -> None:
        shown(row)
        if row["epoch"] in (2, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(train_output, "print_row", stopping)
    config = RunConfig.from_json(json.loads(whole["config.json"]), tmp_path)
    options = train_options(build_parser().parse_args([str(one) for one in [*argv, out]]))
    for epochs in (2, 3):
        assert command(train, *argv, out) == 130
        assert (out / "metrics.csv").read_bytes() == b"".join(whole["metrics.csv"].splitlines(True)[: 1 + epochs])
        assert not list(out.glob(".*")) and not (out / "summary.json").exists()
        assert state_of(out, config) == train_command.prepare_folder(options, config) == "interrupted"
    capsys.readouterr()
    assert command(train, *argv, out) == 0 and "continuing after epoch 3 of 4" in capsys.readouterr().out
    assert {name for name, content in files(out).items() if whole.get(name) != content} <= {"timings.json"}


def test_a_run_that_replaces_another_does_not_begin_with_its_figures(shop, tmp_path, monkeypatch):
    assert command(train, *shop.options, "--out", tmp_path) == 0

    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", stopped)
    assert command(train, *shop.options, *LATE, "--overwrite", "--out", tmp_path) == 130
    assert not (tmp_path / "metrics.csv").exists()


# ---- how fast images come


@pytest.fixture
def slow_images(monkeypatch) -> None:
    """Every image takes 10 ms, and a twentieth of a second is long enough for a warning."""
    item = Prepared.__getitem__
    monkeypatch.setattr(loading, "SLOW", 0.05)
    monkeypatch.setattr(Prepared, "__getitem__", lambda self, index: (time.sleep(0.01), item(self, index))[1])


def told(text: str) -> list[tuple[str, float]]:
    """Who waited for the loader, and how many images a second it can give."""
    return [
        (what, float(rate))
        for rate, what in re.findall(
            r"the loader can give (\d+) images a second; (.*) waited \d+\.\d of \d+\.\d s for it", text
        )
    ]


def test_the_pass_that_stores_tokens_warns_too(shop, tmp_path, slow_images, capsys):
    assert (
        command(
            train, *shop.options, *LATE, "--augment", "none", "--cache", tmp_path / "cache", "--out", tmp_path / "run"
        )
        == 0
    )
    assert re.search(r"the frozen part waited \d+ % of its time for images", capsys.readouterr().err.replace("%", " %"))


def test_a_probes_pass_tells_how_fast_images_come(shop, tmp_path, slow_images, capsys):
    argv = [*shop.options, "--cache", tmp_path / "cache", "--out"]
    assert command(train, *argv, tmp_path / "first") == 0
    out, error = capsys.readouterr()
    ((what, rate),) = told(out)
    assert what == "the frozen part" and 20 < rate <= 100
    assert "of its time for images: the loader, not the model, is the limit; give --workers 2" in error
    timings = json.loads((tmp_path / "first" / "timings.json").read_text())
    assert timings["loader_images_per_second"] == pytest.approx(rate, abs=0.5)
    assert 54 * 0.01 < timings["waiting_for_images_seconds"] <= timings["steps_seconds"]
    assert command(train, *argv, tmp_path / "second") == 0
    out, error = capsys.readouterr()
    assert not told(out) and "is the limit" not in error, "what is read from a cache waits for no loader"
    timings = json.loads((tmp_path / "second" / "timings.json").read_text())
    assert timings["waiting_for_images_seconds"] == timings["steps_seconds"] == 0


@pytest.mark.parametrize(
    "augment, expected",
    [(["--augment", "crop"], ["the frozen part", "training"]), (["--augment", "none"], ["the frozen part"])],
)
def test_late_adapters_tell_it_of_both(shop, tmp_path, slow_images, monkeypatch, capsys, augment, expected):
    fitted = []
    finish = train_command.finish
    monkeypatch.setattr(
        train_command, "finish", lambda options, found, *rest: (fitted.append(found), finish(options, found, *rest))
    )
    argv = [*shop.options, *LATE, *augment, "--cache", tmp_path / "cache", "--out", tmp_path / "run"]
    assert command(train, *argv) == 0
    found = told(capsys.readouterr().out)
    assert [what for what, _ in found] == expected and all(20 < rate <= 100 for _, rate in found)
    assert fitted[0].images_per_second == pytest.approx(found[1][1] if len(found) == 2 else 0.0, abs=0.5)


@pytest.mark.draws
def test_clock_times_stay_out_of_what_is_compared(shop, tmp_path, slow_images):
    """A slow run and the fast one of the same command differ in timings.json alone."""
    assert command(train, *shop.dora_options, "--out", tmp_path) == 0
    fast, slow = files(shop.dora), files(tmp_path)
    assert {name for name in fast.keys() | slow.keys() if fast.get(name) != slow.get(name)} == {"timings.json"}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_full_memory_is_one_line_that_names_the_way_out(shop, tmp_path, monkeypatch, capsys, error):
    def full(*_):
        raise error

    monkeypatch.setattr("models.training.steps.TrainingSteps._part", full)
    assert command(train, *shop.options, "--method", "dora", "--out", tmp_path / "run") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"error: memory is full ({str(error).splitlines()[0]}); "
        "give --accumulate 2, or more, to take a batch in parts, and another --out; or --device cpu"
    )
    monkeypatch.undo()
    assert command(train, *shop.options, "--method", "dora", "--accumulate", 2, "--out", tmp_path / "parts") == 0


def test_beside_other_processes_a_full_memory_ends_its_own_at_once(monkeypatch):
    """To tell the others would be to wait for them, while they wait for its gradients."""

    def main(args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("common.processes.count", lambda: 2)
    with pytest.raises(torch.OutOfMemoryError):
        run(main, make_parser("A command.", "python command.py"), [])
