"""A data set is checked before anything slow starts; every oddity is one line that says what to do."""

import shutil

import numpy as np
import pytest
from PIL import Image
from tiny import colour_folder

from common.errors import ExplainedError, UsageError
from common.names import nearest
from data.datasets import load_data
from data.options import DATA_SEED_LIMIT, DataOptions
from data.sampling import stratified
from data.scenes.scene import SPORTS


@pytest.fixture
def folder(tmp_path):
    return colour_folder(tmp_path / "photos", train=4, val=2)


def load(folder, **options):
    return load_data(DataOptions(str(folder), **options), image_size=32)


def refusal(folder, **options) -> str:
    """Return the line with which loading is refused."""
    with pytest.raises(UsageError) as caught:
        load(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What a folder holds


def test_a_clean_folder_loads_without_a_word(folder):
    data = load(folder)
    assert data.class_names == ("blue", "green", "red") and data.warnings == ()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "val": 6}
    train = data.splits["train"]
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert train.name(11) == "train/red/03.png" and np.asarray(train.image(11)).mean((0, 1)).argmax() == 0


def test_valid_is_another_name_for_val_and_test_is_kept_apart(folder):
    (folder / "val").rename(folder / "valid")
    shutil.copytree(folder / "valid" / "red", folder / "test" / "red")
    data = load(folder)
    assert set(data.splits) == {"train", "val", "test"} and len(data.splits["test"]) == 2


def test_a_class_that_validation_lacks_keeps_its_index(folder):
    shutil.rmtree(folder / "val" / "blue")
    data = load(folder)
    assert data.splits["val"].labels.tolist() == [1, 1, 2, 2]
    assert "no readable image for 1 class(es): blue" in data.warnings[0]


def test_what_notebooks_and_file_managers_leave_behind_is_ignored(folder):
    for hidden in (".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(folder / "train" / "red", folder / "train" / hidden)
        shutil.copytree(folder / "train" / "red", folder / "val" / hidden)
    (folder / "train" / "red" / "._1.jpg").write_bytes(b"\x00\x05\x16\x07")
    (folder / "train" / "red" / "159.lnk").write_bytes(b"shortcut")
    data = load(folder)
    assert data.class_names == ("blue", "green", "red") and len(data.splits["train"]) == 12 and data.warnings == ()


def test_unreadable_files_are_counted_and_ten_of_them_named(folder):
    for i in range(13):
        (folder / "train" / "red" / f"broken{i:02d}.jpg").write_bytes(b"" if i % 2 else b"<html>")
    whole = (folder / "val" / "red" / "00.png").read_bytes()
    (folder / "val" / "red" / "00.png").write_bytes(whole[:-500])
    data = load(folder)
    assert len(data.splits["train"]) == 12 and len(data.splits["val"]) == 5
    first, second = data.warnings
    assert first.startswith("13 unreadable file(s)") and first.count("broken") == 10 and first.endswith("and 3 more")
    assert second.startswith("1 unreadable file(s)") and "red/00.png" in second and "more" not in second


def test_identical_images_in_two_splits_are_counted_and_named(folder):
    shutil.copy(folder / "train" / "red" / "01.png", folder / "val" / "red" / "same.png")
    (warning,) = load(folder).warnings
    assert warning.startswith("1 image(s) of val are also in train (identical files)") and "val/red/same.png" in warning


# What is refused


def test_a_missing_folder(tmp_path):
    message = refusal(tmp_path / "nowhere")
    assert "nowhere does not exist" in message and "'scenes', 'sports', or a folder" in message


def test_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "photos.zip").touch()
    assert "photos.zip is a file" in refusal(tmp_path / "photos.zip")


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_folder_without_one_of_the_splits(folder, missing):
    (folder / missing).rename(folder / "others")
    message = refusal(folder)
    assert "holds others" in message and "expected train/ and val/ (or valid/)" in message


def test_a_folder_without_class_folders(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / split / "a.png")
    assert "has no class folders" in refusal(tmp_path)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_unknown_to_training(folder, split):
    for name in ("red", "violet"):
        shutil.copytree(folder / "train" / "red", folder / split / name, dirs_exist_ok=True)
    message = refusal(folder)
    assert "1 class(es)" in message and "violet" in message and "--classes" in message
    assert load(folder, classes=["red", "blue"]).class_names == ("blue", "red")  # as the message offers


def test_a_training_class_without_a_readable_image(folder):
    for path in (folder / "train" / "red").iterdir():
        path.write_bytes(b"")
    message = refusal(folder)
    assert "no readable image for red" in message and "--classes" in message


def test_validation_without_a_readable_image(folder):
    for path in (folder / "val").rglob("*.png"):
        path.unlink()
    assert "no readable image of the 3 training classes" in refusal(folder)


def test_one_class_is_no_classification(folder):
    assert "only one class (red)" in refusal(folder, classes=["red"])


def test_a_misspelt_class_is_met_with_the_nearest_names(folder):
    message = refusal(folder, classes=["red", "grean"])
    assert "no class 'grean'" in message and "did you mean 'green'" in message


def test_a_name_like_none_is_met_with_what_there_is():
    assert nearest("xyz", ["blue", "green"]) == "known: blue, green"


def test_scene_options_are_refused_for_folders_and_folder_options_for_scenes(folder):
    assert "--context-bias belongs to --data scenes" in refusal(folder, context_bias=0.5)
    assert "--classes chooses folders" in refusal("scenes", classes=["tennis"])


@pytest.mark.parametrize("seed", [-1, DATA_SEED_LIMIT])
def test_data_seeds_have_a_range(seed):
    assert f"give 0 to {DATA_SEED_LIMIT - 1}" in refusal("scenes", data_seed=seed)


def test_sports_without_network_says_how_to_get_them_by_hand(monkeypatch):
    kagglehub = pytest.importorskip("kagglehub")

    def unreachable(handle):
        raise ConnectionError("a long\nstory")

    monkeypatch.setattr(kagglehub, "dataset_download", unreachable)
    with pytest.raises(ExplainedError) as caught:
        load("sports")
    message = str(caught.value)
    assert "\n" not in message and "https://www.kaggle.com/datasets/gpiosenka" in message and "--data FOLDER" in message
    assert caught.value.exit_status == 1


def test_sports_come_from_kagglehubs_own_cache(monkeypatch, folder):
    kagglehub = pytest.importorskip("kagglehub")
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: str(folder))
    assert load("sports").fingerprint == load(folder).fingerprint


# Choosing images


def test_classes_keep_some_folders(folder):
    data = load(folder, classes=["red", "blue"])
    assert data.class_names == ("blue", "red") and data.splits["train"].labels.tolist() == [0] * 4 + [1] * 4


def test_train_images_and_val_images_limit_their_splits(folder):
    data = load(folder, train_images=6, val_images=3)
    assert data.splits["train"].labels.tolist() == [0, 0, 1, 1, 2, 2] and data.splits["val"].labels.tolist() == [
        0,
        1,
        2,
    ]


def test_a_limit_that_leaves_a_class_empty_is_refused(folder):
    assert "leaves classes without an image; give at least 3" in refusal(folder, train_images=2)


def test_stratified_keeps_the_shares():
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    assert np.bincount(labels[stratified(labels, 10, seed=0)]).tolist() == [6, 3, 1]
    assert np.bincount(labels[stratified(labels, 50, seed=3)]).tolist() == [30, 15, 5]


def test_a_smaller_choice_is_part_of_a_larger_one():
    labels = np.random.default_rng(0).integers(0, 7, 200)
    choices = [set(stratified(labels, count, seed=5)) for count in (1, 8, 50, 120, 200)]
    assert [len(choice) for choice in choices] == [1, 8, 50, 120, 200]
    assert all(small < large for small, large in zip(choices, choices[1:]))


def test_the_same_seed_chooses_the_same_images_and_another_seed_others():
    labels = np.arange(100) % 5
    assert (stratified(labels, 20, 1) == stratified(labels, 20, 1)).all()
    assert (stratified(labels, 20, 1) != stratified(labels, 20, 2)).any()


# The fingerprint


def test_the_fingerprint_knows_the_content_and_not_the_place(folder, tmp_path):
    before = load(folder).fingerprint
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert load(moved).fingerprint == before
    Image.new("RGB", (32, 32)).save(moved / "val" / "red" / "00.png")
    assert load(moved).fingerprint != before


def test_the_fingerprint_knows_which_images_were_chosen(folder):
    choices = [
        load(folder),
        load(folder, train_images=6),
        load(folder, train_images=6, data_seed=1),
        load(folder, classes=["red", "blue"]),
    ]
    assert len({data.fingerprint for data in choices}) == 4


# Drawn scenes


def scenes(**options):
    return load_data(DataOptions(train_images=2 * len(SPORTS), val_images=2 * len(SPORTS), **options), image_size=24)


def test_scenes_have_two_validation_splits_and_know_their_masks():
    data = scenes()
    assert list(data.splits) == ["train", "val", "val_shuffled"] and data.class_names == SPORTS
    val = data.splits["val"]
    assert val.image(0).size == (24, 24) and val.scene(0).label == val.labels[0] and val.name(3) == "val/00003"
    part = val.select([3, 1])
    assert len(part) == 2 and part.name(0) == "val/00003" and part.image(0).tobytes() == val.image(3).tobytes()


def test_the_scenes_fingerprint_follows_what_is_drawn():
    prints = {scenes().fingerprint, scenes(data_seed=1).fingerprint, scenes(context_bias=0.5).fingerprint}
    assert len(prints) == 3 and scenes().fingerprint in prints


@pytest.mark.parametrize(
    "options, words", [({"train_images": 5}, "too few"), ({"context_bias": 1.2}, "not a probability")]
)
def test_scenes_that_cannot_be_meant_are_refused(options, words):
    assert words in refusal("scenes", **options)
