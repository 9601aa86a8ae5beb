"""compare.py reads, explains and forgets its images a batch at a time, and leaves no half work behind."""

import weakref

import numpy as np
import pytest
from running import command, files

import compare
from evaluation import explained


@pytest.fixture
def watched(monkeypatch):
    """Keep a weak reference to every batch of images that is explained; `each` is called before, with their number."""

    def watch(each) -> list:
        alive, explain = [], explained.relevance

        def relevance(model, images, *arguments, **options):
            alive.append(weakref.ref(images))
            each(sum(reference() is not None for reference in alive))
            return explain(model, images, *arguments, **options)

        monkeypatch.setattr(explained, "relevance", relevance)
        return alive

    return watch


def test_images_are_forgotten_when_the_next_batch_is_read(shop, tmp_path, watched):
    living = []
    seen = watched(living.append)
    assert command(compare, shop.linear, shop.dora, "--batch-size", 3, "--rows", 1, "--out", tmp_path) == 0
    assert len(seen) == 2 * 18 / 3 and max(living) <= 2


def test_the_size_of_batches_changes_nothing_but_rounding(shop, tmp_path):
    maps = []
    for size in (5, 18):
        out = tmp_path / str(size)
        assert command(compare, shop.linear, shop.dora, "--batch-size", size, "--rows", 1, "--out", out) == 0
        maps.append(np.load(out / "maps.npz"))
    assert all(np.array_equal(maps[0][name], maps[1][name]) for name in maps[0] if not name.startswith("maps_"))
    for name in ("maps_0", "maps_1"):
        assert np.allclose(maps[0][name], maps[1][name], rtol=1e-4, atol=1e-6 * maps[1][name].max())


def test_a_comparison_interrupted_among_its_batches_leaves_nothing(shop, tmp_path, watched, capsys):
    def interrupt(living: int) -> None:
        if len(seen) == 8:  # in the second run's maps, when the first's are written
            assert any(name.endswith("maps-0.npy") for name in files(tmp_path))
            raise KeyboardInterrupt

    seen = watched(interrupt)
    assert command(compare, shop.linear, shop.dora, "--batch-size", 3, "--rows", 1, "--out", tmp_path) == 130
    assert not files(tmp_path)
    assert capsys.readouterr().err == "interrupted; the same command continues after the last finished step\n"
