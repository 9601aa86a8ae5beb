"""A real name never holds half of anything."""

import os
import subprocess
import sys

import pytest

from common.files import atomic, remove_leftovers


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_with_its_parents_and_nothing_else(tmp_path):
    target = tmp_path / "new" / "deep" / "a.csv"
    with atomic(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists() and temporary.suffix == ".csv" and temporary.parent == target.parent
    assert target.read_text() == "whole" and names(target.parent) == ["a.csv"]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_content_and_no_temporary_file(tmp_path, kind):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(kind), atomic(target) as temporary:
        temporary.write_text("half")
        raise kind
    assert target.read_text() == "old" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_disk_that_says_only_at_the_end_that_it_is_full_leaves_the_old_content(tmp_path, monkeypatch, kind):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    target = tmp_path / "a"
    file = target / "b" if kind == "folder" else target
    file.parent.mkdir(exist_ok=True)
    file.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"left on device: '{target}'"), atomic(target) as temporary:
        if kind == "folder":
            temporary.mkdir()
        (temporary / "b" if kind == "folder" else temporary).write_text("new")
    assert file.read_text() == "old" and names(tmp_path) == ["a"]


def test_a_folder_replaces_a_folder_as_a_whole(tmp_path):
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "left from before").touch()
    with atomic(target) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert names(target) == ["new"] and names(tmp_path) == ["adapter"]


def test_a_failure_leaves_the_old_folder(tmp_path):
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError), atomic(target) as temporary:
        temporary.mkdir()
        (temporary / "half").touch()
        raise RuntimeError
    assert names(target) == ["old"] and names(tmp_path) == ["adapter"]


def test_a_file_where_a_folder_is_needed_is_the_file_systems_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError), atomic(tmp_path / "file" / "a.txt"):
        pass
    assert names(tmp_path) == ["file"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "adapter").mkdir()
    gone = [
        tmp_path / f".resume.{dead.pid}.safetensors",
        tmp_path / "adapter" / f".a.b.{dead.pid}.json",
        tmp_path / f".adapter.{dead.pid}",
    ]
    gone[2].mkdir()
    kept = [
        tmp_path / f".resume.{os.getpid()}.safetensors",
        tmp_path / ".hidden",
        tmp_path / "resume.1.safetensors",
        tmp_path / f"run.{dead.pid}.txt",
    ]
    for path in (*gone[:2], *kept):
        path.write_text("")
    remove_leftovers(tmp_path, age=60)
    assert all(path.exists() for path in (*gone, *kept)), "on another machine, somebody may be writing them"
    os.utime(gone[0], (0, 0))
    remove_leftovers(tmp_path, age=60)
    assert [path.exists() for path in gone] == [False, True, True] and all(path.exists() for path in kept)
    remove_leftovers(tmp_path)
    assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)
