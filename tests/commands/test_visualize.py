"""visualize.py: which pictures it draws of which images, what they say, and what it refuses."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from running import command, files
from tiny import NAME, SIZE

import visualize
from commands.visualize_files import image_files, output_names
from data.images import open_image
from data.transforms import evaluation_transform
from models.runs import load_run
from report.figures import class_heatmaps

METHODS = ["lrp_magnitude", "rollout", "cp_lrp", "attention"]  # unsigned, without classes, signed, without classes


@pytest.fixture
def red(shop) -> Path:
    return shop.colours / "val" / "red" / "00.png"


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
    """What is asked of `grid`, a dictionary per picture; nothing is drawn."""
    asked = []

    def grid(out, rows, **named):
        asked.append({"out": out, "rows": rows, **named})

    monkeypatch.setattr(class_heatmaps, "grid", grid)
    return asked


# ---- which images, which files


def test_one_picture_per_image_whatever_their_names(shop, tmp_path, capsys):
    images = [shop.colours / "val" / name / "00.png" for name in ("red", "blue")]
    argv = [shop.dora, *images, "--targets", "true", "pred", "green", "--relevance", "lrp", "rollout"]
    argv += ["--out", tmp_path]
    assert command(visualize, *argv) == 0
    assert set(files(tmp_path)) == {"red-00.png", "blue-00.png"}
    assert capsys.readouterr().out.split() == [str(tmp_path / "red-00.png"), str(tmp_path / "blue-00.png")]


def test_a_folder_is_drawn_with_all_its_folders_and_titles_say_which(shop, tmp_path, drawn, monkeypatch):
    (tmp_path / "photos" / "blue").mkdir(parents=True)
    for name in ("red.png", "blue/01.PNG", "blue/02.png", ".hidden.png"):
        shutil.copy(shop.colours / "val" / "red" / "00.png", tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    assert command(visualize, shop.dora, tmp_path / "photos", "--out", tmp_path / "out") == 0
    assert [(one["title"], one["out"].name) for one in drawn] == [
        ("blue/01.PNG", "01.png"),
        ("blue/02.png", "02.png"),
        ("photos/red.png", "red.png"),
    ]
    monkeypatch.chdir(tmp_path / "photos" / "blue")
    for given in (".", "01.PNG", "../blue/01.PNG"):
        assert command(visualize, shop.dora, given, "--out", tmp_path / "out") == 0
    assert [one["title"] for one in drawn[3:]] == ["blue/01.PNG", "blue/02.png", "blue/01.PNG", "blue/01.PNG"]


def test_a_glob_is_drawn(shop, tmp_path, drawn):
    assert command(visualize, shop.dora, shop.colours / "val" / "*" / "0[01].png", "--out", tmp_path) == 0
    assert [one["title"] for one in drawn] == [f"{name}/0{i}.png" for name in ("blue", "green", "red") for i in (0, 1)]
    assert [one["out"].name for one in drawn][:2] == ["blue-00.png", "blue-01.png"]


def test_an_image_named_several_times_is_drawn_once(shop, red, tmp_path, drawn, monkeypatch):
    monkeypatch.chdir(red.parent)
    for given in ([red, red], [red.parent, red], ["00.png", red, "../red/00.png"], ["0*.png", red.parent]):
        names = image_files([str(one) for one in given])
        assert len({os.path.abspath(name) for name in names}) == len(names)
    assert command(visualize, shop.dora, red, red.name, "--out", tmp_path) == 0
    assert [one["out"].name for one in drawn] == ["00.png"]


def test_names_are_told_apart_by_folder_and_number(tmp_path):
    def names(*paths: str) -> list[str]:
        return [path.name for path in output_names([Path(path) for path in paths], tmp_path)]

    assert names("a/1.jpg", "b/2.jpg") == ["1.png", "2.png"]
    assert names("a/1.jpg", "b/1.jpg", "a/1.png", "x/a/1.jpg", "c/a-1-2.gif") == [
        "a-1.png",
        "b-1.png",
        "a-1-2.png",
        "a-1-3.png",
        "a-1-2-2.png",
    ]
    assert names("c/a-1.gif", "a/1.jpg", "b/1.jpg") == ["a-1.png", "a-1-2.png", "b-1.png"]
    named = output_names([Path("a/1.jpg")], tmp_path, ["contrast log_p", "centre head"])
    assert named == [tmp_path / "1-contrast-log_p-centre-head.png"]


@pytest.mark.parametrize("count", [10, 1000])
def test_each_path_is_asked_for_its_name_a_few_times_however_many_there_are(tmp_path, count):
    asked = []

    class Counted(type(Path())):
        @property
        def stem(self) -> str:
            asked.append(self)
            return super().stem

    names = output_names([Counted(f"{i % 7}/{i // 2}.jpg") for i in range(count)], tmp_path)
    assert len(set(names)) == count and len(asked) <= 4 * count


def test_pictures_of_heads_from_an_earlier_call_go(shop, red, tmp_path):
    """They would pass for the new call's; those of another image, and the user's own files, stay."""
    blue = shop.colours / "val" / "blue" / "01.png"
    argv = [shop.dora, "--targets", "red", "--out", tmp_path]
    assert command(visualize, *argv, red, blue, "--layers", "--relevance", "lrp", "rollout") == 0
    (tmp_path / "00-layers-mine.png").write_text("mine")
    kept = {"01.png", "01-layers-lrp-1-red.png", "01-layers-rollout-1-every-class.png", "00-layers-mine.png", "00.png"}
    assert set(files(tmp_path)) == kept | {"00-layers-lrp-1-red.png", "00-layers-rollout-1-every-class.png"}
    assert command(visualize, *argv, red, "--layers", "--relevance", "cp_lrp") == 0
    assert set(files(tmp_path)) == kept | {"00-layers-cp_lrp-1-red.png"}
    assert command(visualize, *argv, red) == 0
    assert set(files(tmp_path)) == kept


def test_a_picture_of_this_call_is_not_taken_for_an_earlier_ones(shop, red, tmp_path):
    odd = shutil.copy(red, tmp_path / "00-layers-lrp-1-red.png")
    out = tmp_path / "out"
    for order in ([red, odd], [odd, red]):
        assert command(visualize, shop.dora, *order, "--out", out) == 0
        assert set(files(out)) == {"00.png", "00-layers-lrp-1-red.png"}


# ---- what pictures say


@pytest.mark.parametrize("own", [False, True])
def test_the_most_probable_classes_stand_below_the_image(shop, red, tmp_path, drawn, own):
    given = [NAME, "--weights", shop.weights, "--image-size", SIZE] if own else [shop.dora]
    assert command(visualize, *given, red, "--relevance", "lrp", "cp_lrp", "--out", tmp_path) == 0
    (photo, *heats), (second, *_) = drawn[0]["rows"]
    first, *lines = photo.caption.splitlines()
    assert first == ("top 5:" if own else "top 3:") and len(lines) == (5 if own else 3) and second.caption == ""
    assert [heat.caption for heat in heats] == lines[:3], "what is explained by default"
    if not own:
        run = load_run(shop.dora)
        image = evaluation_transform(run.config.data_config)(open_image(red))[None]
        shares = run.model(image)[0].softmax(0)
        assert lines == [f"{run.class_names[c]} {100 * shares[c]:.1f} %" for c in shares.argsort(descending=True)]


def test_a_contrast_is_named_in_the_picture_and_in_its_file(shop, red, tmp_path, drawn):
    for options in ([], ["--contrast", "mean"], ["--contrast", "log_p", "--centre-head"]):
        assert command(visualize, shop.dora, red, "--relevance", "cp_lrp", "lrp", *options, "--out", tmp_path) == 0
    assert [one["out"].name for one in drawn] == ["00.png", "00-contrast-mean.png", "00-contrast-log_p-centre-head.png"]
    said = [[row[0].title for row in one["rows"]] for one in drawn]
    assert said == [
        ["cp_lrp", "lrp"],
        ["cp_lrp, contrast mean", "lrp, contrast mean"],
        ["cp_lrp, contrast log_p, centre head", "lrp, contrast log_p, centre head"],
    ]


def test_a_precision_is_named_and_refused_where_it_would_change_maps(shop, red, tmp_path, drawn, refused):
    for options in ([], ["--precision", "float16"]):
        assert command(visualize, shop.dora, red, "--relevance", "lrp_depth", *options, "--out", tmp_path) == 0
    assert [one["out"].name for one in drawn] == ["00.png", "00-precision-float16.png"]
    assert drawn[1]["rows"][0][0].title == "lrp_depth, precision float16"
    pixels = [np.asarray(one["rows"][0][1].image, float) for one in drawn]
    assert 0 < np.abs(pixels[0] - pixels[1]).max() and np.abs(pixels[0] - pixels[1]).mean() < 2
    message = refused(
        visualize, tmp_path / "run", red, "--relevance", "lrp_depth", "lrp", "--precision", "float16", "--out", tmp_path
    )
    assert "lrp differs by more than 2 % in float16" in message and "Of those given, lrp_depth can" in message


def test_a_contrast_is_named_in_pictures_of_heads(shop, red, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(class_heatmaps, "head_matrix", lambda *args, **named: asked.append(args))
    argv = [shop.dora, red, "--targets", "red", "--relevance", "cp_lrp", "--contrast", "softmax", "--layers"]
    argv += ["--out", tmp_path]
    assert command(visualize, *argv) == 0
    ((file, *_, title, _scale),) = asked
    assert file.name == "00-contrast-softmax-layers-cp_lrp-1-red.png"
    assert "cp_lrp, contrast softmax" in title and title.endswith("red/00.png")


def test_every_row_has_a_scale(shop, red, tmp_path, drawn):
    for methods in (METHODS, ["cp_lrp"], ["lrp", "rollout"]):
        assert command(visualize, shop.dora, red, "--relevance", *methods, "--out", tmp_path) == 0
    both, signed, unsigned = [one["scales"] for one in drawn]
    assert [(one.colour_map, one.limits) for one in both] == [("inferno", ("0", "max")), ("RdBu_r", ("against", "for"))]
    assert both[0].label.startswith(
        "lrp_magnitude, rollout, attention: relevance, each heatmap from 0 to its own maximum"
    )
    assert both[1].label.startswith("cp_lrp: relevance against and for the class")
    assert [one.label for one in signed + unsigned] == [
        both[1].label.removeprefix("cp_lrp: "),
        "relevance, each heatmap from 0 to its own maximum",
    ]


def test_a_method_that_knows_no_class_is_drawn_once(shop, red, tmp_path, drawn):
    assert (
        command(visualize, shop.dora, red, "--targets", "red", "blue", "--relevance", *METHODS, "--out", tmp_path) == 0
    )
    assert command(visualize, shop.dora, red, "--relevance", "rollout", "attention", "--out", tmp_path) == 0
    both, alone = drawn
    assert [[cell is not None for cell in row] for row in both["rows"]] == [[True] * 3, [True, True, False]] * 2
    assert both["rows"][0][1].caption.startswith("red ") and both["rows"][0][2].caption.startswith("blue ")
    for row in (both["rows"][1], both["rows"][3], *alone["rows"]):
        assert row[1].caption.startswith("knows no class") and "%" not in row[1].caption
    assert both["subheaders"] == ["image", "red", "blue"] and alone["subheaders"] == ["image", "every class"]
    assert [len(row) for row in alone["rows"]] == [2, 2] and "a class" not in alone["headers"][1][0]


def test_all_of_it_fits_together(shop, red, tmp_path):
    assert command(visualize, shop.dora, red, "--relevance", *METHODS, "--layers", "--out", tmp_path) == 0
    pictures = [name for name in files(tmp_path) if "-layers-" not in name]
    assert pictures == ["00.png"] and len(files(tmp_path)) == 1 + 3 + 1 + 3 + 1


def test_a_method_named_twice_is_drawn_once(shop, red, tmp_path, drawn):
    assert (
        command(visualize, shop.dora, red, "--relevance", "lrp_depth", "rollout", "lrp_depth", "--out", tmp_path) == 0
    )
    assert [row[0].title for row in drawn[0]["rows"]] == ["lrp_depth", "rollout"]


def test_a_map_of_nothing_says_so(shop, red, tmp_path, drawn, monkeypatch):
    maps = torch.zeros(1, 3, 2, 2)
    maps[0, 1, 0, 0] = 1
    monkeypatch.setattr("commands.visualize.relevance", lambda *_, **__: maps)
    assert command(visualize, shop.dora, red, "--relevance", "gradcam", "--out", tmp_path) == 0
    said = ["(the map is 0)" in cell.caption for cell in drawn[0]["rows"][0][1:]]
    assert said == [True, False, True]


# ---- Ctrl-C; what is said then, test_commands.py asks of every command


def test_pictures_drawn_before_ctrl_c_are_whole(shop, tmp_path, monkeypatch):
    save, saved = Figure.savefig, []

    def interrupted(figure, path, **named):
        if saved:
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        saved.append(save(figure, path, **named))

    monkeypatch.setattr(Figure, "savefig", interrupted)
    assert (
        command(visualize, shop.dora, shop.colours / "val" / "red", "--relevance", "rollout", "--out", tmp_path) == 130
    )
    assert set(files(tmp_path)) == {"00.png"} and np.asarray(Image.open(tmp_path / "00.png")).any()


# ---- wrong inputs


def test_a_target_misspelt(shop, red, tmp_path, refused):
    message = refused(visualize, shop.linear, red, "--targets", "gren", "--out", tmp_path / "o")
    assert "no class 'gren' in this run; did you mean 'green'" in message


def test_unknown_true_classes_are_refused_before_anything_is_drawn(shop, red, tmp_path, refused):
    photos = [shutil.copy(red, tmp_path / name) for name in ("photo.png", "other.png")]
    message = refused(visualize, shop.linear, photos[0], "--targets", "true", "--out", tmp_path / "out")
    assert f"the true class of {photos[0]} is unknown: its folder {tmp_path.name!r} is not a class" in message
    message = refused(visualize, shop.linear, red, *photos, "--targets", "true", "--out", tmp_path / "out")
    assert f"the true class of {photos[0]} (and of 1 more) is unknown" in message


def test_images_that_are_not_there(shop, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    for given, why in (("*.jpg", "matches no image"), ("empty", "matches no image"), ("photo.jpg", "does not exist")):
        assert f"{tmp_path / given} {why}; give" in refused(
            visualize, shop.linear, tmp_path / given, "--out", tmp_path / "out"
        )


def test_a_file_that_is_not_an_image_is_skipped_and_others_are_drawn(shop, red, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("text")
    argv = [shop.linear, tmp_path / "text.jpg", "--out", tmp_path / "out"]
    assert command(visualize, *argv) == 1
    warning, error = capsys.readouterr().err.splitlines()
    assert "text.jpg is not a readable image" in warning and error.startswith("error: none of the 1 file(s)")
    assert command(visualize, shop.linear, tmp_path / "text.jpg", red, *argv[2:]) == 0
    assert set(files(tmp_path / "out")) == {"00.png"}


# ---- what it must not touch


def test_a_picture_never_replaces_an_image(shop, red, tmp_path, refused):
    photo = Path(shutil.copy(red, tmp_path / "photo.png"))
    assert f"the picture of {photo} would replace it" in refused(visualize, shop.dora, photo, "--out", tmp_path)
    assert "would replace it" in refused(visualize, shop.dora, tmp_path, "--out", tmp_path)
    assert "'' names no image" in refused(visualize, shop.dora, "", "--out", tmp_path / "out")
