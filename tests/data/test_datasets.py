"""A data set is checked before anything slow starts; every oddity is one line that says what to do."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from data import scan
from data.datasets import ImageData, load_data, nearest, stratified
from data.scenes import DATA_SEED_LIMIT, SPORTS
from errors import ExplainedError, UsageError
from tiny import colour_folder


@pytest.fixture
def folder(tmp_path):
    return colour_folder(tmp_path / "photos", train=4, val=2)


def load(folder, **options):
    return load_data(str(folder), image_size=32, **options)


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
    assert warning.startswith("1 image(s) of val are byte for byte in train") and "val/red/same.png" in warning


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
    assert data.splits["train"].labels.tolist() == [0, 0, 1, 1, 2, 2] and data.splits["val"].labels.tolist() == [0, 1, 2]


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
    choices = [load(folder), load(folder, train_images=6), load(folder, train_images=6, data_seed=1),
               load(folder, classes=["red", "blue"])]
    assert len({data.fingerprint for data in choices}) == 4


# Remembered scans


@pytest.fixture
def decoded(monkeypatch) -> list[bytes]:
    """The content of every file that a scan decoded."""
    contents: list[bytes] = []

    def counted(content):
        contents.append(content)
        return open_image(content)

    open_image = scan.open_image
    monkeypatch.setattr(scan, "open_image", counted)
    return contents


def same(one: ImageData, other: ImageData) -> bool:
    """Tell whether two loads found the same images in the same places, and had the same to say about them."""
    def content(data):
        return [(name, s.root, s.paths, s.labels.tolist(), s.digests) for name, s in data.splits.items()]

    return (content(one) == content(other) and one.fingerprint == other.fingerprint and one.warnings == other.warnings
            and one.class_names == other.class_names)


def change(path, content: bytes, later_ns: int = 10**9) -> None:
    """Write a file whose time of change is certainly another one, however coarse the file system's clock."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(content)
    os.utime(path, ns=(before + later_ns,) * 2)


def test_an_unchanged_file_is_decoded_once(folder, tmp_path, decoded):
    (folder / "train" / "red" / "broken.jpg").write_bytes(b"<html>")
    first = load(folder, cache=tmp_path / "cache")
    assert len(decoded) == 12 + 6 + 1 and len(first.warnings) == 1
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert same(load(folder, cache=tmp_path / "cache"), first) and len(decoded) == 19
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == written  # nothing new to write
    assert same(load(folder), first) and len(decoded) == 2 * 19


@pytest.mark.parametrize("same_size", [True, False])
def test_a_changed_file_is_decoded_again(folder, tmp_path, decoded, same_size):
    load(folder, cache=tmp_path / "cache")
    path, decoded[:] = folder / "val" / "red" / "00.png", []
    content = path.read_bytes() + b"\0" * (not same_size)  # Pillow does not mind what follows an image
    change(path, content, later_ns=int(same_size))  # size alone, or time alone by a nanosecond
    data = load(folder, cache=tmp_path / "cache")
    assert decoded == [content] and same(data, load(folder))
    assert same(load(folder, cache=tmp_path / "cache"), data) and len(decoded) == 1 + 18


def test_a_new_file_alone_is_decoded_and_a_deleted_one_vanishes(folder, tmp_path, decoded):
    load(folder, cache=tmp_path / "cache")
    decoded.clear()
    Image.new("RGB", (8, 8)).save(folder / "train" / "blue" / "new.png")
    (folder / "train" / "red" / "00.png").unlink()
    data = load(folder, cache=tmp_path / "cache")
    assert decoded == [(folder / "train" / "blue" / "new.png").read_bytes()]
    assert "blue/new.png" in data.splits["train"].paths and "red/00.png" not in data.splits["train"].paths
    assert same(data, load(folder))
    remembered = [set(json.loads(path.read_text())["files"]) for path in (tmp_path / "cache").iterdir()]
    assert sorted(remembered, key=len) == [set(data.splits["val"].paths), set(data.splits["train"].paths)]


def test_a_newly_broken_file_is_noticed_and_so_is_its_repair(folder, tmp_path, decoded):
    whole = load(folder, cache=tmp_path / "cache")
    path = folder / "val" / "red" / "00.png"
    content = path.read_bytes()
    change(path, content[:-500])
    broken = load(folder, cache=tmp_path / "cache")
    assert "red/00.png" in broken.warnings[0] and same(broken, load(folder, cache=tmp_path / "cache"))
    decoded.clear()
    change(path, content)
    assert same(load(folder, cache=tmp_path / "cache"), whole) and decoded == [content]


def test_a_file_that_could_not_be_read_is_tried_again(folder, tmp_path, monkeypatch):
    """Permissions and disks are mended without a change of the file. (A stand-in: a superuser may read everything.)"""
    whole, read, locked = load(folder), scan.Path.read_bytes, folder / "val" / "red" / "00.png"

    def refused(path):
        if path == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(scan.Path, "read_bytes", refused)
        assert "red/00.png" in load(folder, cache=tmp_path / "cache").warnings[0]
    assert same(load(folder, cache=tmp_path / "cache"), whole)


def test_some_classes_do_not_make_the_others_forgotten(folder, tmp_path, decoded):
    load(folder, cache=tmp_path / "cache")
    (folder / "train" / "red" / "00.png").unlink()
    some = load(folder, cache=tmp_path / "cache", classes=["red", "blue"])
    assert len(decoded) == 18 and same(some, load(folder, classes=["red", "blue"]))
    decoded.clear()
    load(folder, cache=tmp_path / "cache")
    assert not decoded


def test_two_folders_have_a_memory_each_and_a_moved_one_none(folder, tmp_path, decoded):
    other = shutil.copytree(folder, tmp_path / "other")
    Image.new("RGB", (8, 8)).save(other / "val" / "red" / "00.png")
    for _ in range(2):
        assert all(same(load(f, cache=tmp_path / "cache"), load(f)) for f in (folder, other))
    assert len(decoded) == (2 + 1 + 2 - 1 + 2) * 18  # two first scans, and four without a cache
    decoded.clear()
    load(other.rename(tmp_path / "moved"), cache=tmp_path / "cache")
    assert len(decoded) == 18
    (tmp_path / "link").symlink_to(folder)
    load(tmp_path / "link", cache=tmp_path / "cache")
    assert len(decoded) == 18  # the same folder by another name


@pytest.mark.parametrize("damage", [
    lambda text: text[: len(text) // 2], lambda text: "", lambda text: "[]", lambda text: "{}",
    lambda text: text.replace('"files":{', '"files":{"red/a.png":[1,2],'),
    lambda text: text.replace('"files":{', '"files":{"red/a.png":[1,2,"beef"],'),
    lambda text: json.dumps(json.loads(text) | {"files": [1]}), lambda text: "\udcff",
])
def test_a_damaged_memory_is_ignored_said_and_mended(folder, tmp_path, decoded, capsys, damage):
    data = load(folder, cache=tmp_path / "cache")
    before = {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    for path in before:
        path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    decoded.clear()
    capsys.readouterr()
    assert same(load(folder, cache=tmp_path / "cache"), data) and len(decoded) == 18
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and all("is damaged; reading" in line for line in said)
    assert {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == before


@pytest.mark.parametrize("change_of", [{"format": 0}, {"pillow": "1.0"}, {"folder": "/elsewhere"}])
def test_a_memory_of_another_version_or_folder_is_ignored_without_a_word(folder, tmp_path, decoded, capsys, change_of):
    load(folder, cache=tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | change_of))
    decoded.clear()
    capsys.readouterr()
    load(folder, cache=tmp_path / "cache")
    load(folder, cache=tmp_path / "cache")
    assert len(decoded) == 18 and capsys.readouterr().out == ""


def test_a_cache_that_cannot_be_written_is_the_file_systems_error(folder, tmp_path):
    """The commands look beforehand whether --cache can be written, so that this ends no long scan."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        load(folder, cache=tmp_path / "file")


# Drawn scenes


def scenes(**options):
    return load_data("scenes", image_size=24, train_images=2 * len(SPORTS), val_images=2 * len(SPORTS), **options)


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


@pytest.mark.parametrize("options, words", [({"train_images": 5}, "too few"), ({"context_bias": 1.2}, "no probability")])
def test_scenes_that_cannot_be_meant_are_refused(options, words):
    assert words in refusal("scenes", **options)
