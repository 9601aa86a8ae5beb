"""study.py: the images that methods are trained on, and those that claims are judged on."""

from typing import Any

import pytest
from running import command, files
from test_study import METHOD, SMALL, study_module
from tiny import colour_folder

import study
from evaluation.observations import read_results
from models.training.recipe import Augmentation

pytestmark = pytest.mark.usefixtures("no_pictures")


def test_every_method_sees_the_same_images(shop, tmp_path, monkeypatch):
    """By default as many views as the longest training has epochs; `own` is what train.py does by default."""
    seen: dict[str, Any] = {}
    train_it = study_module().train

    def trained(options, data):
        seen[options.settings.method] = options.augmentation
        train_it(options, data)

    monkeypatch.setattr(study_module(), "train", trained)
    argv = [*shop.options, "--epochs", 2, *SMALL[2:], *METHOD, "--metrics", "maps", "--out"]
    assert command(study, *argv, tmp_path / "same") == 0
    assert seen["linear"] == seen["dora"] == Augmentation(views=2)
    same, own = "the same 2 augmented view(s) of each image for all methods", "each method has its own"
    for name in ("findings.md", "details.md", "claims.md"):
        assert (
            f"training images: {same}; linear: all 2 at once (crop); dora: one per epoch"
            in (tmp_path / "same" / name).read_text()
        )
    assert command(study, *argv, tmp_path / "own", "--training-views", "own") == 0
    assert seen["linear"] == seen["dora"] == Augmentation()
    text = (tmp_path / "own" / "findings.md").read_text()
    assert f"{own} (--training-views own); linear: images as they are; dora: a new view in each of 2 epoch(s)" in text


@pytest.mark.parametrize("split, word", [("test", "test"), ("val", "validation")])
def test_claims_say_which_images_they_are_judged_on(judged, split, word):
    text = (judged / ("claims.md" if split == "val" else "on-test/claims.md")).read_text()
    assert f"linear is more accurate on {word} images than dora" in text and f"claims are judged on {split}" in text
    assert f"| {split} | {21 if split == 'test' else 12} |" in text and ("21 in test" in text) == (split == "test")
    folder = judged if split == "val" else judged / "on-test"
    rows = list(read_results(folder / "results.csv"))
    assert {row.split for row in rows} == {split} and {row.image.split("/")[0] for row in rows if row.image} == {split}


@pytest.fixture(scope="module")
def judged(shop, tmp_path_factory):
    """A study that was judged on val, then on test; its runs are trained once, and test changes nothing in them."""
    root = tmp_path_factory.mktemp("judged")
    data = colour_folder(root / "data", train=8, val=4)
    colour_folder(root / "more", train=1, val=7, val_name="test")
    (root / "more" / "test").rename(data / "test")
    out = root / "out"
    argv = ["--data", data, *shop.model, *SMALL[:2], *SMALL[4:], *METHOD, "--metrics", "maps", "--out", out]
    assert command(study, *argv) == 0
    before = files(out)
    assert command(study, *argv, "--split", "test") == 0
    after = files(out)
    assert {name: after[name] for name in before} == before
    return out


def test_a_split_that_is_not_there_is_refused(shop, tmp_path, refused):
    message = refused(study, *shop.options, "--split", "test", "--out", tmp_path / "out")
    assert "--split 'test'" in message and "it has val" in message
    several = ["--data", shop.colours, colour_folder(tmp_path / "more", 2, 1), *shop.model, "--split", "train"]
    assert "training used these images" in refused(study, *several, "--out", tmp_path / "out")
