"""Rows that were computed once are read again, and never trusted when damaged."""

import errno
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from common.errors import ExplainedError
from models.training import cache as cache_module
from models.training.cache import CARD, Cache, Rows

KEY = {"backbone": "abc", "data": "def", "split": "train", "size": (3, 4)}
COUNT, CHUNK = 11, 4  # chunks 0:4, 4:8, 8:11


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(cache_module, "CHUNK_ROWS", CHUNK)


class Computing:
    """Computes known rows and notes which; stops with an exception before a given chunk."""

    def __init__(self, stop_at: int | None = None, dtype=np.float32, add: float = 0) -> None:
        self.seen, self.stop_at = [], stop_at
        self.inputs = (np.random.default_rng(0).normal(size=(COUNT, 2, 3)) + add).astype(dtype)
        self.labels = np.arange(COUNT) * 10

    def __call__(self, spans):
        for start, stop in spans:
            if start == self.stop_at:
                raise KeyboardInterrupt
            self.seen.append((start, stop))
            yield {"inputs": self.inputs[start:stop], "labels": self.labels[start:stop]}


def new(folder, key=KEY, rows=COUNT) -> Cache:
    return Cache(folder, "tokens", key, rows, ("inputs", "labels"))


def filled(folder, compute, **options) -> dict[str, Rows]:
    cache = new(folder)
    cache.fill(compute, **options)
    return cache.open()


def chunk_files(folder, array="inputs"):
    return sorted(folder.glob(f"tokens-*/{array}-*.npy"))


def assert_right(found: dict[str, Rows], compute: Computing):
    assert torch.equal(found["inputs"].rows(range(COUNT)), torch.from_numpy(compute.inputs))
    assert torch.equal(found["labels"].rows(range(COUNT)), torch.from_numpy(compute.labels))


# ---- reading


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("on_disk", [True, False])
def test_rows_are_the_computed_ones_in_the_order_asked_for(tmp_path, dtype, on_disk):
    compute = Computing(dtype=dtype)
    found = filled(tmp_path if on_disk else None, compute)
    rows = found["inputs"]
    assert len(rows) == COUNT and rows.shape == (COUNT, 2, 3) and found["labels"].shape == (COUNT,)
    assert rows.dtype == torch.from_numpy(compute.inputs).dtype and found["labels"].dtype == torch.int64
    for indices in ([10, 0, 5, 5, 3], torch.tensor([7, 8]), np.array([4]), range(COUNT), []):
        expected = compute.inputs[np.asarray(indices, dtype=int)]
        assert torch.equal(rows.rows(indices), torch.from_numpy(expected))
    assert_right(found, compute)


@pytest.mark.parametrize("index", [-1, COUNT])
def test_a_row_that_is_not_there_is_refused(tmp_path, index):
    rows = filled(tmp_path, Computing())["inputs"]
    with pytest.raises(IndexError, match=str(index)):
        rows.rows([0, index])


def test_rows_on_disk_are_sent_to_loader_workers_as_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "CHUNK_ROWS", COUNT)
    compute = Computing()
    compute.inputs = np.random.default_rng(0).normal(size=(COUNT, 100, 100))
    rows = filled(tmp_path, compute)["inputs"]
    sent = pickle.dumps(rows)
    assert len(sent) < 2000 < compute.inputs.nbytes
    assert torch.equal(pickle.loads(sent).rows([3]), rows.rows([3]))


def test_rows_on_disk_are_mapped(tmp_path):
    rows = filled(tmp_path, Computing())["inputs"]
    assert all(isinstance(rows._chunk(number), np.memmap) for number in range(3))


def test_the_copy_can_be_changed_and_the_cache_stays(tmp_path):
    compute = Computing()
    rows = filled(tmp_path, compute)["inputs"]
    rows.rows([1]).zero_()
    assert torch.equal(rows.rows([1]), torch.from_numpy(compute.inputs[[1]]))


# ---- computing once


def test_chunks_are_computed_once_and_numpy_reads_them(tmp_path, capsys):
    first, again = Computing(), Computing()
    filled(tmp_path, first)
    assert_right(filled(tmp_path, again), first)
    assert first.seen == [(0, 4), (4, 8), (8, 11)] and again.seen == []
    assert np.array_equal(np.concatenate([np.load(path) for path in chunk_files(tmp_path)]), first.inputs)
    assert capsys.readouterr().out == ""


def test_without_a_folder_nothing_is_written_or_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for rank in (0, 1):
        compute = Computing()
        assert_right(filled(None, compute, rank=rank, count=2), compute)
        assert len(compute.seen) == 3  # processes share no memory, so each computes all
    assert not list(tmp_path.iterdir())


def test_an_interrupted_computation_goes_on_at_the_missing_chunk(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        new(tmp_path).fill(Computing(stop_at=8))
    again = Computing()
    assert_right(filled(tmp_path, again), again)
    assert again.seen == [(8, 11)] and capsys.readouterr().out == ""  # what is missing is not damaged


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    filled(tmp_path, Computing())
    (folder,) = tmp_path.iterdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, new = (folder / f".inputs-{number}.{dead.pid}.npy" for number in "12")
    for path in (left, new):
        path.write_bytes(b"half")
    os.utime(left, (0, 0))
    filled(tmp_path, Computing())
    assert not left.exists() and new.exists(), "a new one may be written by another machine"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_processes_fill_one_cache(tmp_path, order):
    caches, computes = [new(tmp_path), new(tmp_path)], [Computing(), Computing()]
    for rank in order:
        caches[rank].fill(computes[rank], rank, 2)
    assert [compute.seen for compute in computes] == [[(0, 4), (8, 11)], [(4, 8)]]
    for cache in caches:
        assert_right(cache.open(), computes[0])


def test_what_another_process_still_owes_is_told(tmp_path):
    cache = new(tmp_path)
    cache.fill(Computing(), 0, 2)
    with pytest.raises(ExplainedError, match="lacks 1 of its 3 chunks"):
        cache.open()


def test_two_processes_that_compute_the_same_chunks_do_no_harm(tmp_path, capsys):
    """Both find nothing and compute all; on other hardware the second has other last bits."""
    one, other, both = Computing(), Computing(add=1e-6), new(tmp_path)

    def meanwhile(spans):
        new(tmp_path).fill(other)
        yield from one(spans)

    both.fill(meanwhile)
    assert len(one.seen) == len(other.seen) == 3
    assert_right(both.open(), one)
    found, late = filled(tmp_path, compute := Computing()), len(chunk_files(tmp_path))
    assert compute.seen == [] and late == 6 and capsys.readouterr().out == ""
    assert torch.allclose(found["inputs"].rows(range(COUNT)), torch.from_numpy(one.inputs), atol=1e-5)


# ---- keys


@pytest.mark.parametrize("change", [{"backbone": "other"}, {"size": (4, 3)}, {"view": 1}])
def test_another_key_is_another_cache(tmp_path, change):
    new(tmp_path).fill(Computing())
    new(tmp_path, KEY | change).fill(other := Computing())
    assert len(other.seen) == 3 and len(list(tmp_path.iterdir())) == 2


def test_the_order_of_a_key_makes_no_difference(tmp_path):
    assert new(tmp_path).path == new(tmp_path, dict(reversed(KEY.items()))).path


def test_another_number_of_rows_is_another_cache(tmp_path):
    assert new(tmp_path).path != new(tmp_path, rows=COUNT - 1).path


def test_the_card_says_what_a_folder_holds(tmp_path):
    filled(tmp_path, Computing())
    card = json.loads((new(tmp_path).path / CARD).read_text())
    assert card == {
        "kind": "tokens",
        "key": KEY | {"size": [3, 4]},
        "rows": COUNT,
        "arrays": ["inputs", "labels"],
        "chunk_rows": CHUNK,
    }


# ---- damage


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def poison(path):
    """Put a NaN where the checksum fits: what a program without this check would have written."""
    array = np.load(path)
    array[0] = np.nan
    path.unlink()
    new(path.parents[1])._write((4, 8), {"inputs": array})


def misplace(path):
    """Put the first chunk, under its own checksum, where the second belongs."""
    first = chunk_files(path.parents[1])[0]
    path.unlink()
    path.with_name(first.name.replace("-000000000-000000004-", "-000000004-000000008-")).write_bytes(first.read_bytes())


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"0"),
    "a flipped bit": lambda path: flip(path, -1),
    "a flipped bit in the header": lambda path: flip(path, path.read_bytes().index(b"descr")),
    "another type": lambda path: path.write_bytes(path.read_bytes().replace(b"<f4", b"<i4")),
    "another shape": lambda path: path.write_bytes(path.read_bytes().replace(b"(4, 2, 3)", b"(4, 3, 2)")),
    "another chunk's content": lambda path: path.write_bytes(chunk_files(path.parents[1])[0].read_bytes()),
    "another chunk": misplace,
    "text": lambda path: path.write_text("not an array"),
    "not finite": poison,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_chunk_alone_is_computed_again_with_a_line(tmp_path, capsys, damage):
    filled(tmp_path, Computing())
    before = chunk_files(tmp_path)[1].read_bytes()
    DAMAGES[damage](chunk_files(tmp_path)[1])
    assert all(path.read_bytes() != before for path in chunk_files(tmp_path))
    compute = Computing()
    assert_right(filled(tmp_path, compute), compute)
    assert compute.seen == [(4, 8)]
    assert capsys.readouterr().out == (
        f"the cache {new(tmp_path).path} is damaged: 1 of its 3 chunks are computed again\n"
    )
    assert len(chunk_files(tmp_path)) == 3  # the damaged file is gone
    filled(tmp_path, repaired := Computing())
    assert repaired.seen == [] and capsys.readouterr().out == ""


def test_filling_again_checks_again(tmp_path):
    cache = new(tmp_path)
    cache.fill(Computing())
    flip(chunk_files(tmp_path)[1], -1)
    cache.fill(compute := Computing())
    assert compute.seen == [(4, 8)]
    assert_right(cache.open(), compute)


def test_a_chunk_of_another_key_is_damage(tmp_path, capsys):
    """Same name, rows, type and shape: only the checksum knows."""
    other = new(tmp_path / "other", KEY | {"backbone": "other"})
    other.fill(Computing(add=1))
    filled(tmp_path, Computing())
    for path in chunk_files(tmp_path):
        path.unlink()
    for path in chunk_files(tmp_path / "other"):
        path.rename(new(tmp_path).path / path.name)
    assert_right(filled(tmp_path, compute := Computing()), compute)
    assert len(compute.seen) == 3 and "3 of its 3 chunks" in capsys.readouterr().out


def test_damage_in_another_processs_share_is_told_by_the_first(tmp_path, capsys):
    filled(tmp_path, Computing())
    flip(chunk_files(tmp_path)[1], -1)
    caches, computes = [new(tmp_path), new(tmp_path)], [Computing(), Computing()]
    for rank in (0, 1):
        caches[rank].fill(computes[rank], rank, 2)
    assert computes[0].seen == [] and computes[1].seen == [(4, 8)]
    assert_right(caches[0].open(), computes[0])
    out = capsys.readouterr().out
    assert "1 of its 3 chunks" in out and out.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"key": "another"}', None])
def test_the_card_is_compared_with_the_key_and_mended(tmp_path, capsys, text):
    filled(tmp_path, Computing())
    card = new(tmp_path).path / CARD
    right = card.read_text()
    card.unlink() if text is None else card.write_text(text)
    filled(tmp_path, compute := Computing())
    assert card.read_text() == right and compute.seen == []  # the chunks prove themselves
    assert ("0 of its 3 chunks are computed again, and its card.json is rewritten" in capsys.readouterr().out) == (
        text is not None
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_before_they_are_kept(tmp_path, value, dtype):
    for folder in (tmp_path, None):
        compute = Computing(dtype=dtype)
        compute.inputs[5] = value
        with pytest.raises(ExplainedError, match="not finite"):
            new(folder).fill(compute)
    assert len(chunk_files(tmp_path)) == 1  # the chunk before


def test_the_largest_half_is_kept(tmp_path):
    compute = Computing(dtype=np.float16)
    compute.inputs[5] = np.finfo(np.float16).min
    assert_right(filled(tmp_path, compute), compute)


# ---- the file system


def test_a_full_disk_is_the_file_systems_error_and_leaves_no_half_chunk(tmp_path):
    resource = pytest.importorskip("resource")
    compute = Computing()
    compute.inputs = np.repeat(compute.inputs, 1000, axis=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError) as error:
            new(tmp_path).fill(compute)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno == errno.EFBIG
    assert [path.name for path in new(tmp_path).path.iterdir()] == [CARD]


def test_a_folder_that_cannot_be_made_is_the_file_systems_error_before_anything_is_computed(tmp_path, capsys):
    (tmp_path / "file").touch()
    compute = Computing()
    with pytest.raises(OSError):
        new(tmp_path / "file").fill(compute)
    assert compute.seen == [] and capsys.readouterr().out == ""
