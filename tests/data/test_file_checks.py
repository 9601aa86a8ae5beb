"""Unchanged files of a folder are decoded once: later scans use the cached checks."""

import json
import os
import shutil

import pytest
from PIL import Image
from tiny import colour_folder

from data import file_checks as scan
from data.datasets import ImageData, load_data
from data.options import DataOptions


@pytest.fixture
def folder(tmp_path):
    return colour_folder(tmp_path / "photos", train=4, val=2)


def load(folder, cache=None, **options):
    return load_data(DataOptions(str(folder), **options), image_size=32, cache=cache)


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

    return (
        content(one) == content(other)
        and one.fingerprint == other.fingerprint
        and one.warnings == other.warnings
        and one.class_names == other.class_names
    )


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
    cached = [set(json.loads(path.read_text())["files"]) for path in (tmp_path / "cache").iterdir()]
    assert sorted(cached, key=len) == [set(data.splits["val"].paths), set(data.splits["train"].paths)]


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


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"files":{', '"files":{"red/a.png":[1,2],'),
        lambda text: text.replace('"files":{', '"files":{"red/a.png":[1,2,"beef"],'),
        lambda text: json.dumps(json.loads(text) | {"files": [1]}),
        lambda text: "\udcff",
    ],
)
def test_a_damaged_memory_is_ignored_said_and_mended(folder, tmp_path, decoded, capsys, damage):
    data = load(folder, cache=tmp_path / "cache")
    before = {path: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    for path in before:
        path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    decoded.clear()
    capsys.readouterr()
    assert same(load(folder, cache=tmp_path / "cache"), data) and len(decoded) == 18
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and all("are damaged; checking" in line for line in said)
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
    """Commands check before the scan whether --cache can be written."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        load(folder, cache=tmp_path / "file")
