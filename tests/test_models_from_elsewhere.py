"""compare.py and visualize.py take models that train.py did not write, and say in one line what such a model lacks."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from running import ADAPTER_FILES, command, files
from safetensors.torch import load_file, save_file
from tiny import COLOURS, NAME, SIZE, write_weights

import compare
import train
import visualize
from models.runs import load_run

FEW = ["--images", 6, "--rows", 2]
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def export(shop, tmp_path_factory):
    """The DoRA run as `train.py --export` writes it."""
    file = tmp_path_factory.mktemp("export") / "mine.safetensors"
    assert command(train, *shop.dora_options, "--out", shop.dora, "--export", file) == 0
    return file


@pytest.fixture
def theirs(export, tmp_path):
    """The same parameters and names in another order of classes, as plain files; with the flags that they need."""
    state, order = load_file(export), [2, 0, 1]
    save_file(state | {key: state[key][order] for key in ("head.weight", "head.bias")}, tmp_path / "theirs.safetensors")
    names = [list(COLOURS)[c] for c in order]
    (tmp_path / "names.json").write_text(json.dumps(names))
    flags = ["--model", NAME, "--image-size", SIZE, "--class-names", tmp_path / "names.json"]
    return [tmp_path / "theirs.safetensors", *flags]


@pytest.fixture
def peft(shop, tmp_path):
    """A DoRA run's adapter with the head that plain peft would save in it."""
    folder = shutil.copytree(shop.dora / "adapter", tmp_path / "peft")
    head = {f"base_model.model.{key}": value for key, value in load_file(shop.dora / "head.safetensors").items()}
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | head, path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": ["head"]}))
    (tmp_path / "names.txt").write_text("\n".join(COLOURS))
    flags = ["--model", NAME, "--image-size", SIZE, "--class-names", tmp_path / "names.txt"]
    return [folder, *flags, "--weights", shop.weights]


def rows_of(out) -> dict[str, list[dict]]:
    """Return the rows of comparison.csv by run."""
    rows: dict[str, list[dict]] = {}
    for row in csv.DictReader((out / "comparison.csv").open()):
        rows.setdefault(row["run"], []).append(row)
    return rows


def same_numbers(a: list[dict], b: list[dict], but=("run",)) -> bool:
    """Tell whether rows agree: words exactly, numbers up to the rounding of a merge."""

    def agree(x: str, y: str) -> bool:
        try:
            return np.isclose(float(x), float(y), rtol=1e-2, atol=1e-4)
        except ValueError:
            return x == y

    return len(a) == len(b) and all(
        p.keys() == q.keys() and all(agree(p[k], q[k]) for k in p if k not in but) for p, q in zip(a, b)
    )


# What such models say


@pytest.mark.parametrize("kind", ["export", "theirs", "peft"])
def test_a_run_given_in_another_form_says_the_same(shop, export, theirs, peft, tmp_path, capsys, kind):
    """Whatever the form, the flags and the order of classes: it is the DoRA run."""
    given = {"export": [export], "theirs": theirs, "peft": peft}[kind]
    capsys.readouterr()
    assert command(compare, shop.dora, *given, *FEW, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().err == ""
    rows = rows_of(tmp_path / "out")
    label = given[0].stem
    assert list(rows) == ["dora", label] and same_numbers(rows["dora"], rows[label])
    maps = np.load(tmp_path / "out" / "maps.npz")
    assert np.allclose(maps["maps_0"], maps["maps_1"], atol=1e-3 * maps["maps_0"].max())
    assert (maps["classes_0"] == maps["classes_1"]).all() and (maps["classes_1"][:, 0] == maps["true"]).all()
    first, second = json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"]
    assert second["accuracy"] is None and second["accuracy_explained"] == first["accuracy_explained"] > 0.5


def test_the_untuned_model_is_explained_for_the_class_that_it_predicts(shop, tmp_path, capsys):
    argv = [NAME, shop.linear, "--weights", shop.weights, "--image-size", SIZE, *FEW, "--out", tmp_path]
    assert command(compare, *argv) == 0
    said = capsys.readouterr()
    assert said.err == (
        f"warning: {NAME} has other classes than {shop.colours}: it is explained for the class that it "
        f"predicts, and its accuracy is not defined\n"
    )
    assert f"{NAME}: own classes, similarity" in said.out and "linear: true class" in said.out
    rows = rows_of(tmp_path)
    for before, tuned in zip(rows[NAME], rows["linear"]):
        assert before["image"] == tuned["image"] and before["true"] == tuned["true"] == tuned["explained"]
        assert before["explained"] == before["predicted"] != before["second"] and before["explained"] not in COLOURS
        assert before["correct"] == before["probability_true"] == "" != before["spearman_random"]
        assert float(before["probability_second"]) < 0.5 and tuned["probability_true"] != ""
    maps = np.load(tmp_path / "maps.npz")
    assert list(maps["classes_0"][:, 0]) == [row["predicted"] for row in rows[NAME]]
    assert set(maps["true"]) == set(COLOURS) == {*maps["classes_1"].flat}
    assert maps["classes_0"].shape == (6, 1 + 3 + 1) and maps["classes_1"].shape == (6, 1 + 2 + 1)
    first = json.loads((tmp_path / "comparison.json").read_text())["runs"][0]
    assert first["accuracy"] is None and first["accuracy_explained"] is None
    before = files(tmp_path)
    assert command(compare, *argv) == 0 and "finished: reused" in capsys.readouterr().out and files(tmp_path) == before


def test_the_rows_of_a_run_do_not_depend_on_an_untuned_model_beside_it(shop, tmp_path):
    assert command(compare, shop.linear, shop.dora, *FEW, "--out", tmp_path / "two") == 0
    argv = [shop.linear, shop.dora, NAME, "--weights", shop.weights, "--image-size", SIZE, *FEW]
    argv += ["--out", tmp_path / "three"]
    assert command(compare, *argv) == 0
    two, three = rows_of(tmp_path / "two"), rows_of(tmp_path / "three")
    assert {label: three[label] for label in two} == two and set(three) == {*two, NAME}


def test_models_that_all_have_classes_of_their_own_can_be_compared(shop, tmp_path, capsys):
    other = write_weights(tmp_path / "other.safetensors", seed=1)
    file = tmp_path / "thousand.txt"
    file.write_text("\n".join(f"thing {i}" for i in range(1000)))
    argv = [NAME, other, "--model", NAME, "--weights", shop.weights, "--image-size", SIZE, "--class-names", file]
    argv += ["--data", shop.colours, *FEW, "--out", tmp_path / "out"]
    assert command(compare, *argv) == 0
    assert capsys.readouterr().err.count("has other classes than") == 2
    rows = rows_of(tmp_path / "out")
    assert all(row["explained"].startswith("thing ") for row in rows["other"])
    assert {row["correct"] for part in rows.values() for row in part} == {""}


def test_models_with_other_classes_on_drawn_scenes_say_where_their_own_relevance_lies(shop, export, tmp_path):
    """The equipment that lies about is no target of models that do not know it."""
    argv = [NAME, export, "--weights", shop.weights, "--image-size", SIZE, "--data", "scenes", "--train-images", 24]
    argv += ["--val-images", 24, *FEW, "--out", tmp_path]
    assert command(compare, *argv) == 0
    rows = [row for part in rows_of(tmp_path).values() for row in part]
    assert {row["second_is"] for row in rows} == {"random"}
    assert all(float(row["ratio_evidence"] or 0) >= 0 for row in rows) and any(row["ratio_evidence"] for row in rows)
    assert not any("share_distractor_for_its_class" in row for row in rows)
    assert "regions.png" in files(tmp_path)


def test_a_changed_file_is_another_comparison(shop, export, tmp_path, refused):
    file = shutil.copy(export, tmp_path / "mine.safetensors")
    argv = [shop.linear, file, *FEW, "--class-names", tmp_path / "names.txt", "--out", tmp_path / "out"]
    (tmp_path / "names.txt").write_text("\n".join(COLOURS))
    assert command(compare, *argv) == 0
    (tmp_path / "names.txt").write_text("\n".join(reversed(COLOURS)))
    assert "holds another comparison" in refused(compare, *argv) and "runs.mine" in refused(compare, *argv)


def test_files_of_one_name_are_told_apart(shop, export, tmp_path):
    (tmp_path / "b").mkdir()
    copy = shutil.copy(export, tmp_path / "b" / export.name)
    assert command(compare, export, copy, "--data", shop.colours, *FEW, "--out", tmp_path / "out") == 0
    assert list(rows_of(tmp_path / "out")) == [f"mine ({export})", f"mine ({copy})"]


@pytest.mark.draws
def test_visualize_draws_models_from_elsewhere(shop, export, theirs, peft, tmp_path):
    image = shop.colours / "val" / "red" / "00.png"
    pictures = []
    for i, given in enumerate(([export], theirs, peft, [NAME, "--weights", shop.weights])):
        out = tmp_path / f"out{i}"
        targets = ["true", "blue"] if i < 3 else ["pred", "tench"]
        assert command(visualize, given[0], image, *given[1:], "--targets", *targets, "--out", out) == 0
        assert set(files(out)) == {"00.png"}
        pictures.append(np.asarray(Image.open(out / "00.png"), dtype=float))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).mean() < 0.05  # but for its label


# Wrong inputs


def test_a_run_cannot_be_compared_with_itself(shop, tmp_path, refused):
    again = shop.root / "dora" / ".." / "linear"
    assert f"{again} was given twice" in refused(compare, shop.linear, shop.dora, again, "--out", tmp_path / "out")


def test_images_must_be_named_when_no_model_recorded_its_own(shop, export, tmp_path, refused):
    message = refused(compare, export, NAME, "--weights", shop.weights, "--out", tmp_path / "out")
    assert f"none of {export}, {NAME} says which images it was trained on" in message and "--data" in message


def test_runs_of_different_classes_are_refused_beside_models_from_elsewhere(shop, export, tmp_path, refused):
    two = tmp_path / "two"
    assert command(train, *shop.options, "--classes", "red", "blue", "--out", two) == 0
    assert "have different classes (green)" in refused(compare, export, shop.linear, two, "--out", tmp_path / "out")
    message = refused(compare, export, two, "--data", shop.colours, "--out", tmp_path / "out")
    assert f"--data {shop.colours} has other classes than {two}" in message


@pytest.mark.parametrize("script", [compare, visualize])
@pytest.mark.parametrize(
    "given, words, status",
    [
        (["bundled"], "'bundled' has no head of its own", 2),
        (["test_vitt"], "test_vitt is not a folder, a file or a timm name", 2),
        (["resnet18"], "resnet18 cannot be explained: the model is ResNet", 2),
        (["swin_tiny_patch4_window7_224"], "swin_tiny_patch4_window7_224 cannot be explained", 2),
        (["FOLDER/plain.safetensors"], "does not say what model it is; give --model NAME", 2),
        (["FOLDER/plain.safetensors", "--model", NAME], "has positions for 4 patches", 2),
        (["FOLDER/plain.safetensors", "--model", NAME, "--image-size", SIZE], "does not name its 3 classes", 2),
        (
            ["FOLDER/plain.safetensors", "--model", NAME, "--image-size", SIZE, "--class-names", "FOLDER/two.txt"],
            "two.txt has 2 names, but the head",
            2,
        ),
        (
            ["FOLDER/plain.safetensors", "--model", "test_vit2", "--image-size", SIZE],
            "does not fit VisionTransformer",
            1,
        ),
        (
            ["FOLDER/plain.safetensors", "--model", "resnet18", "--class-names", "FOLDER/two.txt"],
            "holds no trained head (fc.weight)",
            2,
        ),
        (["FOLDER/half.safetensors"], "half.safetensors cannot be read as weights", 1),
        (["FOLDER/export.safetensors", "--class-names", "FOLDER/none.txt"], "none.txt cannot be read", 2),
        (["FOLDER/adapter", "--model", NAME], "holds no trained head", 2),
        (["FOLDER/adapter"], "names nothing as its base", 2),
        (["FOLDER"], "holds no config.json; expected a run folder", 2),
    ],
)
def test_what_a_model_from_elsewhere_lacks(shop, export, tmp_path, refused, script, given, words, status):
    folder = tmp_path / "folder"
    shutil.copytree(shop.dora / "adapter", folder / "adapter")
    shutil.copy(export, folder / "export.safetensors")
    save_file(load_file(export), folder / "plain.safetensors")
    (folder / "half.safetensors").write_bytes(export.read_bytes()[:500])
    (folder / "two.txt").write_text("a\nb")
    name, *options = (str(part).replace("FOLDER", str(folder)) for part in given)
    second = shop.linear if script is compare else shop.colours / "val" / "red" / "00.png"
    assert words in refused(script, name, second, *options, "--out", tmp_path / "out", status=status)


@pytest.mark.parametrize("script", [compare, visualize])
def test_a_merged_model_that_cannot_be_explained(shop, tmp_path, refused, script):
    file = write_weights(tmp_path / "resnet.safetensors", "test_resnet")
    (tmp_path / "names.txt").write_text("\n".join(map(str, range(1000))))
    second = shop.linear if script is compare else shop.colours / "val" / "red" / "00.png"
    message = refused(
        script,
        file,
        second,
        "--model",
        "test_resnet",
        "--class-names",
        tmp_path / "names.txt",
        "--out",
        tmp_path / "out",
    )
    assert f"{file} cannot be explained: the model is ResNet" in message


@pytest.mark.parametrize("script", [compare, visualize])
@pytest.mark.parametrize("option, value", [("--model", NAME), ("--image-size", SIZE), ("--class-names", "names.txt")])
def test_flags_for_models_from_elsewhere_beside_runs_alone(shop, tmp_path, refused, script, option, value):
    second = shop.dora if script is compare else shop.colours / "val" / "red" / "00.png"
    message = refused(script, shop.linear, second, option, value, "--out", tmp_path / "out")
    assert f"{option} is used for none of {shop.linear}" in message


def test_no_class_of_the_untuned_model_is_the_photos_folder(shop, tmp_path, refused):
    image = shop.colours / "val" / "red" / "00.png"
    message = refused(
        visualize, NAME, image, "--weights", shop.weights, "--targets", "tenche", "--out", tmp_path / "out"
    )
    assert "no class 'tenche' in this run; did you mean 'tench'" in message


def test_an_export_beside_a_run_folder_is_what_the_run_is(shop, export):
    assert set(files(shop.dora)) >= ADAPTER_FILES
    assert torch.equal(load_file(export)["head.weight"], load_run(shop.dora).model.head.weight)
